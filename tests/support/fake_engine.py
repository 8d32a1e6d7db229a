"""An engine for faults that a real one cannot be made to show; run as a program by a packed llamafile.

It speaks v10's HTTP (shapes recorded from the embedded engine), v1's or v2's (shapes of llamafile 0.8.4's
and 0.9.3's sources). Known texts get their golden vectors, those of the checks what the embedded engine
answered for all-MiniLM-L6-v2, all others a vector made of their hash. Switches stand before the engine's own
flags: ``fake_engine.py [SWITCH...] -- FLAG...``.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import math
import os
import random
import signal
import struct
import sys
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

DIMENSIONS = 384
GOLDEN = Path(__file__).parent.parent.parent / "llamafile_mgr/catalog/golden/all-minilm-l6-v2.json"
RECORDED = Path(__file__).parent / "captures/probes-minilm.json"


def parse() -> tuple[argparse.Namespace, list[str]]:
    """Return the switches and the engine's own flags."""
    own, flags = sys.argv[1:], []
    if "--" in own:
        at = own.index("--")
        own, flags = own[:at], own[at + 1 :]
    parser = argparse.ArgumentParser()
    parser.add_argument("--family", default="v10", choices=["v1", "v2", "v10"])
    parser.add_argument("--slow-load", type=float, default=0.0, help="seconds before it serves")
    parser.add_argument("--chatty-load", action="store_true", help="print lines while loading")
    parser.add_argument("--exit", type=int, help="end at once with this code")
    parser.add_argument("--say", default="", help="print this line first")
    parser.add_argument("--die-by", default="", help="end by this signal after loading")
    parser.add_argument("--crash-after", type=int, help="end after this many embedding requests")
    parser.add_argument("--ignore-signals", action="store_true", help="ignore SIGINT and SIGTERM")
    parser.add_argument("--never-ready", action="store_true", help="answer 503 for ever")
    parser.add_argument("--hang-after", type=int, help="stop answering embeddings after this many")
    parser.add_argument(
        "--vectors", default="right", choices=["right", "wrong", "zero", "nan", "null", "short"]
    )
    parser.add_argument("--bad-after", type=int, default=0, help="the first this many vectors are right")
    parser.add_argument("--flood", type=int, default=0, help="MiB of log to print after the start")
    parser.add_argument("--fork", action="store_true", help="leave a child that holds the log pipe open")
    parser.add_argument("--other-port", action="store_true", help="listen one port further")
    parser.add_argument("--refuse-flag", help="end as llama.cpp does when it is given this flag")
    parser.add_argument("--count-file", help="append a line at each start")
    parser.add_argument("--word-seconds", type=float, default=0.0, help="pause before each word of a stream")
    parser.add_argument("--words", type=int, default=5, help="words of a generation")
    parser.add_argument("--cut-after", type=int, help="break the connection after this many words")
    parser.add_argument("--body-file", help="append each request as a JSON line")
    parser.add_argument("--cancel-file", help="append a line when a stream's reader has gone")
    return parser.parse_args(own), flags


class Engine:
    """The state that handlers share."""

    def __init__(self, switches: argparse.Namespace, flags: list[str]) -> None:
        self.switches = switches
        self.flags = flags
        self.served = 0
        self.lock = threading.Lock()
        self.work = threading.Lock()
        self.ready = threading.Event()
        recorded = json.loads(RECORDED.read_text("ascii"))
        self.known = {entry["text"]: entry["vector"] for entry in json.loads(GOLDEN.read_text("utf-8"))}
        self.known |= recorded["vectors"]
        self.tokens: dict[str, list[int]] = recorded["tokens"]
        self.key = self._read_key()

    def _read_key(self) -> str | None:
        file = self.flag("--api-key-file")
        return Path(file).read_text("ascii").strip() if file else None

    def flag(self, name: str) -> str | None:
        return self.flags[self.flags.index(name) + 1] if name in self.flags else None

    def queue(self) -> AbstractContextManager[object]:
        """Return the place in which v1 does one thing after the other, its health among them."""
        return self.work if self.switches.family == "v1" else nullcontext()

    def count(self) -> int:
        """Count one vector; crash or hang when told to."""
        with self.lock:
            self.served += 1
            number = self.served
        if self.switches.crash_after is not None and number > self.switches.crash_after:
            os._exit(9)
        if self.switches.hang_after is not None and number > self.switches.hang_after:
            time.sleep(3600)
        return number

    def vector(self, text: str) -> list[float] | None:
        with self.queue():
            return self.compute(text)

    def compute(self, text: str) -> list[float] | None:
        number = self.count()
        kind = self.switches.vectors if number > self.switches.bad_after else "right"
        if kind == "null":
            return None
        if kind == "zero":
            return [0.0] * DIMENSIONS
        if kind == "nan":
            return [math.nan] * DIMENSIONS
        right = self.known.get(text) or made_up(text)
        if kind == "wrong":
            return made_up(text + "?")
        return right[:100] if kind == "short" else right


def made_up(text: str) -> list[float]:
    """Return a unit vector that depends on the text alone."""
    source = random.Random(hashlib.sha256(text.encode()).digest())
    values = [source.gauss(0, 1) for _ in range(DIMENSIONS)]
    length = math.sqrt(sum(v * v for v in values))
    return [v / length for v in values]


def render(vector: list[float] | None, encoding: str) -> object:
    if vector is not None and encoding == "base64":
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return vector


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    engine: Engine

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, body: object, status: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse_unless_ready(self) -> bool:
        if self.engine.ready.is_set():
            return False
        error = {"code": 503, "message": "Loading model", "type": "unavailable_error"}
        self.answer({"error": error}, 503)
        return True

    def refuse(self, status: int, why: str) -> None:
        """Refuse as v2 does: its errors are no JSON."""
        data = why.encode()
        self.send_response(status, why)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.engine.switches.family == "v2":
            known = self.path.startswith("/tokenize?prompt=")
            self.answer({"tokens": ["x"]}) if known else self.refuse(404, "Not Found")
        elif not self.refuse_unless_ready():
            with self.engine.queue():
                self.answer({"status": "ok"})

    def do_POST(self) -> None:
        body: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.refuse_unless_ready():
            return
        key = self.engine.key
        if key and self.headers.get("Authorization") != f"Bearer {key}":
            self.answer(
                {"error": {"code": 401, "message": "Invalid API Key", "type": "authentication_error"}}, 401
            )
            return
        if self.engine.switches.body_file:
            with self.engine.lock, Path(self.engine.switches.body_file).open("a", encoding="utf-8") as file:
                file.write(
                    json.dumps({"path": self.path, "body": body, "headers": dict(self.headers)}) + "\n"
                )
        if self.engine.switches.family == "v2":
            self.answer_v2(body)
        elif self.path in ("/completion", "/v1/chat/completions", "/v1/completions"):
            self.generate(body)
        elif self.path == "/v1/rerank":
            words = set(body["query"].lower().split())
            scores = [len(words & set(text.lower().split())) - 2.0 for text in body["documents"]]
            results = [{"index": n, "relevance_score": score} for n, score in enumerate(scores)]
            self.answer({"model": "fake", "object": "list", "results": results})
        elif self.path == "/detokenize":
            self.answer({"content": " ".join(map(str, body["tokens"]))})
        elif self.path == "/tokenize":
            text = body["content"]
            ids = self.engine.tokens.get(text) or list(range(len(text.split())))
            self.answer({"tokens": [101, *ids, 102] if body.get("add_special", True) else ids})
        elif self.path == "/embedding":
            self.answer({"embedding": self.engine.vector(body["content"])})
        elif self.path == "/v1/embeddings":
            encoding = body.get("encoding_format", "float")
            data = [
                {
                    "index": index,
                    "embedding": render(self.engine.vector(text), encoding),
                    "object": "embedding",
                }
                for index, text in enumerate(body["input"])
            ]
            self.answer({"object": "list", "data": data, "usage": {"prompt_tokens": len(data)}})
        else:
            self.answer({"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}, 404)

    def answer_v2(self, body: dict[str, Any]) -> None:
        """Answer as llamafiler: one text a request, no ids of tokens, and strict about what it reads."""
        if self.path == "/embedding":
            text = next((body[key] for key in ("content", "prompt", "input") if key in body), None)
            if not isinstance(text, str):
                self.refuse(400, "JSON missing content/prompt/input key")
                return
            used = len(text.split()) + 2
            head = {"add_special": True, "parse_special": False, "tokens_provided": used, "tokens_used": used}
            self.answer({**head, "embedding": self.engine.vector(text)})
        elif self.path == "/tokenize":
            if not isinstance(body.get("prompt"), str):
                self.refuse(400, 'JSON missing "prompt" key')
                return
            tokens = ["[CLS]", *body["prompt"].split(), "[SEP]"]
            self.answer({"add_special": True, "parse_special": False, "tokens": tokens})
        elif self.path not in ("/v1/chat/completions", "/v1/completions"):
            self.refuse(404, "Not Found")
        elif not isinstance(body.get("model"), str):
            self.refuse(400, "JSON missing model string")
        elif any(body.get(key) is not None for key in ("tools", "logprobs", "functions", "n", "suffix")):
            self.refuse(400, "field not supported")
        elif not all(isinstance(m.get("content"), str) for m in body.get("messages", [])):
            self.refuse(400, "message must have string content")
        elif self.path == "/v1/completions" and not isinstance(body.get("prompt"), str):
            self.refuse(400, "JSON missing prompt string")
        else:
            self.generate(body)

    def generate(self, body: dict[str, Any]) -> None:
        """Answer as v1 does (no ``[DONE]``, no ``/v1/completions``) or as v10 does (pings, a null role)."""
        old = self.engine.switches.family == "v1"
        if old and self.path == "/v1/completions":
            self.answer({"error": "File Not Found"}, 404)
            return
        limit = body.get("max_tokens", body.get("n_predict", -1))
        words = [f"word{n} " for n in range(self.engine.switches.words)][: None if limit < 0 else limit]
        if not body.get("stream"):
            self.answer(self.whole("".join(words), len(words)))
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self.stream(words, old, body)
        except OSError:
            if self.engine.switches.cancel_file:
                with Path(self.engine.switches.cancel_file).open("a", encoding="ascii") as file:
                    file.write("gone\n")
            self.close_connection = True

    def whole(self, text: str, count: int) -> dict[str, Any]:
        if self.path == "/completion":
            return {"content": text, "stop": True, "tokens_predicted": count, "tokens_evaluated": 3}
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "finish_reason": "stop", "message": message, "text": text}
        usage = {"prompt_tokens": 3, "completion_tokens": count, "total_tokens": 3 + count}
        kind = "chat.completion" if "chat" in self.path else "text_completion"
        return {"id": "x", "object": kind, "created": 1, "model": "fake", "choices": [choice], "usage": usage}

    def stream(self, words: list[str], old: bool, body: dict[str, Any]) -> None:
        chat = "chat" in self.path
        newest = self.engine.switches.family == "v10"
        if self.engine.switches.family == "v2":
            first = self.chunk("", None)
            first["choices"] = [
                {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
            ]
            self.event(first)
        elif chat and newest:
            self.event(self.chunk({"role": "assistant", "content": None}, None))
        for number, word in enumerate(words):
            if number == self.engine.switches.cut_after:
                self.wfile.flush()
                self.connection.close()
                raise OSError("cut")
            with self.engine.queue():
                time.sleep(self.engine.switches.word_seconds)
            if newest:
                self.piece(b": ping\n\n")
            if self.path == "/completion":
                self.event({"content": word, "stop": False})
            else:
                self.event(self.chunk({"content": word} if chat else word, None))
        if self.path == "/completion":
            self.event({"content": "", "stop": True, "tokens_predicted": len(words)})
        else:
            self.event(self.chunk({} if chat else "", "stop"))
            if newest and (body.get("stream_options") or {}).get("include_usage"):
                usage = {"prompt_tokens": 3, "completion_tokens": len(words), "total_tokens": 3 + len(words)}
                self.event({**self.chunk({}, None), "choices": [], "usage": usage})
            if not old:
                self.piece(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def chunk(self, delta: object, reason: str | None) -> dict[str, Any]:
        key = "delta" if "chat" in self.path else "text"
        choice = {"index": 0, key: delta, "finish_reason": reason}
        kind = "chat.completion.chunk" if key == "delta" else "text_completion"
        return {"id": "x", "object": kind, "created": 1, "model": "fake", "choices": [choice]}

    def event(self, value: object) -> None:
        self.piece(b"data: " + json.dumps(value).encode() + b"\n\n")

    def piece(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def load(engine: Engine, address: str) -> None:
    """Take the time that loading takes, then be ready."""
    end = time.monotonic() + engine.switches.slow_load
    while time.monotonic() < end:
        if engine.switches.chatty_load:
            say("loading tensors ...")
        time.sleep(0.05)
    if not engine.switches.never_ready:
        engine.ready.set()
        say(f"llama server listening at {address}")
    if engine.switches.flood:
        line = "x" * 1023
        for _ in range(engine.switches.flood * 1024):
            sys.stderr.write(line + "\n")
        sys.stderr.flush()
    if engine.switches.die_by:
        os.kill(os.getpid(), getattr(signal, engine.switches.die_by))


def main() -> None:
    switches, flags = parse()
    if switches.count_file:
        with Path(switches.count_file).open("a", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
    if switches.say:
        say(switches.say)
    if switches.refuse_flag in flags:
        say(f"error: invalid argument: {switches.refuse_flag}")
        sys.exit(1)
    if switches.exit is not None:
        sys.exit(switches.exit)
    if switches.fork and os.fork() == 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    if switches.ignore_signals:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    Handler.engine = Engine(switches, flags)
    listen = Handler.engine.flag("-l")
    port = int(listen.rsplit(":", 1)[1] if listen else Handler.engine.flag("--port") or 0) + (
        1 if switches.other_port else 0
    )
    ThreadingHTTPServer.request_queue_size = 512  # hundreds may come at once
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=load, args=(Handler.engine, address), daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
