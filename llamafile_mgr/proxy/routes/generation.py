"""Generation calls: passed to the engine's route, or translated to its chat and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from llamafile_mgr.catalog import Role
from llamafile_mgr.engines.families import family_rules
from llamafile_mgr.engines.messages import EngineReply, json_request
from llamafile_mgr.engines.replies import read_json
from llamafile_mgr.proxy.api_errors import UnsupportedError
from llamafile_mgr.proxy.dialects.completions import (
    CompletionForm,
    LlamafileCompletion,
    TextCompletion,
    to_llamafile,
)
from llamafile_mgr.proxy.dialects.dialect import Route
from llamafile_mgr.proxy.dialects.schemas import OBJECT, Schema
from llamafile_mgr.proxy.engine_answers import (
    OpenAnswer,
    ask_engine,
    check_reply,
    pass_on,
    prepare_body,
    style_of,
)
from llamafile_mgr.proxy.front import Front
from llamafile_mgr.proxy.http import Padding, Reply, Request, StreamReply, json_reply
from llamafile_mgr.proxy.routing import RoutedCall
from llamafile_mgr.proxy.server_sent_events import EventFilter, EventStyle
from llamafile_mgr.proxy.tracing import engine_headers
from llamafile_mgr.supervisor.calls import Weight
from llamafile_mgr.supervisor.pool import Pool
from llamafile_mgr.tasks import run_all

_FormMaker = Callable[[str, str, Mapping[str, Any]], CompletionForm]

_CHAT = "/v1/chat/completions"
#: What a generation is taken to weigh when it names no end.
_ASSUMED_TOKENS, _MOST_TOKENS = 256, 4096
#: Of English, rather too few.
_CHARACTERS_PER_TOKEN = 3
#: Path that a family lacks -> the one that it has instead, the bodies for that, and the form of the answer.
_TRANSLATED: dict[str, tuple[str, Callable[[Mapping[str, Any]], list[dict[str, Any]]], _FormMaker]] = {
    "/v1/completions": ("/completion", to_llamafile, TextCompletion),
    "/completion": ("/v1/completions", lambda body: [dict(body)], LlamafileCompletion),
}


def generation_route(path: str, target: str, schema: Schema = OBJECT) -> Route:
    """Return a route whose calls are passed to the engine's path ``target``."""
    return Route("POST", path, partial(_generate, target), schema)


async def _generate(path: str, front: Front, request: Request) -> Reply | StreamReply:
    body = request.json_object()
    style = style_of(path, body)
    streamed = body.get("stream") is True
    padding = (Padding.EVENTS if style.takes_comments else Padding.NONE) if streamed else Padding.JSON
    choice = front.choose(Role.GENERATE, body.get("model"), request, padding)
    pool = choice.pool
    rules = family_rules(pool.plan.family)
    missing = path in rules.missing_routes
    if missing and path not in _TRANSLATED:
        raise UnsupportedError(f"the engine of {pool.plan.name} is too old for {path}", hint="use chat")
    prepared = rules.generation_body(prepare_body(path, body, style))
    if not missing:
        answer = await _ask(front, request, pool, path, prepared)
        return pass_on(answer, EventFilter(style), choice.headers())
    path, prepare, translate = _TRANSLATED[path]
    bodies, form = prepare(prepared), translate(pool.plan.name, request.request_id, prepared)
    answers = await run_all(_ask(front, request, pool, path, each) for each in bodies)
    if len(answers) == 1:
        return pass_on(answers[0], form, choice.headers())
    replies = [read_json(check_reply(answer)) for answer in answers if isinstance(answer, EngineReply)]
    return json_reply(form.translate_several(replies), headers=choice.headers())


async def _ask(
    front: Front, request: Request, pool: Pool, path: str, body: Mapping[str, Any]
) -> EngineReply | OpenAnswer:
    limit = body.get("max_tokens", body.get("n_predict", _ASSUMED_TOKENS))
    limit = limit if isinstance(limit, int) and 0 <= limit <= _MOST_TOKENS else _ASSUMED_TOKENS
    request.progress.items = 1
    headers = engine_headers(request.headers, request.request_id)
    asked = json_request(path, {"model": pool.plan.name, **body}, headers)
    return await ask_engine(
        pool,
        asked,
        front.caller(request),
        Weight(1, len(asked.body or b"") // _CHARACTERS_PER_TOKEN + limit),
        streamed=body.get("stream") is True,
    )


async def ask_chat(
    front: Front, request: Request, choice: RoutedCall, body: dict[str, Any]
) -> EngineReply | OpenAnswer:
    """Ask the engine's chat route on behalf of a dialect of another form."""
    prepared = prepare_body(_CHAT, body, EventStyle.STANDARD)
    asked = family_rules(choice.pool.plan.family).generation_body(prepared)
    return await _ask(front, request, choice.pool, _CHAT, asked)
