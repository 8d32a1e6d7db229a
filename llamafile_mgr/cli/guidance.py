"""What to type next, for people who have nothing yet: one line with a command that works on this machine."""

from __future__ import annotations

from llamafile_mgr.errors import Error, UsageError
from llamafile_mgr.paths import Paths

#: Suits every machine, and needs no model hub.
_SMALLEST = "all-minilm-l6-v2"


def unnamed_model(paths: Paths, command: str, rest: str = "") -> UsageError:
    """Return the error of a command that needs a model and was given none; ``rest`` follows the models."""
    known = _with_models(paths, command)
    return UsageError("no model was named", hint=known + rest if known else how_to_pull())


def how_to_start(paths: Paths) -> str:
    """Return how a ``serve`` is started here."""
    served = _with_models(paths, "llamafile-mgr serve")
    return f"start one: {served}" if served else how_to_pull()


def how_to_pull() -> str:
    """Return the command that fetches what ``recommend`` would choose for this machine."""
    name = _recommended()
    if name is None:
        return f"llamafile-mgr pull {_SMALLEST}, which runs everywhere"
    return f"llamafile-mgr pull {name}, which suits this machine (llamafile-mgr recommend says why)"


def _with_models(paths: Paths, command: str) -> str | None:
    """Return ``command`` with the models of the store that have a role, None when it has none."""
    from llamafile_mgr.store import Store

    try:
        entries = Store(paths.store).entries()
    except Error:
        return None  # what is wrong with the store is another command's message
    names = {entry.role.value: entry.name.partition(":")[0] for entry in entries if entry.role is not None}
    flags = [f"--{role} {names[role]}" for role in ("embed", "generate", "rerank") if role in names]
    return " ".join([command, *flags]) if flags else None


def _recommended() -> str | None:
    from llamafile_mgr.catalog import load_catalog
    from llamafile_mgr.launching.local_plans import find_site
    from llamafile_mgr.paths import resolve_paths
    from llamafile_mgr.planner.recommendation import recommend
    from llamafile_mgr.planner.verdicts import Use

    catalog = load_catalog()
    try:
        answer = recommend(find_site(catalog, resolve_paths()), catalog, Use())
    except Error:
        return None  # what is wrong with the store is another command's message
    return answer.embedding.model if answer.embedding is not None else None
