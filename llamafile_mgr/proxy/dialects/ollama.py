"""The Ollama dialect: embeddings, lists of models, and chat translated to and from OpenAI's.

Shapes: ollama-python 0.6.3 and ollama-js 0.6.4 as recorded, and Ollama's API document. Every line of a stream
is one JSON object and nothing else: clients parse each line.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson

from llamafile_mgr.catalog import Role
from llamafile_mgr.embedding.requests import EmbedRequest, EmbedResult, Truncation
from llamafile_mgr.errors import Error, RequestError
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.proxy.api_errors import UnknownModelError, UnsupportedError, error_source
from llamafile_mgr.proxy.dialects import fields
from llamafile_mgr.proxy.dialects.dialect import Dialect, EmbedCall, Form, Route
from llamafile_mgr.proxy.dialects.schemas import body_schema, object_schema
from llamafile_mgr.proxy.engine_answers import pass_on
from llamafile_mgr.proxy.front import Front
from llamafile_mgr.proxy.http import Padding, Reply, Request, StreamReply, json_reply
from llamafile_mgr.proxy.routes.embedding import embedding_route
from llamafile_mgr.proxy.routes.generation import ask_chat
from llamafile_mgr.proxy.server_sent_events import JsonTranslation
from llamafile_mgr.supervisor.pool import Pool

#: The release of Ollama whose API this follows; programs compare it with the least they need.
_API_LEVEL = "0.12.6"
_NDJSON = "application/x-ndjson"
_FOR_EVER = "2318-01-01T00:00:00Z"
_CAPABILITIES = {Role.EMBED: ["embedding"], Role.GENERATE: ["completion"], Role.RERANK: ["rerank"]}
_SAME_OPTIONS = """
    temperature top_k top_p min_p typical_p seed stop repeat_penalty repeat_last_n presence_penalty
    frequency_penalty mirostat mirostat_tau mirostat_eta
"""
#: Its option -> the engine's field.
_OPTIONS = {"num_predict": "max_tokens", **{name: name for name in _SAME_OPTIONS.split()}}
_REASONS = {"stop": "stop", "length": "length", "tool_calls": "stop"}


def _parse_embed(request: Request, body: dict[str, Any]) -> EmbedCall:
    """Parse the body of ``/api/embed`` or ``/api/embeddings``. Long texts are cut unless told otherwise.

    Raises:
        RequestError: no usable text.
    """
    legacy = "input" not in body and "prompt" in body
    texts, _ = fields.read_texts(body, "prompt" if legacy else "input", least=1 if legacy else 0)
    wanted = EmbedRequest(
        texts,
        truncation=fields.read_truncation(body, "truncate", default=Truncation.RIGHT),
        dimensions=fields.read_dimensions(body, "dimensions"),
    )
    return EmbedCall(wanted, _render_vector if legacy else _render_vectors)


def _render_vector(result: EmbedResult, model: str, seconds: float) -> object:
    return {"embedding": result.vectors[0]}


def _render_vectors(result: EmbedResult, model: str, seconds: float) -> object:
    return {
        "model": model,
        "embeddings": list(result.vectors),
        "total_duration": int(seconds * 1e9),
        "load_duration": 0,
        "prompt_eval_count": result.prompt_tokens,
    }


async def _version(front: Front, request: Request) -> Reply:
    return json_reply({"version": _API_LEVEL})


async def _tags(front: Front, request: Request) -> Reply:
    return json_reply({"models": [_entry(pool.plan) for pool in front.pools]})


async def _running(front: Front, request: Request) -> Reply:
    """Tell what is loaded: every model here stays so."""
    models = []
    for plan in (pool.plan for pool in front.pools if pool.ready):
        entry = _entry(plan)
        entry["expires_at"] = _FOR_EVER
        entry["size_vram"] = 0 if plan.settings.gpu in (None, "disable") else entry["size"]
        entry["context_length"] = plan.max_tokens or plan.settings.context
        models.append(entry)
    return json_reply({"models": models})


async def _show(front: Front, request: Request) -> Reply:
    name, pool = _find(front, request)
    if pool is None:
        raise UnknownModelError(f"model {name!r} not found")
    return json_reply(_describe(pool.plan))


async def _pull(front: Front, request: Request) -> Reply:
    """Say that a served model is here; nothing is ever fetched because a request asks for it."""
    name, pool = _find(front, request)
    if pool is None:
        raise UnsupportedError(
            "models are not fetched over HTTP", hint=f"run `llamafile-mgr pull` and serve {name!r}"
        )
    return Reply(200, _line({"status": "success"}), _NDJSON)


def _find(front: Front, request: Request) -> tuple[str, Pool | None]:
    """Return the name that the body holds, as it may be shown, and its pool."""
    body = request.json_object()
    name = fields.read_text(body, "model", body.get("name"))
    return name[:200], front.router.find(name)


def _describe(plan: Plan) -> dict[str, Any]:
    entry = _entry(plan)
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


def _entry(plan: Plan) -> dict[str, Any]:
    family = _architecture(plan)
    try:
        status = plan.path.stat()
        size, changed = status.st_size, status.st_mtime
    except OSError:
        size, changed = 0, 0.0
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


async def _generate(
    parse: Callable[[dict[str, Any]], OllamaCall], front: Front, request: Request
) -> Reply | StreamReply:
    began = time.monotonic()
    body = request.json_object()
    call = parse(body)
    padding = Padding.NONE if call.stream else Padding.JSON
    choice = front.choose(Role.GENERATE, body.get("model"), request, padding)
    name, headers = choice.pool.plan.name, choice.headers()
    if call.body is None:
        line = render_loaded(call, name)
        return Reply(200, _line(line), _NDJSON, headers) if call.stream else json_reply(line, headers=headers)
    answer = await ask_chat(front, request, choice, call.body)
    return pass_on(answer, OllamaAnswer(call, name, lambda: time.monotonic() - began), headers)


@dataclass(frozen=True, slots=True)
class OllamaCall:
    """A parsed call. ``body``: for the engine's chat route; None only asks to load the model.

    ``chat``: the answer is a ``message``, else a ``response``.
    """

    body: dict[str, Any] | None
    chat: bool
    stream: bool


def parse_chat(body: dict[str, Any]) -> OllamaCall:
    """Parse the body of ``/api/chat``; without messages it loads the model.

    Raises:
        RequestError: messages of another form.
    """
    messages = body.get("messages", [])
    if not isinstance(messages, list):
        raise RequestError("'messages' must be a list")
    sent: dict[str, Any] = {"messages": [_read_message(each) for each in messages]}
    if body.get("tools"):
        sent["tools"] = body["tools"]
    return _make_call(sent, body, chat=True)


def parse_generate(body: dict[str, Any]) -> OllamaCall:
    """Parse the body of ``/api/generate``: the prompt becomes one message; an empty one loads the model.

    Raises:
        RequestError: a prompt that is no text, ``raw`` or ``suffix``.
    """
    for key in ("raw", "suffix"):
        if body.get(key):
            raise RequestError(
                f"{key!r} is not offered on this route", hint="POST /completion takes any prompt"
            )
    prompt = fields.read_text(body, "prompt", "")
    system = fields.read_text(body, "system", "") if prompt else ""
    said = (("system", system), ("user", prompt))
    messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in said if text]
    if messages:
        messages[-1]["content"] = _with_images(prompt, body.get("images"))
    return _make_call({"messages": messages}, body, chat=False)


def _read_message(message: object) -> dict[str, Any]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise RequestError("each message must be an object with a role")
    content = _with_images(message.get("content") or "", message.get("images"))
    read: dict[str, Any] = {"role": message["role"], "content": content}
    if message.get("tool_calls"):
        read["tool_calls"] = [_read_tool_call(n, call) for n, call in enumerate(message["tool_calls"])]
    if isinstance(message.get("tool_name"), str):
        read["name"] = message["tool_name"]
    return read


def _with_images(text: object, images: object) -> object:
    """Return a content of parts, the images first; of a text alone it is that text.

    Engines tell what an image is from its bytes, so that one word stands for all kinds here.
    """
    if not images:
        return text
    if not isinstance(images, list) or not all(isinstance(each, str) for each in images):
        raise RequestError("'images' must be a list of texts in base64")
    urls = [{"url": f"data:image/png;base64,{each}"} for each in images]
    return [*({"type": "image_url", "image_url": url} for url in urls), {"type": "text", "text": text}]


def _read_tool_call(number: int, call: object) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RequestError("each tool call must hold a function with a name")
    arguments = orjson.dumps(function.get("arguments") or {}).decode()
    return {
        "id": f"call_{number}",
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


def _make_call(sent: dict[str, Any], body: dict[str, Any], *, chat: bool) -> OllamaCall:
    """Return the call with what both routes read beside the messages."""
    stream, options = fields.read_flag(body, "stream", default=True), body.get("options", {})
    if not sent["messages"]:
        return OllamaCall(None, chat, stream)
    if not isinstance(options, dict):
        raise RequestError("'options' must be an object")
    sent |= {_OPTIONS[key]: value for key, value in options.items() if key in _OPTIONS and value is not None}
    wanted = body.get("format")
    if wanted == "json":
        sent["response_format"] = {"type": "json_object"}
    elif isinstance(wanted, dict):
        sent["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted}}
    if stream:
        sent |= {"stream": True, "stream_options": {"include_usage": True}}
    return OllamaCall(sent, chat, stream)


def render_loaded(call: OllamaCall, model: str) -> dict[str, Any]:
    """Return the answer to a call that only loads."""
    return {**_frame(call, model, ""), "done": True, "done_reason": "load"}


class OllamaAnswer(JsonTranslation):
    """Turns OpenAI's chat into Ollama's. ``seconds`` tells how long the call took."""

    content_type = _NDJSON

    def __init__(self, call: OllamaCall, model: str, seconds: Callable[[], float]) -> None:
        self._call = call
        self._model = model
        self._seconds = seconds
        self._reason: str | None = None
        self._usage: dict[str, Any] = {}
        self._tools: dict[int, dict[str, Any]] = {}

    def translate_whole(self, reply: dict[str, Any]) -> dict[str, Any]:
        choice = (reply.get("choices") or [{}])[0]
        message = choice.get("message") or {}
        line = _frame(self._call, self._model, message.get("content") or "", message.get("tool_calls"))
        return {**line, **_ending(choice.get("finish_reason"), reply.get("usage") or {}, self._seconds())}

    def translate(self, event: Any) -> bytes:
        if not isinstance(event, dict):
            return b""
        if "error" in event:
            said = event["error"]
            return _line({"error": str(said.get("message", said) if isinstance(said, dict) else said)})
        self._usage = event.get("usage") or self._usage
        choice = (event.get("choices") or [{}])[0]
        self._reason = choice.get("finish_reason") or self._reason
        delta = choice.get("delta") or {}
        for part in delta.get("tool_calls") or ():
            self._add_tool_part(part)
        text = delta.get("content")
        return _line(_frame(self._call, self._model, text)) if text else b""

    def end(self) -> bytes:
        """Return the last line, with tool calls before it when there were some."""
        ending = _ending(self._reason, self._usage, self._seconds())
        last = _line({**_frame(self._call, self._model, ""), **ending})
        if not self._tools:
            return last
        calls = [self._tools[index] for index in sorted(self._tools)]
        return _line(_frame(self._call, self._model, "", calls)) + last

    def fail(self, error: Error) -> bytes:
        return _line(_render_error(error))

    def _add_tool_part(self, part: dict[str, Any]) -> None:
        call = self._tools.setdefault(part.get("index", 0), {"function": {"name": "", "arguments": ""}})
        for key, value in (part.get("function") or {}).items():
            if key in ("name", "arguments") and isinstance(value, str):
                call["function"][key] += value


def _line(value: object) -> bytes:
    return orjson.dumps(value) + b"\n"


def _frame(
    call: OllamaCall, model: str, text: str, tool_calls: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    frame: dict[str, Any] = {
        "model": model,
        "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "done": False,
    }
    if not call.chat:
        return {**frame, "response": text}
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if tool_calls:
        message["tool_calls"] = [_show_tool_call(each) for each in tool_calls]
    return {**frame, "message": message}


def _show_tool_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    try:
        arguments = orjson.loads(function.get("arguments") or "{}")
    except orjson.JSONDecodeError:
        arguments = {}
    return {"function": {"name": function.get("name", ""), "arguments": arguments}}


def _ending(reason: str | None, usage: dict[str, Any], seconds: float) -> dict[str, Any]:
    nanoseconds = int(seconds * 1e9)
    return {
        "done": True,
        "done_reason": _REASONS.get(reason or "stop", "stop"),
        "total_duration": nanoseconds,
        "load_duration": 0,
        "prompt_eval_count": usage.get("prompt_tokens", 0),
        "prompt_eval_duration": 0,
        "eval_count": usage.get("completion_tokens", 0),
        "eval_duration": nanoseconds,
    }


def _render_error(error: Error) -> dict[str, Any]:
    """Return the error; ``error`` is a text: clients print it."""
    return {"error": error.describe(), "code": error.code, "src": error_source(error)}


_OPTION_SCHEMA = object_schema(num_predict="limit", temperature="temperature")
_EMBED = body_schema(["input"], input="texts", truncate="flag", dimensions="count", options="object")
_CHAT = body_schema(["messages"], messages="messages", stream="flag", options=_OPTION_SCHEMA)
_GENERATE = body_schema(["prompt"], prompt="text", system="text", stream="flag", options=_OPTION_SCHEMA)

OLLAMA = Dialect(
    "ollama",
    (
        embedding_route("/api/embed", Form(_parse_embed, _EMBED)),
        embedding_route("/api/embeddings", Form(_parse_embed, body_schema(["prompt"], prompt="text"))),
        Route("POST", "/api/chat", partial(_generate, parse_chat), _CHAT),
        Route("POST", "/api/generate", partial(_generate, parse_generate), _GENERATE),
        Route("GET", "/api/version", _version),
        Route("GET", "/api/tags", _tags),
        Route("GET", "/api/ps", _running),
        Route("POST", "/api/show", _show, body_schema(["model"])),
        Route("POST", "/api/pull", _pull, body_schema(["model"])),
    ),
    _render_error,
    {**object_schema(error="text"), "required": ["error"]},
    banner="Ollama is running",
)
