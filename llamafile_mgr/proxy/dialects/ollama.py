"""The Ollama dialect: embeddings, lists of models, and chat translated to and from OpenAI's.

Shapes: ollama-python 0.6.3 and ollama-js 0.6.4 as recorded, and Ollama's API document.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from llamafile_mgr.catalog import Role
from llamafile_mgr.embedding.requests import EmbedRequest, EmbedResult, Truncation
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.proxy.dialects.fields import read_dimensions, read_truncation
from llamafile_mgr.proxy.dialects.texts import read_texts

__all__ = [
    "API_LEVEL",
    "BANNER",
    "OllamaEmbedding",
    "bare_name",
    "parse_embed",
    "render_embed",
    "render_running",
    "render_show",
    "render_tags",
]

#: What programs look for at ``/`` to see that a server speaks Ollama's API.
BANNER = "Ollama is running"
#: The release of Ollama whose API this follows; programs compare it with the least they need.
API_LEVEL = "0.12.6"
_FOR_EVER = "2318-01-01T00:00:00Z"
_CAPABILITIES = {Role.EMBED: ["embedding"], Role.GENERATE: ["completion"], Role.RERANK: ["rerank"]}


@dataclass(frozen=True, slots=True)
class OllamaEmbedding:
    """A parsed call; ``legacy``: it came with ``prompt`` and wants one vector under ``embedding``."""

    request: EmbedRequest
    legacy: bool


def bare_name(name: str) -> str:
    """Return a model's name without the tag that Ollama's programs append by themselves."""
    return name.removesuffix(":latest")


def parse_embed(body: dict[str, Any]) -> OllamaEmbedding:
    """Parse the body of ``/api/embed`` or ``/api/embeddings``. Long texts are cut unless told otherwise.

    Raises:
        RequestError: no usable text.
    """
    legacy = "input" not in body and "prompt" in body
    texts, _ = read_texts(body, "prompt" if legacy else "input", least=1 if legacy else 0)
    request = EmbedRequest(
        texts,
        truncation=read_truncation(body, "truncate", default=Truncation.RIGHT),
        dimensions=read_dimensions(body, "dimensions"),
    )
    return OllamaEmbedding(request, legacy)


def render_embed(call: OllamaEmbedding, result: EmbedResult, model: str, seconds: float) -> dict[str, Any]:
    """Return the vectors; ``seconds`` is what the call took."""
    if call.legacy:
        return {"embedding": result.vectors[0]}
    return {
        "model": model,
        "embeddings": list(result.vectors),
        "total_duration": int(seconds * 1e9),
        "load_duration": 0,
        "prompt_eval_count": result.prompt_tokens,
    }


def render_tags(plans: list[tuple[Plan, int, float]]) -> dict[str, Any]:
    """Return ``/api/tags`` for plans with their file's size in bytes and its time of change."""
    return {"models": [_entry(plan, size, changed) for plan, size, changed in plans]}


def render_running(plans: list[tuple[Plan, int, float]]) -> dict[str, Any]:
    """Return ``/api/ps``: every model here stays loaded."""
    return {
        "models": [
            {
                **_entry(plan, size, changed),
                "expires_at": _FOR_EVER,
                "size_vram": 0 if plan.settings.gpu in (None, "disable") else size,
                "context_length": plan.max_tokens or plan.settings.context,
            }
            for plan, size, changed in plans
        ]
    }


def render_show(plan: Plan, size: int, changed: float) -> dict[str, Any]:
    """Return ``/api/show``."""
    entry = _entry(plan, size, changed)
    return {
        "modelfile": f"# served by llamafile-mgr\nFROM {plan.name}\n",
        "parameters": "",
        "template": "{{ .Prompt }}",
        "license": plan.model.licence if plan.model else "",
        "details": entry["details"],
        "model_info": {
            "general.architecture": _architecture(plan),
            f"{_architecture(plan)}.context_length": plan.max_tokens or plan.settings.context,
            f"{_architecture(plan)}.embedding_length": plan.dimensions,
        },
        "capabilities": _CAPABILITIES[plan.role],
        "modified_at": entry["modified_at"],
    }


def _architecture(plan: Plan) -> str:
    return (plan.model.architecture if plan.model else None) or "llama"


def _entry(plan: Plan, size: int, changed: float) -> dict[str, Any]:
    family = _architecture(plan)
    return {
        "name": plan.name,
        "model": plan.name,
        "modified_at": datetime.fromtimestamp(changed, UTC).isoformat().replace("+00:00", "Z"),
        "size": size,
        "digest": plan.weights_digest or "",
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": family,
            "families": [family],
            "parameter_size": "",
            "quantization_level": plan.quantisation or "",
        },
    }
