"""Which engine runs a model: its own, an installed runtime of another release, or the embedded one. Pure.

llamafile 0.8.13 to 0.9.3 refuse embeddings in ``--server``; 0.7 to 0.8.1 give wrong vectors, older ones
know no BERT (sources of those releases; issues 303, 391 and 702 of mozilla-ai/llamafile). Weights inside
such a file are run with ``-m`` on a runtime that is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llamafile_mgr.catalog import Role
from llamafile_mgr.errors import PlanError
from llamafile_mgr.llamafile import Family, FileKind, family_of_version, parse_version
from llamafile_mgr.planner.plans import Reason
from llamafile_mgr.planner.subjects import InstalledRuntime, Subject, Toolbox

__all__ = ["Selection", "select_engine"]

_EMBEDS_RIGHT = ((0, 8, 2), (0, 8, 12))


@dataclass(frozen=True, slots=True)
class Selection:
    """The engine: its family, the argv in front of the flags, and the weights that it must be given."""

    family: Family
    program: tuple[str, ...]
    weights: Path | None
    reason: Reason


def select_engine(subject: Subject, toolbox: Toolbox) -> Selection:
    """Return the engine for ``subject``.

    Raises:
        PlanError: nothing that is installed can run it; the hint says what to pull.
    """
    facts = subject.facts
    if facts.kind is FileKind.RUNTIME:
        raise PlanError(
            f"{subject.name} is an engine without weights",
            hint="pack weights onto it: llamafile-mgr pack --runtime R --weights W.gguf -o X.llamafile",
        )
    if facts.kind is FileKind.WEIGHTS:
        return _borrow_engine(subject, toolbox, "it is weights without an engine")
    unfit = _why_unfit(subject)
    if unfit is not None:
        return _borrow_engine(subject, toolbox, unfit)
    if facts.family is None:
        raise PlanError(f"the engine inside {subject.name} could not be told")
    if facts.family is Family.EMBEDDED and toolbox.python is None:
        raise _no_embedded(subject)
    version = f" {facts.engine_version}" if facts.engine_version else ""
    return Selection(
        facts.family,
        ("sh", str(subject.path)),
        None,
        Reason("engine", f"{facts.family.value}{version}", "the file's own engine can do it"),
    )


def _why_unfit(subject: Subject) -> str | None:
    """Return why the file's own engine must not be used, None when it may."""
    facts = subject.facts
    if facts.family is None:
        return "the release of its engine could not be told"
    if facts.family is not Family.V1 or subject.role is not Role.EMBED:
        return None
    version = parse_version(facts.engine_version or "")
    if version is None:
        return None
    first, last = _EMBEDS_RIGHT
    if version > last:
        return f"its engine {facts.engine_version} refuses embeddings"
    if version < first:
        return f"its engine {facts.engine_version} gives wrong vectors"
    return None


def _borrow_engine(subject: Subject, toolbox: Toolbox, why: str) -> Selection:
    runtime = _newest_runtime(toolbox)
    if runtime is not None:
        return Selection(
            Family.V10,
            ("sh", str(runtime.path)),
            subject.path,
            Reason("engine", runtime.name, f"{why}; this installed runtime can load it"),
        )
    if toolbox.python is not None:
        return Selection(
            Family.EMBEDDED,
            (str(toolbox.python), "-m", "llamafile_mgr.engines.embedded"),
            subject.path,
            Reason("engine", "embedded", f"{why}; the embedded engine can load it"),
        )
    raise PlanError(
        f"nothing that is installed can run {subject.name}",
        cause=why,
        hint="llamafile-mgr pull llamafile-0.10.5, or pip install 'llamafile-mgr[embedded]'",
    )


def _newest_runtime(toolbox: Toolbox) -> InstalledRuntime | None:
    fitting = [
        runtime
        for runtime in toolbox.runtimes
        if runtime.version is not None and family_of_version(runtime.version) is Family.V10
    ]
    return max(fitting, key=lambda runtime: parse_version(runtime.version or "") or (0, 0, 0), default=None)


def _no_embedded(subject: Subject) -> PlanError:
    return PlanError(
        f"{subject.name} was packed onto the embedded engine, which is not installed",
        hint="pip install 'llamafile-mgr[embedded]'",
    )
