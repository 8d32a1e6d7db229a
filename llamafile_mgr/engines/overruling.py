"""What a llamafile's own arguments would undo of ours: the address, the key, and who may reach what. Pure.

Engines put the arguments of their file in front of ours, where ours replace them, and those behind ``...``
after ours, where they win. Some add to ours wherever they stand.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from llamafile_mgr.engines.arguments import ArgumentSyntax, EmbeddedArguments, parse_arguments
from llamafile_mgr.engines.engine_args import ExtraFlag, read_engine_args
from llamafile_mgr.errors import PlanError

#: Flag -> what it does beside ours, which do not replace it.
_ADDING: Mapping[str, str] = {
    name: why
    for names, why in (
        ("--api-key --api-key-file", "lets callers in with a key that is not ours"),
        ("--api-prefix --url-prefix --ssl-key-file --ssl-cert-file", "moves the routes that are asked"),
        ("--path --www-root --media-path --models-dir", "hands out files of this machine"),
        ("--reuse-port", "lets other programs take its port"),
        ("--rpc", "sends texts to other machines"),
        (
            "--tools --tools-runtime --mcp-servers-config --mcp-servers-json -ag --agent --ui-mcp-proxy",
            "lets the model act on this machine",
        ),
    )
    for name in names.split()
}
#: A variable that is not set leaves nothing: what stands around it is the flag then.
_VARIABLE = re.compile(r"\$(?:\w+|\{[^}]*\})", re.ASCII)


def find_overruling(
    embedded: EmbeddedArguments,
    allowed: Mapping[str, ExtraFlag],
    ours: Collection[str],
    *,
    ours_last: bool = False,
) -> str | None:
    """Return what the arguments of a file would undo of ours, None for nothing.

    ``allowed``: what may stand behind ours, as ``engine_args`` may hold it, except for ``ours``, the flags
    that we set. ``ours_last``: the engine puts ours behind all of the file's. Both readings of the file are
    looked at, since an engine of unknown release may have either.
    """
    readings = [parse_arguments(embedded.raw, syntax) for syntax in ArgumentSyntax] + [embedded]
    for reading in readings:
        for word in (*reading.arguments, *reading.after):
            name = _flag_of(word)
            if name in _ADDING:
                return f"its embedded argument {name} {_ADDING[name]}"
    for reading in [] if ours_last else readings:
        if not _harmless(reading.after, allowed, ours):
            return (
                f"its embedded arguments put {' '.join(reading.after)} behind ours, where they overrule them"
            )
    return None


def _flag_of(word: str) -> str:
    """Return the flag that an engine takes a word for: without variables, values and underscores."""
    name = _VARIABLE.sub("", word).partition("=")[0]
    return name.replace("_", "-") if name.startswith("--") else name


def _harmless(after: tuple[str, ...], allowed: Mapping[str, ExtraFlag], ours: Collection[str]) -> bool:
    try:
        found = read_engine_args(after, allowed)
    except PlanError:
        return False
    return not any(name in ours for each in found for name in each.flag.names)
