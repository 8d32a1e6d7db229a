"""``engine_args``: flags of an engine that settings may pass on, read against a family's allow-list. Pure.

Nothing is passed on that a family does not list. What is listed changes neither the address, the keys nor
the place of the log, and names no file: a family's table is written under that rule.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from llamafile_mgr.errors import PlanError


@dataclass(frozen=True, slots=True)
class ExtraFlag:
    """One flag with all its spellings. ``value``: ``int``, ``float`` or ``text``, None where it takes none.
    ``shapes_vectors``: vectors change with it."""

    names: tuple[str, ...]
    value: str | None = None
    shapes_vectors: bool = False


@dataclass(frozen=True, slots=True)
class ExtraArgument:
    """One flag as it is passed on, with its value where it takes one."""

    flag: ExtraFlag
    words: tuple[str, ...]


_FLAG = re.compile(r"--?[A-Za-z]")
_READERS: Mapping[str, tuple[Callable[[str], object], str]] = {
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "text": (str, "a text that does not begin like a flag"),
}

#: Why a flag is not passed on, by its spellings; what a family lists is passed on all the same.
_REASONS: Mapping[str, str] = {
    "--host --port -l --listen --reuse-port --api-prefix --url-prefix --path --timeout -to --threads-http": (
        "the address is chosen by this program"
    ),
    "--api-key --api-key-file --unsecure --trust": "the key is made by this program",
    "--ssl-key-file --ssl-cert-file": "serve.tls_certificate makes the front speak TLS",
    "--log-file --log-disable --log-prompts-dir --log-jsonl --log-colors --log-prefix --log-timestamps"
    " --log-format -lv --verbosity --log-verbosity -v --verbose --log-verbose --nologo --ascii": (
        "this program reads the engine's log"
    ),
    "-m --model -mu --model-url -hf -hfr --hf-repo -hff --hf-file -hft --hf-token -dr --docker-repo": (
        "the model is the one that this table is for"
    ),
    "-md --model-draft --spec-draft-model --spec-draft-hf -hfd -hfrd --hf-repo-draft": "use the key draft",
    "-mm --mmproj -mmu --mmproj-url --mmproj-auto --no-mmproj --no-mmproj-auto": "use the key mmproj",
    "--lora --lora-scaled --lora-base --lora-init-without-apply": "use the key lora",
    "-c --ctx-size --ctx_size": "use the key context",
    "-np --parallel -s --slots-number": "use the key slots",
    "-t --threads": "use the key threads",
    "-ctk --cache-type-k -ctv --cache-type-v": "use the key cache_type",
    "--rope-scaling --rope-scale --rope-freq-base --rope-freq-scale": "use the key rope",
    "--yarn-orig-ctx --yarn-ext-factor --yarn-attn-factor --yarn-beta-slow --yarn-beta-fast": "use yarn",
    "--chat-template --chat-template-file --jinja --no-jinja": "use the key chat_template",
    "--reasoning-budget": "use the key reasoning_budget",
    "-a --alias": "use the key aliases",
    "--sleep-idle-seconds": "use the key idle_unload",
    "--embedding --embeddings --rerank --reranking --pooling --embd-normalize --server --v2 --cli --chat": (
        "what the model is for follows from how it is served: --embed, --generate or --rerank"
    ),
    "-b --batch-size -ub --ubatch-size": "the batch follows from context and slots: longer texts would fail",
    "--grammar-file --json-schema-file -jf --control-vector --control-vector-scaled --slot-save-path"
    " --media-path -lcs --lookup-cache-static -lcd --lookup-cache-dynamic --models-dir --models-preset"
    " -spf --system-prompt-file -f --file --ui-config-file --webui-config-file --video-ffmpeg-dir": (
        "it reads or writes files other than the model's own"
    ),
    "--rpc": "texts would leave this machine; other engines are named with the key remote",
    "--tools --tools-runtime --mcp-servers-config --mcp-servers-json -ag --agent --ui-mcp-proxy": (
        "the engine would act on this machine for whoever asks it"
    ),
    "--ui --webui --no-ui --no-webui --props --slots --no-slots --metrics": (
        "routes of the engine itself are reached by nobody but this program"
    ),
    "-h --help --usage --version --list-devices -cl --cache-list": "the engine would end at once",
}
_WHY = {name: why for names, why in _REASONS.items() for name in names.split()}


def parse_flag_table(text: str) -> dict[str, ExtraFlag]:
    """Return a table of flags by every spelling: lines such as ``-n --predict int``, ``!`` where it shapes
    vectors."""
    flags: dict[str, ExtraFlag] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        words = line.split()
        names = tuple(word for word in words if word.startswith("-"))
        value = next((word for word in words if word in _READERS), None)
        flag = ExtraFlag(names, value, "!" in words)
        flags.update(dict.fromkeys(names, flag))
    return flags


def read_engine_args(words: Sequence[str], allowed: Mapping[str, ExtraFlag]) -> tuple[ExtraArgument, ...]:
    """Return the flags in ``words``, each with its value in the next word, or as ``FLAG=VALUE``.

    Raises:
        PlanError: a flag that is not allowed, without its value or with a wrong one, or named twice.
    """
    found: list[ExtraArgument] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=") if word.startswith("-") else (word, "", "")
        flag = allowed.get(name)
        if flag is None:
            raise _not_allowed(name, allowed)
        if any(each.flag == flag for each in found):
            raise PlanError(f"engine_args: {name} is there twice", hint=f"keep one of {' '.join(flag.names)}")
        if flag.value is None:
            if equals:
                raise PlanError(f"engine_args: {name} takes no value")
            found.append(ExtraArgument(flag, (name,)))
            continue
        if not equals:
            if not rest:
                raise PlanError(f"engine_args: {name} lacks its value")
            value = rest.pop(0)
        _check_value(name, flag.value, value)
        found.append(ExtraArgument(flag, (name, value)))
    return tuple(found)


def _check_value(name: str, kind: str, text: str) -> None:
    """Refuse a value of the wrong kind. Texts that look like flags are refused too: a llamafile takes its own
    flags out of the line before the rest is read, so that such a value might not be one any more."""
    read, meaning = _READERS[kind]
    try:
        value = read(text)
        good = "\0" not in text and (not isinstance(value, float) or math.isfinite(value))
        good = good and not (isinstance(value, str) and value.startswith("-"))
    except ValueError:
        good = False
    if not good:
        raise PlanError(f"engine_args: the value of {name} is {text!r}, and must be {meaning}")


def _not_allowed(name: str, allowed: Mapping[str, ExtraFlag]) -> PlanError:
    if not name.startswith("-"):
        return PlanError(
            f"engine_args: {name!r} is no flag",
            cause="every flag is a text of its own, and so is its value",
            hint='engine_args = ["--top-k", "20"]',
        )
    why = _WHY.get(name)
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.7) if why is None else ()
    hint = f"did you mean {near[0]}?" if near else None
    return PlanError(
        f"engine_args: {name} is not passed on", cause=why or "it is no flag of the list", hint=hint
    )


def find_unlisted(words: Sequence[str], known: Collection[str]) -> str | None:
    """Return the first flag in ``words``, or flag with its value, that a program's help does not list.

    ``known``: as ``LaunchSettings.known_flags``; a flag for which it names no values takes any.
    """
    flag = ""
    for word in words:
        if _FLAG.match(word):
            flag = word
            if flag not in known:
                return flag
        elif f"{flag} {word}" not in known and any(
            each.startswith(f"{flag} ") and not each.endswith(" *") for each in known
        ):
            return f"{flag} {word}"
    return None


def drop_flags(arguments: Sequence[str], dropped: Collection[str]) -> tuple[str, ...]:
    """Return ``arguments`` without these flags and their values."""
    return tuple(word for word, named in _marked(arguments, dropped) if not named)


def take_flags(arguments: Sequence[str], taken: Collection[str]) -> tuple[str, ...]:
    """Return these flags and their values out of ``arguments``."""
    return tuple(word for word, named in _marked(arguments, taken) if named)


def _marked(arguments: Sequence[str], names: Collection[str]) -> Iterator[tuple[str, bool]]:
    """Yield every word, and whether it is one of these flags or the value of one."""
    for before, word in pairwise(("", *arguments)):
        yield word, word in names or (before in names and not word.startswith("-"))
