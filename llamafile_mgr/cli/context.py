"""What every command gets: paths and settings, each found once and only when asked for."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from llamafile_mgr.config import Config
    from llamafile_mgr.paths import Paths


class Context:
    """The state of one invocation, ``ctx.obj`` of every click command."""

    def __init__(self, config_file: str | None) -> None:
        self._config_file = config_file

    @functools.cached_property
    def config_file(self) -> Path | None:
        """Return the settings file that was named."""
        from pathlib import Path

        return None if self._config_file is None else Path(self._config_file)

    @functools.cached_property
    def paths(self) -> Paths:
        """Return the directories of this installation."""
        from llamafile_mgr.paths import resolve_paths

        return resolve_paths()

    def load_config(self, flags: Mapping[str, object] | None = None) -> Config:
        """Return the settings, with ``flags`` (``section.key`` -> value or None) on top.

        Raises:
            ConfigError: the file, a variable or a flag is wrong.
        """
        from llamafile_mgr.config_reading import load_config

        return load_config(self.paths.config_file, file=self.config_file, flags=flags)
