"""What every command gets: paths and settings, each found once and only when asked for."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from llamafile_mgr.config import Config, load_config
from llamafile_mgr.paths import Paths, resolve_paths

__all__ = ["Context"]


class Context:
    """The state of one invocation, ``ctx.obj`` of every click command."""

    def __init__(self, config_file: Path | None, debug: bool) -> None:
        self.debug = debug
        self.config_file = config_file

    @functools.cached_property
    def paths(self) -> Paths:
        """Return the directories of this installation."""
        return resolve_paths()

    def load_config(self, flags: Mapping[str, object] | None = None) -> Config:
        """Return the settings, with ``flags`` (``section.key`` -> value or None) on top.

        Raises:
            ConfigError: the file, a variable or a flag is wrong.
        """
        return load_config(self.paths.config_file, file=self.config_file, flags=flags)
