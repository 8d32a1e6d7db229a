"""Where a recommendation would run: this machine with what its store holds. Blocks on disks."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from llamafile_mgr.catalog import Catalog
from llamafile_mgr.engines.toolbox import InstalledRuntime
from llamafile_mgr.errors import InvalidFileError, NotFoundError
from llamafile_mgr.launching.local_plans import find_toolbox
from llamafile_mgr.llamafile import FileFacts, inspect_file
from llamafile_mgr.machine import Machine, detect_machine
from llamafile_mgr.paths import Paths
from llamafile_mgr.planner.prospects import Site
from llamafile_mgr.store import Store

__all__ = ["find_site"]


def find_site(catalog: Catalog, paths: Paths, machine: Machine | None = None) -> Site:
    """Return this machine, or the one that is given, with the engines and models of this store."""
    stored: dict[tuple[str, str], FileFacts] = {}
    for entry in Store(paths.store).entries():
        if entry.model_id is not None and entry.artifact is not None:
            # What cannot be read is not better than what was not pulled: the catalog tells of it.
            with contextlib.suppress(InvalidFileError, NotFoundError):
                stored[entry.model_id, entry.artifact] = inspect_file(entry.path)
    newest = next(iter(catalog.runtimes.values()))
    runtime = InstalledRuntime(newest.name, Path(newest.name), newest.engine_version, size=newest.size or 0)
    # Variables of this computer say nothing of another one.
    environ = os.environ if machine is None else {}
    return Site(machine or detect_machine(), find_toolbox(paths), environ, stored, runtime)
