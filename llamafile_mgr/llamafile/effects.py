"""What embedded arguments would do, in plain words; the texts follow sections 1 and 3 of llamafile's docs."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from llamafile_mgr.engines.arguments import EmbeddedArguments
from llamafile_mgr.engines.families import Family, family_rules, parse_version
from llamafile_mgr.engines.family import EngineFamily


@dataclass(frozen=True, slots=True)
class ArgumentEffect:
    """One flag with its value: ``meaning`` in plain words, ``warning`` when it deserves one."""

    arguments: tuple[str, ...]
    meaning: str
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class _Engine:
    """``behind``: the arguments that are looked at stand behind the caller's, and win."""

    rules: EngineFamily | None
    version: tuple[int, int, int] | None
    behind: bool = False

    @property
    def whose_counts(self) -> str:
        """Return whether ours counts, or that of the file."""
        return _OVERRULING if self.behind else _OVERRIDDEN

    def note(self, flag: str) -> str | None:
        """Return what the family has against this flag; of one that is not known, what holds for most."""
        return (self.rules or EngineFamily).flag_notes.get(flag)

    def is_between(self, first: tuple[int, int, int], last: tuple[int, int, int]) -> bool:
        """Whether the version is known and within these bounds."""
        return self.version is not None and first <= self.version <= last


_Warn = Callable[[str, _Engine], str | None]


@dataclass(frozen=True, slots=True)
class _Effect:
    names: tuple[str, ...]
    meaning: str  # "{}" is the value; a meaning without it takes none
    warn: _Warn | None = None
    choices: tuple[str, ...] = ()  # words that a flag without a value takes in newer engines

    @property
    def takes_value(self) -> bool:
        return "{}" in self.meaning


_OVERRIDDEN = "serve passes its own value, which counts; a bare start of this file uses this one"
_OVERRULING = (
    "stands behind what a caller passes and counts instead of it, so serve does not start this engine"
)


def _always(text: str) -> _Warn:
    return lambda value, engine: text


def _warn_host(value: str, engine: _Engine) -> str | None:
    if _is_loopback(value):
        return None
    return f"every machine that reaches this address can use the model; {engine.whose_counts}"


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


_MAPPING = _always(
    "engines with llama.cpp b11100 and later refuse to start with it: drop it when the weights are packed "
    "onto a newer runtime"
)
_NETWORK = _always("fetches from the network when the engine starts")
_WRITES = _always("writes to this place on the machine that runs it")
_SECRET = _always("the key is readable by everyone who has this file")

_FLAGS: tuple[_Effect, ...] = (
    _Effect(("-m", "--model"), "loads the model {}"),
    _Effect(("-mm", "--mmproj"), "loads the image or audio projector {}"),
    _Effect(("-md", "--model-draft", "--spec-draft-model"), "loads {} to guess ahead"),
    _Effect(("-a", "--alias"), "calls the model {} in its replies"),
    _Effect(("--lora", "--lora-scaled"), "applies the adapter {}"),
    _Effect(("-mu", "--model-url"), "downloads the model from {}", _NETWORK),
    _Effect(("-hf", "-hfr", "--hf-repo"), "downloads the model {} from Hugging Face", _NETWORK),
    _Effect(("--host",), "listens on the address {}", _warn_host),
    _Effect(("-l", "--listen"), "listens on {}", _warn_listen),
    _Effect(("--port",), "listens on port {}", lambda value, engine: engine.whose_counts),
    _Effect(("--path",), "serves the files of the folder {}"),
    _Effect(("--url-prefix", "--api-prefix"), "puts {} in front of every route"),
    _Effect(("--api-key",), "asks callers for the key {}", _SECRET),
    _Effect(("--api-key-file",), "asks callers for a key from {}"),
    _Effect(("-to", "--timeout"), "gives up on a slow connection after {} seconds"),
    _Effect(("--server",), "starts the HTTP server", _warn_mode),
    _Effect(("--v2",), "starts llamafiler, the second server", _warn_mode),
    _Effect(("--chat",), "starts a chat in the terminal", _warn_mode),
    _Effect(("--cli",), "runs once on the command line", _warn_mode),
    _Effect(("--nobrowser",), "opens no browser"),
    _Effect(("--unsecure",), "switches the sandbox off", _always("a flaw in the engine then has free hands")),
    _Effect(("--rpc",), "sends work to other machines: {}", _always("leaves this machine")),
    _Effect(("--tools",), "lets the model use the tools {}", _always("the model acts on this machine")),
    _Effect(("-c", "--ctx-size"), "keeps {} tokens of context", _noted("-c", lambda value: value == "0")),
    _Effect(("-b", "--batch-size"), "takes at most {} tokens at once", _noted("-b", lambda value: True)),
    _Effect(("-ub", "--ubatch-size"), "computes at most {} tokens at once"),
    _Effect(
        ("-np", "--parallel"),
        "serves {} requests at a time",
        _noted("-np", _above(1)),
    ),
    _Effect(("-s", "--slots-number"), "keeps {} slots"),
    _Effect(("-w", "--workers"), "runs {} workers"),
    _Effect(("-cb", "--cont-batching"), "lets requests join a running batch"),
    _Effect(
        ("-t", "--threads"), "computes on {} threads", _always("fits one machine; leave it to the planner")
    ),
    _Effect(("-tb", "--threads-batch"), "reads prompts on {} threads"),
    _Effect(
        ("-ngl", "--gpu-layers", "--n-gpu-layers"), "puts {} layers on the GPU", _noted("-ngl", _above(0))
    ),
    _Effect(
        ("--gpu",),
        "computes on {}",
        _always("ends the start on a machine without it, unless it says auto or disable"),
    ),
    _Effect(("-sm", "--split-mode"), "splits the model between GPUs by {}"),
    _Effect(("-ts", "--tensor-split"), "splits the model between GPUs as {}"),
    _Effect(("-mg", "--main-gpu"), "uses GPU {} first"),
    _Effect(("-fa", "--flash-attn"), "uses flash attention", choices=("on", "off", "auto")),
    _Effect(("-ctk", "--cache-type-k"), "stores keys as {}"),
    _Effect(("-ctv", "--cache-type-v"), "stores values as {}"),
    _Effect(("--no-mmap",), "reads the whole model into memory", _MAPPING),
    _Effect(("--mmap",), "maps the model from the disk", _MAPPING),
    _Effect(("--mlock",), "pins the model in memory", _MAPPING),
    _Effect(("-lm", "--load-mode"), "loads the model by {}"),
    _Effect(("--numa",), "spreads work over the processors' memory: {}"),
    _Effect(("--embedding", "--embeddings"), "answers embedding requests", _warn_embedding),
    _Effect(("--pooling",), "makes one vector of many by {}"),
    _Effect(("--embd-normalize",), "scales vectors by norm {}"),
    _Effect(("--rerank", "--reranking"), "answers reranking requests"),
    _Effect(("--no-warmup",), "skips the first trial run"),
    _Effect(("--fast",), "prefers speed over exact results"),
    _Effect(("--precise",), "prefers exact results over speed"),
    _Effect(("--trap",), "stops at arithmetic errors"),
    _Effect(("--recompile",), "builds the GPU code anew at each start"),
    _Effect(("--nocompile",), "never builds GPU code"),
    _Effect(("--tinyblas",), "uses the built-in GPU routines"),
    _Effect(("--nologo",), "prints no logo"),
    _Effect(("--ascii",), "prints plain characters only"),
    _Effect(("--log-disable",), "writes no log"),
    _Effect(("--log-file",), "logs to {}", _WRITES),
    _Effect(("--slot-save-path",), "saves slots to {}", _WRITES),
    _Effect(("-v", "--verbose"), "logs more"),
    _Effect(("--metrics",), "answers /metrics"),
    _Effect(("--props",), "lets callers change settings through /props"),
    _Effect(("--no-webui", "--no-ui"), "serves no web page"),
    _Effect(("--jinja",), "uses the model's own chat template"),
    _Effect(("--chat-template",), "formats chats as {}"),
    _Effect(("-p", "--prompt"), "starts from the prompt {}"),
    _Effect(("-f", "--file"), "starts from the prompt in {}"),
    _Effect(("-spf", "--system-prompt-file"), "reads the system prompt from {}"),
    _Effect(("-n", "--predict", "--n-predict"), "writes at most {} tokens"),
    _Effect(("--temp", "--temperature"), "samples at temperature {}"),
    _Effect(("--seed",), "seeds the sampler with {}"),
    _Effect(("--top-k",), "samples from the best {} tokens"),
    _Effect(("--top-p",), "samples from the best {} of the probability"),
    _Effect(("--min-p",), "drops tokens below {} of the best one's probability"),
    _Effect(("--repeat-penalty",), "holds repetition back by {}"),
    _Effect(("-e", "--escape"), "reads \\n and the like in prompts"),
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
    ours_last = engine.rules is not None and engine.rules.ours_last
    for part, behind in ((embedded.arguments, False), (embedded.after, not ours_last)):
        at, engine = 0, replace(engine, behind=behind)
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


def _warning(flag: _Effect, value: str, engine: _Engine) -> str | None:
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
