"""What embedded arguments would do, in plain words; the texts follow sections 1 and 3 of llamafile's docs."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

from llamafile_mgr.engines.arguments import EmbeddedArguments
from llamafile_mgr.engines.families import Family, family_rules, parse_version
from llamafile_mgr.engines.family import EngineFamily

__all__ = ["ArgumentEffect", "explain_arguments"]


@dataclass(frozen=True, slots=True)
class ArgumentEffect:
    """One flag with its value: ``meaning`` in plain words, ``warning`` when it deserves one."""

    arguments: tuple[str, ...]
    meaning: str
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class _Engine:
    rules: EngineFamily | None
    version: tuple[int, int, int] | None

    def note(self, flag: str) -> str | None:
        """Return what the family has against this flag; of one that is not known, what holds for most."""
        return (self.rules or EngineFamily).flag_notes.get(flag)

    def is_between(self, first: tuple[int, int, int], last: tuple[int, int, int]) -> bool:
        """Whether the version is known and within these bounds."""
        return self.version is not None and first <= self.version <= last


_Warn = Callable[[str, _Engine], str | None]


@dataclass(frozen=True, slots=True)
class _Flag:
    names: tuple[str, ...]
    meaning: str  # "{}" is the value; a meaning without it takes none
    warn: _Warn | None = None
    choices: tuple[str, ...] = ()  # words that a flag without a value takes in newer engines

    @property
    def takes_value(self) -> bool:
        return "{}" in self.meaning


_OVERRIDDEN = "serve passes its own value, which counts; a bare start of this file uses this one"


def _always(text: str) -> _Warn:
    return lambda value, engine: text


def _warn_host(value: str, engine: _Engine) -> str | None:
    if _is_loopback(value):
        return None
    return f"every machine that reaches this address can use the model; {_OVERRIDDEN}"


def _warn_listen(value: str, engine: _Engine) -> str | None:
    host = value.rpartition(":")[0]
    return _warn_host(host, engine) if host else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.endswith(".sock")


def _noted(flag: str, deserves: Callable[[str], bool]) -> _Warn:
    """Warn of what the family has against this flag, where the value deserves it."""
    return lambda value, engine: engine.note(flag) if deserves(value) else None


def _above(least: int) -> Callable[[str], bool]:
    return lambda value: value.lstrip("-").isdigit() and int(value) > least


def _warn_mapping(value: str, engine: _Engine) -> str | None:
    return (
        "engines with llama.cpp b11100 and later refuse to start with it: drop it when the weights are "
        "packed onto a newer runtime"
    )


def _warn_mode(value: str, engine: _Engine) -> str | None:
    if engine.version is not None and engine.version < (0, 10, 0):
        return "does not count here: these engines choose their program before they read this file"
    return None


def _warn_embedding(value: str, engine: _Engine) -> str | None:
    if engine.is_between((0, 8, 13), (0, 9, 3)):
        return "does nothing in 0.8.13 to 0.9.3: their --server answers every embedding with 503"
    if engine.is_between((0, 7, 0), (0, 8, 1)):
        return "vectors of 0.7 to 0.8.1 are wrong: run these weights on another runtime"
    return None


_NETWORK = _always("fetches from the network when the engine starts")
_WRITES = _always("writes to this place on the machine that runs it")
_SECRET = _always("the key is readable by everyone who has this file")

_FLAGS: tuple[_Flag, ...] = (
    _Flag(("-m", "--model"), "loads the model {}"),
    _Flag(("-mm", "--mmproj"), "loads the image or audio projector {}"),
    _Flag(("-md", "--model-draft", "--spec-draft-model"), "loads {} to guess ahead"),
    _Flag(("-a", "--alias"), "calls the model {} in its replies"),
    _Flag(("--lora", "--lora-scaled"), "applies the adapter {}"),
    _Flag(("-mu", "--model-url"), "downloads the model from {}", _NETWORK),
    _Flag(("-hf", "-hfr", "--hf-repo"), "downloads the model {} from Hugging Face", _NETWORK),
    _Flag(("--host",), "listens on the address {}", _warn_host),
    _Flag(("-l", "--listen"), "listens on {}", _warn_listen),
    _Flag(("--port",), "listens on port {}", _always(_OVERRIDDEN)),
    _Flag(("--path",), "serves the files of the folder {}"),
    _Flag(("--url-prefix", "--api-prefix"), "puts {} in front of every route"),
    _Flag(("--api-key",), "asks callers for the key {}", _SECRET),
    _Flag(("--api-key-file",), "asks callers for a key from {}"),
    _Flag(("-to", "--timeout"), "gives up on a slow connection after {} seconds"),
    _Flag(("--server",), "starts the HTTP server", _warn_mode),
    _Flag(("--v2",), "starts llamafiler, the second server", _warn_mode),
    _Flag(("--chat",), "starts a chat in the terminal", _warn_mode),
    _Flag(("--cli",), "runs once on the command line", _warn_mode),
    _Flag(("--nobrowser",), "opens no browser"),
    _Flag(("--unsecure",), "switches the sandbox off", _always("a flaw in the engine then has free hands")),
    _Flag(("--rpc",), "sends work to other machines: {}", _always("leaves this machine")),
    _Flag(("--tools",), "lets the model use the tools {}", _always("the model acts on this machine")),
    _Flag(("-c", "--ctx-size"), "keeps {} tokens of context", _noted("-c", lambda value: value == "0")),
    _Flag(("-b", "--batch-size"), "takes at most {} tokens at once", _noted("-b", lambda value: True)),
    _Flag(("-ub", "--ubatch-size"), "computes at most {} tokens at once"),
    _Flag(
        ("-np", "--parallel"),
        "serves {} requests at a time",
        _noted("-np", _above(1)),
    ),
    _Flag(("-s", "--slots-number"), "keeps {} slots"),
    _Flag(("-w", "--workers"), "runs {} workers"),
    _Flag(("-cb", "--cont-batching"), "lets requests join a running batch"),
    _Flag(
        ("-t", "--threads"), "computes on {} threads", _always("fits one machine; leave it to the planner")
    ),
    _Flag(("-tb", "--threads-batch"), "reads prompts on {} threads"),
    _Flag(("-ngl", "--gpu-layers", "--n-gpu-layers"), "puts {} layers on the GPU", _noted("-ngl", _above(0))),
    _Flag(
        ("--gpu",),
        "computes on {}",
        _always("ends the start on a machine without it, unless it says auto or disable"),
    ),
    _Flag(("-sm", "--split-mode"), "splits the model between GPUs by {}"),
    _Flag(("-ts", "--tensor-split"), "splits the model between GPUs as {}"),
    _Flag(("-mg", "--main-gpu"), "uses GPU {} first"),
    _Flag(("-fa", "--flash-attn"), "uses flash attention", choices=("on", "off", "auto")),
    _Flag(("-ctk", "--cache-type-k"), "stores keys as {}"),
    _Flag(("-ctv", "--cache-type-v"), "stores values as {}"),
    _Flag(("--no-mmap",), "reads the whole model into memory", _warn_mapping),
    _Flag(("--mmap",), "maps the model from the disk", _warn_mapping),
    _Flag(("--mlock",), "pins the model in memory", _warn_mapping),
    _Flag(("-lm", "--load-mode"), "loads the model by {}"),
    _Flag(("--numa",), "spreads work over the processors' memory: {}"),
    _Flag(("--embedding", "--embeddings"), "answers embedding requests", _warn_embedding),
    _Flag(("--pooling",), "makes one vector of many by {}"),
    _Flag(("--embd-normalize",), "scales vectors by norm {}"),
    _Flag(("--rerank", "--reranking"), "answers reranking requests"),
    _Flag(("--no-warmup",), "skips the first trial run"),
    _Flag(("--fast",), "prefers speed over exact results"),
    _Flag(("--precise",), "prefers exact results over speed"),
    _Flag(("--trap",), "stops at arithmetic errors"),
    _Flag(("--recompile",), "builds the GPU code anew at each start"),
    _Flag(("--nocompile",), "never builds GPU code"),
    _Flag(("--tinyblas",), "uses the built-in GPU routines"),
    _Flag(("--nologo",), "prints no logo"),
    _Flag(("--ascii",), "prints plain characters only"),
    _Flag(("--log-disable",), "writes no log"),
    _Flag(("--log-file",), "logs to {}", _WRITES),
    _Flag(("--slot-save-path",), "saves slots to {}", _WRITES),
    _Flag(("-v", "--verbose"), "logs more"),
    _Flag(("--metrics",), "answers /metrics"),
    _Flag(("--props",), "lets callers change settings through /props"),
    _Flag(("--no-webui", "--no-ui"), "serves no web page"),
    _Flag(("--jinja",), "uses the model's own chat template"),
    _Flag(("--chat-template",), "formats chats as {}"),
    _Flag(("-p", "--prompt"), "starts from the prompt {}"),
    _Flag(("-f", "--file"), "starts from the prompt in {}"),
    _Flag(("-spf", "--system-prompt-file"), "reads the system prompt from {}"),
    _Flag(("-n", "--predict", "--n-predict"), "writes at most {} tokens"),
    _Flag(("--temp", "--temperature"), "samples at temperature {}"),
    _Flag(("--seed",), "seeds the sampler with {}"),
    _Flag(("--top-k",), "samples from the best {} tokens"),
    _Flag(("--top-p",), "samples from the best {} of the probability"),
    _Flag(("--min-p",), "drops tokens below {} of the best one's probability"),
    _Flag(("--repeat-penalty",), "holds repetition back by {}"),
    _Flag(("-e", "--escape"), "reads \\n and the like in prompts"),
)
_BY_NAME = {name: flag for flag in _FLAGS for name in flag.names}
_LOOKS_LIKE_FLAG = re.compile(r"--?[A-Za-z]")


def explain_arguments(
    embedded: EmbeddedArguments,
    *,
    family: Family | None = None,
    version: str | None = None,
    members: frozenset[str] = frozenset(),
) -> tuple[ArgumentEffect, ...]:
    """Return what each embedded argument would do on this engine, in order.

    ``members``: the names in the file's ZIP; a model that is none of them is called out.
    """
    engine = _Engine(family_rules(family) if family else None, parse_version(version) if version else None)
    effects: list[ArgumentEffect] = []
    for part in (embedded.arguments, embedded.after):
        at = 0
        while at < len(part):
            effect = _explain_at(part, at, engine, members)
            effects.append(effect)
            at += len(effect.arguments)
    if embedded.variables:
        names = ", ".join(f"${name}" for name in embedded.variables)
        effects.append(ArgumentEffect((), f"takes {names} from the environment", "depends on who starts it"))
    return tuple(effects)


def _explain_at(
    arguments: tuple[str, ...], at: int, engine: _Engine, members: frozenset[str]
) -> ArgumentEffect:
    word = arguments[at]
    flag = _BY_NAME.get(word)
    if flag is None:
        return _explain_unknown(arguments, at)
    if not flag.takes_value:
        choice = tuple(text for text in arguments[at + 1 : at + 2] if text in flag.choices)
        meaning = ": ".join((flag.meaning, *choice))
        return ArgumentEffect((word, *choice), meaning, _warning(flag, "", engine))
    if at + 1 == len(arguments):
        return ArgumentEffect(
            (word,), "lacks its value", "takes the caller's first argument for it, or ends the start"
        )
    value = arguments[at + 1]
    warning = _warning(flag, value, engine)
    if flag.names[0] in ("-m", "-mm") and members and value.removeprefix("/zip/") not in members:
        warning = "is not in this file: it is looked for in the folder where the engine starts"
    return ArgumentEffect((word, value), flag.meaning.format(value), warning)


def _warning(flag: _Flag, value: str, engine: _Engine) -> str | None:
    if engine.rules is not None and engine.rules.refused_flags.intersection(flag.names):
        return "this engine does not know it and refuses to start"
    return flag.warn(value, engine) if flag.warn else None


def _explain_unknown(arguments: tuple[str, ...], at: int) -> ArgumentEffect:
    word = arguments[at]
    if not _LOOKS_LIKE_FLAG.match(word):
        return ArgumentEffect((word,), "is passed on as it is")
    following = arguments[at + 1 : at + 2]
    value = tuple(text for text in following if not _LOOKS_LIKE_FLAG.match(text))
    return ArgumentEffect((word, *value), "is passed on; we do not know what it does")
