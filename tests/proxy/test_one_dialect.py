"""A dialect is one object in one file: nothing else names it, and one from elsewhere is served as it is."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llamafile_mgr.catalog import Role
from llamafile_mgr.embedding.requests import EmbedRequest
from llamafile_mgr.errors import Error
from llamafile_mgr.proxy.dialects.dialect import Dialect, EmbedCall, Form, Route
from llamafile_mgr.proxy.dialects.dialect_table import DIALECTS
from llamafile_mgr.proxy.dialects.fields import read_texts
from llamafile_mgr.proxy.dialects.schemas import body_schema, object_schema
from llamafile_mgr.proxy.front import Front
from llamafile_mgr.proxy.http import Reply, Request, json_reply
from llamafile_mgr.proxy.routes.embedding import embedding_route
from llamafile_mgr.proxy.routes.generation import generation_route
from tests.support.front import FakeModel, RunningFront, running_front

PACKAGE = Path(__file__).parents[2] / "llamafile_mgr"
PROXY = PACKAGE / "proxy"
TABLE = PROXY / "dialects" / "dialect_table.py"
#: The product has the name of this one: only imports tell that it is meant.
PRODUCT = "llamafile"


def module_of(dialect: Dialect) -> str:
    return f"llamafile_mgr.proxy.dialects.{dialect.name}"


def file_of(dialect: Dialect) -> Path:
    return PROXY / "dialects" / f"{dialect.name}.py"


def words_of(tree: ast.Module) -> Iterator[str]:
    """Yield the names and texts of a module, without what its docstrings say to readers."""
    texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in texts:
            yield node.value
        for field in ("id", "attr", "name", "arg", "asname"):
            if isinstance(said := getattr(node, field, None), str):
                yield said


def imports_of(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names)


def names(path: Path, source: str, dialect: Dialect) -> bool:
    """Tell whether a file imports a dialect, or within the proxy says its name.

    Elsewhere the word means what clients read from their environment, or the shape of an engine's reply.
    """
    tree = ast.parse(source)
    if any(f"{name}.".startswith(f"{module_of(dialect)}.") for name in imports_of(tree)):
        return True
    if PROXY not in path.parents or dialect.name == PRODUCT:
        return False
    word = re.compile(rf"(?<![A-Za-z])(?i:{dialect.name})(?![a-z])|(?<=[a-z]){dialect.name.title()}(?![a-z])")
    return any(word.search(said) for said in words_of(tree))


def named_in(dialect: Dialect) -> set[Path]:
    files = [file_of(dialect), *PACKAGE.rglob("*.py")]
    return {path for path in files if names(path, path.read_text(encoding="utf-8"), dialect)}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_two_files_know_a_dialect(dialect: Dialect) -> None:
    """Its own and the table; those are what a new one touches."""
    assert getattr(importlib.import_module(module_of(dialect)), dialect.name.upper()) is dialect
    assert named_in(dialect) | {file_of(dialect)} == {file_of(dialect), TABLE}


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("proxy", "from llamafile_mgr.proxy.dialects.ollama import OLLAMA"),
        ("cli", "from llamafile_mgr.proxy.dialects import ollama"),
        ("proxy", "def ask_ollama(): pass"),
        ("proxy", "class OllamaCall: pass"),
        ("proxy", "class OldOllamaCall: pass"),
        ("proxy", "x = {'kind': 'ollama'}"),
        ("proxy", "x = front.Ollama"),
    ],
)
def test_a_name_elsewhere_is_found(room: str, line: str) -> None:
    (ollama,) = (dialect for dialect in DIALECTS if dialect.name == "ollama")
    assert names(PACKAGE / room / "x.py", line, ollama)
    assert not names(PACKAGE / room / "x.py", '"""What Ollama asks."""', ollama)


def test_dialects_and_engine_families_never_meet() -> None:
    families = re.compile(r"llamafile_mgr\.(llamafile\.family|engines\.(families|v\d+|embedded)\b)")
    for path in (PROXY / "dialects").glob("*.py"):
        met = [name for name in imports_of(ast.parse(path.read_text("utf-8"))) if families.match(name)]
        assert not met, path


def test_no_route_is_brought_twice() -> None:
    routes = [(route.method, route.path) for dialect in DIALECTS for route in dialect.routes]
    assert len(routes) == len(set(routes))


def parse_verses(request: Request, body: dict[str, Any]) -> EmbedCall:
    texts, _ = read_texts(body, "verses")
    return EmbedCall(EmbedRequest(texts), lambda result, model, _: {model: len(result.vectors)})


async def list_poets(front: Front, request: Request) -> Reply:
    return json_reply({"poets": [pool.plan.name for pool in front.pools]})


def lament(error: Error) -> dict[str, Any]:
    return {"alas": error.message}


VERSES = Form(parse_verses, body_schema(["verses"], verses="texts"), claims=lambda _, body: "verses" in body)
POET = Dialect(
    "poet",
    (
        Route("GET", "/poet/poets", list_poets),
        embedding_route("/poet/embed", VERSES),
        generation_route("/poet/write", "/v1/completions", body_schema(["prompt"], prompt="text")),
    ),
    lament,
    {**object_schema(alas="text"), "required": ["alas"]},
    banner="A poet sits here",
    embed=VERSES,
)
MODELS = [FakeModel("e"), FakeModel("g", Role.GENERATE)]


def client(running: RunningFront) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=running.url, timeout=20)


async def test_a_dialect_from_elsewhere_is_served(tmp_path: Path) -> None:
    async with (
        running_front(tmp_path, MODELS, dialects=(*DIALECTS, POET)) as running,
        client(running) as http,
    ):
        assert (await http.get("/poet/poets")).json() == {"poets": ["e", "g"]}
        assert (await http.post("/poet/embed", json={"verses": ["a", "b"]})).json() == {"e": 2}
        assert (await http.post("/poet/write", json={"prompt": "x"})).json()["choices"]
        # Its errors have its form, and those of its shared routes have the form of their own dialect.
        refused = await http.post("/poet/embed", json={})
        assert (refused.status_code, refused.json()) == (400, {"alas": "the body has no 'verses'"})
        assert (await http.post("/v1/embeddings", json={"verses": "a"})).json() == {"e": 1}
        wrong = await http.post("/v1/embeddings", json={"verses": [3]})
        assert wrong.json()["error"]["message"].startswith("'verses' holds token ids")
        assert (await http.post("/v1/embeddings", json={"input": "a"})).json()["object"] == "list"
        paths = (await http.get("/openapi.json")).json()["paths"]
        described = paths["/poet/embed"]["post"]
        assert described["tags"] == ["poet"]
        assert described["requestBody"]["content"]["application/json"]["schema"] == VERSES.schema
        assert described["responses"]["400"]["content"]["application/json"]["schema"] == POET.error_schema
        assert described["parameters"][0]["name"] == "If-Vector-Space"
        shared = paths["/v1/embeddings"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert VERSES.schema in shared["anyOf"]


async def test_a_dialect_needs_no_other(tmp_path: Path) -> None:
    async with running_front(tmp_path, MODELS, dialects=(POET,)) as running, client(running) as http:
        assert (await http.post("/poet/embed", json={"verses": "a"})).json() == {"e": 1}
        assert (await http.get("/")).text == "A poet sits here"
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/ready")).status_code == 200
        for dialect in DIALECTS:
            for route in dialect.routes:
                assert (await http.request(route.method, route.path)).status_code == 404, route.path
