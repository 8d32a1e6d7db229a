"""Words that dialects describe their bodies with, and their JSON Schema in OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Schema: TypeAlias = Mapping[str, Any]

_TEXT: Schema = {"type": "string"}
OBJECT: Schema = {"type": "object"}
_FLAG: Schema = {"type": "boolean"}
_TEXT_LIST: Schema = {"type": "array", "items": _TEXT, "minItems": 1}
_MESSAGE: Schema = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"enum": ["system", "user", "assistant"]}, "content": _TEXT},
}
_WORDS: Mapping[str, Schema] = {
    "text": _TEXT,
    "texts": {"anyOf": [_TEXT, _TEXT_LIST]},
    "text list": _TEXT_LIST,
    "flag": _FLAG,
    "object": OBJECT,
    "count": {"type": "integer", "minimum": 1},
    "limit": {"type": "integer", "minimum": 1, "maximum": 64},
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "share": {"type": "number", "minimum": 0, "maximum": 1},
    "seed": {"type": "integer", "minimum": 0, "maximum": 2**31},
    "messages": {"type": "array", "minItems": 1, "items": _MESSAGE},
    "input type": {"enum": ["query", "document", "search_query", "search_document", "none"]},
    "truncation": {"anyOf": [_FLAG, {"enum": ["none", "right", "left", "chunk"]}]},
}
#: What every way to generate text reads.
SAMPLING = {"temperature": "temperature", "top_p": "share", "seed": "seed", "stream": "flag"}


def object_schema(**properties: str | Schema) -> Schema:
    """Return the schema of an object; a property is a word of ours or a schema."""
    schemas = {key: _WORDS[each] if isinstance(each, str) else each for key, each in properties.items()}
    return {"type": "object", "properties": schemas}


def body_schema(required: Sequence[str], **properties: str | Schema) -> Schema:
    """Return the schema of a body, which may name a model. Unknown keys and nulls are dropped everywhere."""
    return {**object_schema(model="text", **properties), "required": list(required)}
