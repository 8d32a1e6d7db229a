"""Which engine runs a model: its own, a runtime of another release, or one that is installed otherwise. Pure.

The candidates stand in this order, programs that the user named first of all, and the first that is not known
to be bad for this model on this machine (``EngineFamily.known_bad``) is taken. Weights in a file whose own
engine will not do are given with ``-m``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from llamafile_mgr.catalog import Pooling, Role
from llamafile_mgr.engines.arguments import EmbeddedArguments
from llamafile_mgr.engines.families import Family, family_of_version, family_rules, parse_version
from llamafile_mgr.engines.known_bad import Candidate, Version
from llamafile_mgr.engines.toolbox import InstalledRuntime, Toolbox
from llamafile_mgr.errors import PlanError
from llamafile_mgr.llamafile import FileFacts, FileKind
from llamafile_mgr.machine import Machine, System
from llamafile_mgr.planner.asked_features import AskedFeatures
from llamafile_mgr.planner.model_specs import ModelSpec
from llamafile_mgr.planner.plans import Reason

_UNKNOWN_RELEASE = "the release of its engine could not be told"
_NO_SHELL = "there is no sh, and no ape loader, to start llamafiles with"


@dataclass(frozen=True, slots=True)
class Selection:
    """The engine: its family, the argv in front of the flags, and the weights that it must be given.

    ``gpu_modules``: the GPU libraries that it brings, None when unknown. ``warning``: what is wrong with
    it all the same. ``known_bad``: what is so wrong that it had to be allowed. ``known_flags``: as in
    ``LaunchSettings``.
    """

    family: Family
    program: tuple[str, ...]
    weights: Path | None
    reason: Reason
    gpu_modules: tuple[str, ...] | None = None
    warning: str | None = None
    known_bad: str | None = None
    known_flags: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class _Option:
    """One engine that could be taken, and ``unfit``: why not, None when it can. ``bad``: it is there, and
    known to fail."""

    selection: Selection
    whose: str
    unfit: str | None = None
    slow: bool = False
    bad: bool = False


def select_engine(
    spec: ModelSpec,
    machine: Machine,
    toolbox: Toolbox,
    pooling: Pooling | None,
    asked: AskedFeatures,
    *,
    allow_known_bad: bool = False,
) -> Selection:
    """Return the engine for ``spec``; ``pooling`` is what its vectors need, ``asked`` what its settings want.

    ``allow_known_bad``: the file's own engine is taken even so.

    Raises:
        PlanError: nothing that is installed can run it; the hint says what to pull.
    """
    if spec.facts.kind is FileKind.RUNTIME:
        raise PlanError(
            f"{spec.name} is an engine without weights",
            hint="pack weights onto it: llamafile-mgr pack --runtime R --weights W.gguf -o X.llamafile",
        )
    search = _Search(spec, machine, toolbox, pooling, asked)
    own = list(search.own_options())
    told, found = list(search.installed_options(told=True)), search.installed_options(told=False)
    options = [*told, *own[:1], *search.runtime_options(), *found, *own[1:]]
    because = _why_not_own(spec, own)
    if allow_known_bad and own and own[0].bad and all(option.unfit for option in told):
        return replace(own[0].selection, known_bad=own[0].unfit)
    for at, option in enumerate(options):
        if option.unfit is None:
            return _finish(option, _why_passed(because, options[:at]))
    for option in options:
        if option.slow:
            return _finish(option, because, warning=option.unfit)
    raise _nothing_runs(spec, options, because)


def judge_own_engine(facts: FileFacts, role: Role) -> str | None:
    """Return what is known to be bad about the engine in a file, on whatever machine; None for nothing."""
    weights, version = facts.model, parse_version(facts.engine_version or "")
    if weights is None or facts.family is None:
        return None
    gguf = weights.gguf
    candidate = Candidate(
        version,
        role,
        Pooling(gguf.pooling) if gguf.pooling is not None else None,
        Machine(System.OTHER),
        program_bytes=0,
        ends_sequences=gguf.add_eos is True,
        models=len(facts.weights),
        word_pieces=gguf.is_word_piece,
    )
    rules = family_rules(facts.family)
    if facts.arguments is not None and (refused := rules.refuse_embedded(facts.arguments)) is not None:
        return refused
    bad = rules.find_known_bad(candidate)
    return None if bad is None or bad.slow else bad.explain(version)


@dataclass(frozen=True, slots=True)
class _Search:
    """What is looked for, and where."""

    spec: ModelSpec
    machine: Machine
    toolbox: Toolbox
    pooling: Pooling | None
    asked: AskedFeatures

    def own_options(self) -> Iterator[_Option]:
        """Yield the engines inside the file: its server, and a second one where it carries that too."""
        facts = self.spec.facts
        if facts.kind is FileKind.WEIGHTS or facts.family is None:
            return
        version = parse_version(facts.engine_version or "")
        prefix = self._launch_prefix(self.spec.path)
        for family in [facts.family, *_second_families(version, self.spec.role)]:
            rules = family_rules(family)
            label = f"{family.value} {facts.engine_version}" if facts.engine_version else family.value
            reason = Reason("engine", label, rules.own_why)
            selection = Selection(family, prefix or (), None, reason, facts.gpu_modules)
            missing = _NO_SHELL if prefix is None else None
            if not rules.is_in_file and not rules.installed_programs(self.toolbox):
                missing = f"it was packed onto the {family.value} engine, which is not installed"
            size = facts.size if rules.is_in_file else 0
            yield self._judge(selection, "own", missing, version, size, facts.arguments)

    def runtime_options(self) -> Iterator[_Option]:
        """Yield the installed runtimes that can load other files, the newest first."""
        fitting: list[tuple[Version, Family, InstalledRuntime]] = []
        for runtime in self.toolbox.runtimes:
            version, family = parse_version(runtime.version or ""), family_of_version(runtime.version or "")
            if version is not None and family is not None and family_rules(family).runs_other_weights:
                fitting.append((version, family, runtime))
        for version, family, runtime in sorted(fitting, key=lambda each: each[0], reverse=True):
            prefix = self._launch_prefix(runtime.path)
            reason = Reason("engine", runtime.name, "this installed runtime can load it")
            selection = Selection(family, prefix or (), self.spec.path, reason, runtime.gpu_modules)
            missing = _NO_SHELL if prefix is None else None
            yield self._judge(selection, runtime.name, missing, version, runtime.size, runtime.arguments)

    def installed_options(self, *, told: bool) -> Iterator[_Option]:
        """Yield the engines that are no files in the store: those that the user named, or the others."""
        for family in Family:
            rules = family_rules(family)
            for program in rules.installed_programs(self.toolbox):
                if program.told is not told:
                    continue
                label = f"{family.value} {program.version}" if program.version else family.value
                why = (
                    f"{program.command[0]} was named to run models" if told else f"{program.name} can load it"
                )
                command = program.command
                if self.spec.facts.kind is not FileKind.WEIGHTS and not rules.reads_llamafiles:
                    command = (*self.toolbox.unpacker, *command)
                    why += "; the weights are unpacked for it at the first start"
                reason = Reason("engine", label, why)
                modules = program.gpu_modules
                selection = Selection(
                    family, command, self.spec.path, reason, modules, known_flags=program.flags
                )
                missing = rules.find_lack(program, self.spec.role, self.pooling)
                yield self._judge(selection, label, missing)

    def _judge(
        self,
        selection: Selection,
        whose: str,
        missing: str | None = None,
        version: Version | None = None,
        program_bytes: int = 0,
        embedded: EmbeddedArguments | None = None,
    ) -> _Option:
        """Return the engine with what is known to be bad about it, or ``missing`` where it cannot start.

        ``embedded``: the arguments in the file that is executed.
        """
        spec, facts, machine = self.spec, self.spec.facts, self.machine
        candidate = Candidate(
            version,
            spec.role,
            self.pooling,
            machine,
            program_bytes,
            ends_sequences=spec.gguf is not None and spec.gguf.add_eos is True,
            models=len(facts.weights),
            arguments=(*embedded.arguments, *embedded.after) if embedded is not None else (),
            uses_gpu=any(gpu.backend and (machine.memory_of(gpu) or 0) > facts.size for gpu in machine.gpus),
            borrowed=selection.weights is not None,
            features=frozenset(self.asked.features.asked()),
            word_pieces=spec.gguf is not None and spec.gguf.is_word_piece,
        )
        rules = family_rules(selection.family)
        asked = self.asked
        missing = missing or (rules.refuse_embedded(embedded) if embedded is not None else None)
        missing = missing or rules.refuse_asked(asked.features, asked.engine_args, selection.known_flags)
        bad = rules.find_known_bad(candidate)
        if missing is not None or bad is None:
            return _Option(selection, whose, missing)
        if bad.no_gpu:
            selection = replace(selection, gpu_modules=())
        return _Option(selection, whose, bad.explain(version), bad.slow, bad=not bad.slow)

    def _launch_prefix(self, path: Path) -> tuple[str, ...] | None:
        """Return the argv that starts a llamafile, None when nothing can; never the bare file on POSIX."""
        if self.machine.system is System.WINDOWS:
            return (str(path),)
        if self.toolbox.shell:
            return ("sh", str(path))
        return (str(self.toolbox.ape), str(path)) if self.toolbox.ape is not None else None


def _second_families(version: Version | None, role: Role) -> list[Family]:
    """Return what a release carries beside its first server, of use for this role."""
    if version is None:
        return []
    rules = ((family, family_rules(family)) for family in Family)
    carried = ((f, r) for f, r in rules if r.also_in and r.also_in[0] <= version <= r.also_in[1])
    return [family for family, each in carried if role in each.also_for]


def _why_not_own(spec: ModelSpec, own: list[_Option]) -> str | None:
    """Return why the file's own engine is not taken, None when it can be."""
    if spec.facts.kind is FileKind.WEIGHTS:
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
    if because is not None and because != warning:
        reason = selection.reason
        selection = replace(selection, reason=replace(reason, why=f"{because}; {reason.why}"))
    return replace(selection, warning=warning)


def _nothing_runs(spec: ModelSpec, options: list[_Option], because: str | None) -> PlanError:
    own = spec.facts.family
    packed = own is not None and not family_rules(own).is_in_file
    hints = (family_rules(family).install_hint for family in ([own] if packed and own else Family))
    return PlanError(
        f"nothing that is installed can run {spec.name}",
        cause=_why_passed(because, options),
        hint=", or ".join(hint for hint in hints if hint is not None),
    )
