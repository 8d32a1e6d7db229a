"""Texts to tokens in every dialect's form, and tokens to text."""

from __future__ import annotations

from functools import partial
from typing import Any

from llamafile_mgr.catalog import Role
from llamafile_mgr.engines.families import family_rules
from llamafile_mgr.engines.messages import EngineRequest, json_request
from llamafile_mgr.engines.replies import read_json
from llamafile_mgr.errors import EngineError, RequestError
from llamafile_mgr.proxy.api_errors import UnsupportedError
from llamafile_mgr.proxy.dialects.dialect import Form, Route, TokenizeCall, find_form
from llamafile_mgr.proxy.engine_answers import check_reply
from llamafile_mgr.proxy.front import Front
from llamafile_mgr.proxy.http import Padding, Reply, Request, json_reply
from llamafile_mgr.proxy.routing import RoutedCall
from llamafile_mgr.supervisor.calls import Priority, Weight
from llamafile_mgr.supervisor.pool import Pool

_MOST_TOKENS = 1_000_000


def tokenize_route(path: str, form: Form[TokenizeCall]) -> Route:
    """Return a route that tells the tokens of texts; other dialects' forms are read there too."""
    return Route("POST", path, partial(_tokenize, form), form.schema, shared="tokenize")


def _choose(front: Front, request: Request, body: dict[str, Any]) -> RoutedCall:
    """Return the pool: of the named model whatever its role, else the embedding model's."""
    name = body.get("model")
    named = front.router.find(name) if isinstance(name, str) else None
    role = named.plan.role if named is not None else Role.EMBED if front.embedders else Role.GENERATE
    return front.choose(role, name, request, Padding.JSON)


async def _tokenize(own: Form[TokenizeCall], front: Front, request: Request) -> Reply:
    body = request.json_object()
    choice = _choose(front, request, body)
    call = find_form(own, "tokenize", front.dialects, request, body).parse(request, body)
    if call.marked and not family_rules(choice.pool.plan.family).tells_token_texts:
        raise UnsupportedError("the engine tells no token texts", hint='send {"content": ...} for ids alone')
    one = _tokenize_marked if call.marked else _tokenize_plain
    tokens = [await one(front, request, choice.pool, text, call) for text in call.texts]
    return json_reply(call.render(tokens), headers=choice.headers())


async def _tokenize_plain(
    front: Front, request: Request, pool: Pool, text: str, call: TokenizeCall
) -> list[Any]:
    return await _ask(front, request, pool, text, special=call.special, pieces=call.pieces)


async def _tokenize_marked(
    front: Front, request: Request, pool: Pool, text: str, call: TokenizeCall
) -> list[dict[str, Any]]:
    plain = await _pieces(front, request, pool, text, special=False)
    if not call.special:
        return [{**token, "special": False} for token in plain]
    marked = await _pieces(front, request, pool, text, special=True)
    before = _count_before([t["id"] for t in marked], [t["id"] for t in plain])
    inside = range(before, before + len(plain))
    return [{**token, "special": n not in inside} for n, token in enumerate(marked)]


def _count_before(marked: list[int], plain: list[int]) -> int:
    """Return how many tokens of ``marked`` stand before ``plain``."""
    for at in range(len(marked) - len(plain) + 1):
        if marked[at : at + len(plain)] == plain:
            return at
    return 0


async def _ask(
    front: Front, request: Request, pool: Pool, text: str, *, special: bool, pieces: bool
) -> list[Any]:
    asked = family_rules(pool.plan.family).tokenize(text, special=special, pieces=pieces)
    tokens = (await _call(front, request, pool, asked)).get("tokens")
    if not isinstance(tokens, list):
        raise EngineError("the engine's reply has no token list")
    return tokens


async def _pieces(
    front: Front, request: Request, pool: Pool, text: str, *, special: bool
) -> list[dict[str, Any]]:
    tokens = await _ask(front, request, pool, text, special=special, pieces=True)
    try:
        return [{"id": token["id"], "piece": _piece_text(token["piece"])} for token in tokens]
    except (KeyError, TypeError) as error:
        raise EngineError("the engine's reply has no token texts") from error


def _piece_text(piece: object) -> str:
    """Return a token's text; engines send the bytes of one that is no whole character."""
    return piece if isinstance(piece, str) else bytes(piece).decode("utf-8", "replace")  # type: ignore[call-overload]


async def detokenize(front: Front, request: Request) -> Reply:
    """Answer the text of token ids."""
    body = request.json_object()
    choice = _choose(front, request, body)
    tokens = body.get("tokens")
    if not isinstance(tokens, list) or not all(type(each) is int and each >= 0 for each in tokens):
        raise RequestError("'tokens' must be a list of token ids")
    if len(tokens) > _MOST_TOKENS:
        raise RequestError(f"'tokens' holds more than {_MOST_TOKENS} ids")
    if "/detokenize" in family_rules(choice.pool.plan.family).missing_routes:
        raise UnsupportedError("this engine cannot turn tokens into text")
    reply = await _call(front, request, choice.pool, json_request("/detokenize", {"tokens": tokens}))
    return json_reply({"content": reply.get("content", "")}, headers=choice.headers())


async def _call(front: Front, request: Request, pool: Pool, asked: EngineRequest) -> dict[str, Any]:
    weight = Weight(1, len(asked.body or b"") // 4 + 1)
    reply = await front.ask(request, pool, asked, weight, Priority.CONTROL)
    value = read_json(check_reply(reply))
    if not isinstance(value, dict):
        raise EngineError("the engine's reply is no object")
    return value
