"""The OpenAPI document, and requests made from it: whatever it allows is answered, whatever comes is 4xx."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.service import Service

SLOW = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
WORDS = st.text("ab c\u00e9\u4e2d\U0001f600\x00\n\"'<", max_size=12)


@pytest.fixture(scope="module")
def http(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def document(http: httpx.Client) -> dict[str, Any]:
    return dict(http.get("/openapi.json").json())


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return values that the schema allows, within the part of JSON Schema that the document uses."""
    if "anyOf" in schema:
        return st.one_of([values(each) for each in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema["type"]
    if kind == "object":
        properties = {name: values(each) for name, each in schema.get("properties", {}).items()}
        required = {name: properties.pop(name) for name in schema.get("required", ()) if name in properties}
        return st.fixed_dictionaries(required, optional=properties)
    if kind == "array":
        return st.lists(values(schema["items"]), min_size=schema.get("minItems", 0), max_size=3)
    if kind == "integer":
        return st.integers(schema.get("minimum", -9), schema.get("maximum", 9))
    return {"string": WORDS, "boolean": st.booleans(), "number": st.floats(0, 1)}[kind]


def matches(value: Any, schema: dict[str, Any]) -> bool:
    """Tell whether an error body has the documented form."""
    kinds: dict[str, type[Any]] = {"object": dict, "string": str}
    return isinstance(value, kinds[schema["type"]]) and all(
        name in value and ("type" not in part or matches(value[name], part))
        for name, part in {
            **{name: {} for name in schema.get("required", ())},
            **schema.get("properties", {}),
        }.items()
    )


def posts(document: dict[str, Any]) -> list[str]:
    return sorted(path for path, methods in document["paths"].items() if "post" in methods)


def check(document: dict[str, Any], path: str, reply: httpx.Response) -> None:
    """Raise unless the answer is documented, and no fault of ours or the engine's."""
    described = document["paths"][path]["post"]["responses"]
    assert str(reply.status_code) in described, (path, reply.text)
    assert reply.status_code < 500, (path, reply.text)
    if reply.status_code != 200:
        schema = described[str(reply.status_code)]["content"]["application/json"]["schema"]
        assert matches(reply.json(), schema), reply.text


def test_every_route_is_described(document: dict[str, Any], http: httpx.Client) -> None:
    assert document["openapi"] == "3.1.0"
    for path, methods in document["paths"].items():
        if "get" in methods and "{" not in path:
            assert http.get(path).status_code == 200, path
    operations = [each["operationId"] for methods in document["paths"].values() for each in methods.values()]
    assert len(operations) == len(set(operations))


@settings(SLOW, max_examples=150)
@given(st.data())
def test_what_the_document_allows_is_answered(
    document: dict[str, Any], http: httpx.Client, data: Any
) -> None:
    path = data.draw(st.sampled_from(posts(document)))
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    check(document, path, http.post(path, json=data.draw(values(schema))))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [
        *("input", "content", "prompt", "inputs", "texts", "messages", "documents", "query", "tokens"),
        *("model", "stream", "options", "truncate"),
    ]
)


@SLOW
@given(st.data())
def test_any_json_is_answered_or_refused(document: dict[str, Any], http: httpx.Client, data: Any) -> None:
    path = data.draw(st.sampled_from(posts(document)))
    body = data.draw(st.dictionaries(KEYS, JSON, max_size=4))
    body |= {"max_tokens": 2, "n_predict": 2, "options": {"num_predict": 2}}
    check(document, path, http.post(path, content=json.dumps(body).encode("utf-8", "surrogatepass")))


@SLOW
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(document: dict[str, Any], http: httpx.Client, data: bytes) -> None:
    check(document, "/v1/embeddings", http.post("/v1/embeddings", content=data))
