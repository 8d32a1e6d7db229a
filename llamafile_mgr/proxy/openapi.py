"""The OpenAPI document of our own routes, made from what the dialects bring. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llamafile_mgr import __version__
from llamafile_mgr.proxy.dialects.dialect import Dialect, Route
from llamafile_mgr.proxy.dialects.schemas import Schema

_SPACE: Schema = {
    "type": "string",
    "description": "Fingerprints of the vector spaces that fit the caller's index, as in If-Match",
}
_STATUSES = {
    "200": "The answer",
    "400": "The request cannot be answered as it was sent",
    "401": "An API key is needed",
    "403": "A foreign host or origin, or the administrator's route",
    "404": "No such model",
    "409": "The vectors would be of another space than If-Vector-Space names; x-vector-space says of which",
    "408": "The body did not come in time",
    "413": "The body is too large",
    "429": "The queue is full; Retry-After says when to come back",
    "502": "The engine failed",
    "503": "The model is not ready; Retry-After says when to come back",
    "504": "There was no answer in time",
}


def render_openapi(dialects: Sequence[Dialect]) -> dict[str, Any]:
    """Return the document, OpenAPI 3.1."""
    paths: dict[str, dict[str, Any]] = {}
    for dialect in dialects:
        for route in dialect.routes:
            paths.setdefault(route.path, {})[route.method.lower()] = _describe(dialect, route, dialects)
    return {
        "openapi": "3.1.0",
        "info": {"title": "llamafile-mgr", "version": __version__},
        "paths": paths,
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _describe(dialect: Dialect, route: Route, dialects: Sequence[Dialect]) -> dict[str, Any]:
    error = {"application/json": {"schema": dialect.error_schema}}
    described: dict[str, Any] = {
        "operationId": f"{route.method.lower()}{route.path.replace('/', '_').strip('{}')}",
        "tags": [dialect.name],
        "responses": {
            status: {"description": text} if status == "200" else {"description": text, "content": error}
            for status, text in _STATUSES.items()
        },
        "security": [] if route.public else [{}, {"key": []}],
    }
    if "{name}" in route.path:
        described["parameters"] = [
            {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    if route.conditional:
        described["parameters"] = [{"name": "If-Vector-Space", "in": "header", "schema": _SPACE}]
    if route.method == "POST":
        schema = _body(route, dialects)
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return described


def _body(route: Route, dialects: Sequence[Dialect]) -> Schema:
    """Return the schema of every body that the route reads."""
    schemas = [route.schema]
    for dialect in dialects:
        form = getattr(dialect, route.shared) if route.shared is not None else None
        if form is not None and form.schema not in schemas:
            schemas.append(form.schema)
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
