"""Which engine runs a model: its own, an installed runtime of another release, or the embedded one. Pure.

The candidates stand in this order, and the first that is not known to be bad for this model on this machine
(``known_bad.py``) is taken. Weights inside a file whose own engine will not do are given with ``-m``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from llamafile_mgr.catalog import Pooling, Role
from llamafile_mgr.errors import PlanError
from llamafile_mgr.llamafile import Family, FileKind, family_of_version, parse_version
from llamafile_mgr.machine import Machine, System
from llamafile_mgr.planner.known_bad import Candidate, KnownBad, explain, find_known_bad
from llamafile_mgr.planner.plans import Reason
from llamafile_mgr.planner.subjects import InstalledRuntime, Subject, Toolbox

__all__ = ["Selection", "select_engine"]

_V2_IN_SERVER = ((0, 9, 0), (0, 9, 3))
_UNKNOWN_RELEASE = "the release of its engine could not be told"
_NO_SHELL = "there is no sh, and no ape loader, to start llamafiles with"


@dataclass(frozen=True, slots=True)
class Selection:
    """The engine: its family, the argv in front of the flags, and the weights that it must be given.

    ``gpu_modules``: the GPU libraries that it brings, None when unknown. ``warning``: what is wrong with
    it all the same.
    """

    family: Family
    program: tuple[str, ...]
    weights: Path | None
    reason: Reason
    version: tuple[int, int, int] | None = None
    gpu_modules: tuple[str, ...] | None = None
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class _Option:
    """One engine that could be taken, and ``unfit``: why not, None when it can."""

    selection: Selection
    candidate: Candidate
    whose: str
    unfit: str | None = None
    slow: bool = False


def select_engine(subject: Subject, machine: Machine, toolbox: Toolbox, pooling: Pooling | None) -> Selection:
    """Return the engine for ``subject``; ``pooling`` is what its vectors need.

    Raises:
        PlanError: nothing that is installed can run it; the hint says what to pull.
    """
    if subject.facts.kind is FileKind.RUNTIME:
        raise PlanError(
            f"{subject.name} is an engine without weights",
            hint="pack weights onto it: llamafile-mgr pack --runtime R --weights W.gguf -o X.llamafile",
        )
    own = _own_options(subject, machine, toolbox, pooling)
    others = [
        *_runtime_options(subject, machine, toolbox, pooling),
        *_embedded_options(subject, machine, toolbox, pooling),
    ]
    options = [*own[:1], *others, *own[1:]]
    because = _why_not_own(subject, own)
    for at, option in enumerate(options):
        if option.unfit is None:
            return _finish(option, _why_passed(because, options[:at]))
    for option in options:
        if option.slow:
            return _finish(option, because, warning=option.unfit)
    raise _nothing_runs(subject, options, because)


def _own_options(
    subject: Subject, machine: Machine, toolbox: Toolbox, pooling: Pooling | None
) -> list[_Option]:
    """Return the engines inside the file: its server and, where it carries llamafiler too, that one."""
    facts = subject.facts
    if facts.kind is FileKind.WEIGHTS or facts.family is None:
        return []
    version = parse_version(facts.engine_version or "")
    families = [facts.family]
    if version is not None and _V2_IN_SERVER[0] <= version <= _V2_IN_SERVER[1]:
        families += [Family.V2] if subject.role is Role.EMBED else []
    arguments = facts.arguments
    options = []
    for family in families:
        candidate = Candidate(
            family,
            version,
            subject.role,
            pooling,
            facts,
            machine,
            program_bytes=0 if family is Family.EMBEDDED else facts.size,
            arguments=(*arguments.arguments, *arguments.after) if arguments else (),
            uses_gpu=_uses_gpu(machine, facts.size),
        )
        label = f"{family.value} {facts.engine_version}" if facts.engine_version else family.value
        prefix = _launch_prefix(machine, toolbox, subject.path)
        selection = Selection(
            family,
            prefix or (),
            None,
            Reason("engine", label, "the file's own engine can do it"),
            version,
            facts.gpu_modules if family is Family.V10 else None,
        )
        missing = _NO_SHELL if prefix is None else None
        if family is Family.EMBEDDED and toolbox.python is None:
            missing = "it was packed onto the embedded engine, which is not installed"
        options.append(_judge(selection, candidate, "own", missing))
    return options


def _runtime_options(
    subject: Subject, machine: Machine, toolbox: Toolbox, pooling: Pooling | None
) -> list[_Option]:
    """Return the installed runtimes that can load other files, the newest first."""
    fitting: list[tuple[tuple[int, int, int], InstalledRuntime]] = []
    for runtime in toolbox.runtimes:
        version = parse_version(runtime.version or "")
        if version is not None and family_of_version(runtime.version or "") is Family.V10:
            fitting.append((version, runtime))
    options = []
    for version, runtime in sorted(fitting, key=lambda pair: pair[0], reverse=True):
        prefix = _launch_prefix(machine, toolbox, runtime.path)
        candidate = Candidate(
            Family.V10,
            version,
            subject.role,
            pooling,
            subject.facts,
            machine,
            program_bytes=runtime.size,
            uses_gpu=_uses_gpu(machine, subject.facts.size),
            borrowed=True,
        )
        selection = Selection(
            Family.V10,
            prefix or (),
            subject.path,
            Reason("engine", runtime.name, "this installed runtime can load it"),
            version,
            runtime.gpu_modules,
        )
        options.append(_judge(selection, candidate, runtime.name, _NO_SHELL if prefix is None else None))
    return options


def _embedded_options(
    subject: Subject, machine: Machine, toolbox: Toolbox, pooling: Pooling | None
) -> list[_Option]:
    if toolbox.python is None:
        return []
    candidate = Candidate(
        Family.EMBEDDED, None, subject.role, pooling, subject.facts, machine, program_bytes=0, borrowed=True
    )
    selection = Selection(
        Family.EMBEDDED,
        (str(toolbox.python), "-m", "llamafile_mgr.engines.embedded"),
        subject.path,
        Reason("engine", "embedded", "the embedded engine can load it"),
        None,
        (),
    )
    return [_judge(selection, candidate, "embedded", None)]


def _judge(selection: Selection, candidate: Candidate, whose: str, missing: str | None) -> _Option:
    bad: KnownBad | None = find_known_bad(candidate)
    if missing is not None:
        return _Option(selection, candidate, whose, missing)
    if bad is None:
        return _Option(selection, candidate, whose)
    if bad.no_gpu:
        selection = replace(selection, gpu_modules=())
    return _Option(selection, candidate, whose, explain(bad, candidate.version), bad.slow)


def _why_not_own(subject: Subject, own: list[_Option]) -> str | None:
    """Return why the file's own engine is not taken, None when it can be."""
    if subject.facts.kind is FileKind.WEIGHTS:
        return "it is weights without an engine"
    return own[0].unfit if own else _UNKNOWN_RELEASE


def _why_passed(because: str | None, passed: list[_Option]) -> str | None:
    """Return why nothing that stands earlier was taken, each reason once."""
    said = [because] if because is not None else []
    for option in passed:
        if option.unfit is not None and option.unfit not in said:
            said.append(f"{option.whose}: {option.unfit}")
    return "; ".join(said) or None


def _finish(option: _Option, because: str | None, warning: str | None = None) -> Selection:
    selection = option.selection
    reason = selection.reason
    if option.whose != "own" and because is not None:
        reason = Reason(reason.setting, reason.value, f"{because}; {reason.why}")
    elif selection.family is Family.V2:
        reason = Reason(reason.setting, reason.value, f"{because}; its llamafiler can do it")
    return replace(selection, reason=reason, warning=warning)


def _nothing_runs(subject: Subject, options: list[_Option], because: str | None) -> PlanError:
    if subject.facts.family is Family.EMBEDDED:
        hint = "pip install 'llamafile-mgr[embedded]'"
    else:
        hint = "llamafile-mgr pull llamafile-0.10.5, or pip install 'llamafile-mgr[embedded]'"
    return PlanError(
        f"nothing that is installed can run {subject.name}", cause=_why_passed(because, options), hint=hint
    )


def _launch_prefix(machine: Machine, toolbox: Toolbox, path: Path) -> tuple[str, ...] | None:
    """Return the argv that starts a llamafile, None when nothing can; never the bare file on POSIX."""
    if machine.system is System.WINDOWS:
        return (str(path),)
    if toolbox.shell:
        return ("sh", str(path))
    return (str(toolbox.ape), str(path)) if toolbox.ape is not None else None


def _uses_gpu(machine: Machine, size: int) -> bool:
    """Tell whether some GPU has room for a model of this size."""
    return any(gpu.backend and (machine.memory_of(gpu) or 0) > size for gpu in machine.gpus)
