"""What ``doctor`` says of what is installed here: the engines, and the files that the settings name."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass

from llamafile_mgr.config import Config
from llamafile_mgr.engines.families import Family, family_of_version, family_rules
from llamafile_mgr.errors import Error
from llamafile_mgr.launching.local_plans import find_toolbox
from llamafile_mgr.launching.programs import ProgramSearch, find_programs
from llamafile_mgr.launching.unmatched import unmatched_settings
from llamafile_mgr.launching.wanted import locate
from llamafile_mgr.llamafile import inspect_file
from llamafile_mgr.machine.findings import Check, failed, passed, warned
from llamafile_mgr.paths import Paths
from llamafile_mgr.store import Store

_WHEEL = "xllamacpp"


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """One engine that is installed: ``program``: what is run, ``devices``: the GPUs that it says it can use,
    None for one that is not asked."""

    family: str | None
    version: str | None
    program: str
    devices: tuple[str, ...] | None = None

    def describe(self) -> str:
        """Return them in a line."""
        label = " ".join(filter(None, (self.family or "an unknown engine", self.version)))
        if self.devices is None:
            return f"{label}: {self.program}"
        return f"{label}: {self.program}; devices: {', '.join(self.devices) or 'the processor alone'}"


def check_installation(config: Config, paths: Paths) -> tuple[tuple[EngineFacts, ...], tuple[Check, ...]]:
    """Look at the engines and at the models of the settings. Blocks on disks and on programs, asked anew.

    Raises:
        StoreError: the store cannot be read.
    """
    search = find_programs(config.engines, paths.cache, anew=True)
    engines = tuple(_find_engines(search, paths))
    ignored = (
        warned("settings", text, "its keys count for nothing", "name the table as `list` names the model")
        for text in unmatched_settings(config, (), paths)
    )
    return engines, (*_check_engines(engines, search), *_check_models(config, paths), *ignored)


def _find_engines(search: ProgramSearch, paths: Paths) -> Iterator[EngineFacts]:
    toolbox = find_toolbox(Store(paths.store), paths, search.programs)
    for runtime in toolbox.runtimes:
        family = family_of_version(runtime.version or "")
        yield EngineFacts(family and family.value, runtime.version, str(runtime.path))
    for each in Family:
        for program in family_rules(each).installed_programs(toolbox):
            asked = program.flags is not None
            version = program.version if asked else _wheel_version()
            yield EngineFacts(
                each.value, version, " ".join(program.command), program.devices if asked else None
            )


def _wheel_version() -> str | None:
    try:
        return importlib.metadata.version(_WHEEL)
    except importlib.metadata.PackageNotFoundError:
        return None


def _check_engines(engines: tuple[EngineFacts, ...], search: ProgramSearch) -> Iterator[Check]:
    for engine in engines:
        yield passed("engine", engine.describe())
    for program in search.unusable:
        error = program.error()
        if program.told:
            yield failed("engine", error.message, f"serve does not start: {program.cause}", error.hint or "")
        else:
            yield warned(
                "engine",
                error.message,
                program.cause,
                "mend it or take it off PATH; engines.search_path = false looks for none there",
            )
    if not engines:
        hints = (family_rules(family).install_hint for family in Family)
        yield warned(
            "engine",
            "no engine is installed",
            "llamafiles bring their own, and weights alone (GGUF) cannot run",
            ", or ".join(hint for hint in hints if hint is not None),
        )


def _check_models(config: Config, paths: Paths) -> Iterator[Check]:
    store, serve = Store(paths.store), config.serve
    for name in dict.fromkeys((*serve.embed, *serve.generate, *serve.rerank)):
        try:
            path, _ = locate(name, store)
            inspect_file(path)
        except Error as error:
            why = "; ".join(filter(None, (error.cause, "serve does not start with it")))
            yield failed("model", error.message, why, error.hint or "change the settings, or pull it")
        else:
            yield passed("model", f"{name}: the file can be read")
