"""Where the files are that settings name beside a model: projectors, adapters, draft models, chat templates.

A file is named as the store knows it, by its path, or by the source from which ``pull MODEL`` fetched it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path

from llamafile_mgr.config import ModelConfig
from llamafile_mgr.engine_settings import CHAT_TEMPLATES
from llamafile_mgr.errors import Error, NotFoundError
from llamafile_mgr.launching.wanted import locate
from llamafile_mgr.store import Store

_SOURCE = re.compile(r"(?:hf|github|pypi):|https?://")


def is_source(text: str) -> bool:
    """Tell whether a file is named by the place where it is fetched from."""
    return _SOURCE.match(text) is not None


def side_sources(model: str, settings: ModelConfig) -> dict[str, str]:
    """Return the sources that the settings of ``model`` name, by their files' names in the store."""
    return {_name(model, key): text for key, text in settings.files.items() if is_source(text)}


def _name(model: str, key: str) -> str:
    return f"{model.replace(':', '.')}.{key}"


def side_paths(models: Mapping[str, ModelConfig], store: Store) -> tuple[Path, ...]:
    """Return the files beside models that are here, templates too. Blocks on the disk."""
    found: list[Path] = []
    for model, settings in models.items():
        for key, text in settings.files.items():
            with contextlib.suppress(Error):  # a model that is served says so when it is planned
                found.append(locate_side_file(model, key, text, store).absolute())
        if settings.chat_template is not None and settings.chat_template not in CHAT_TEMPLATES:
            found.append(Path(settings.chat_template).absolute())
    return tuple(found)


def locate_side_file(model: str, key: str, text: str, store: Store) -> Path:
    """Return the file that this key of the settings of ``model`` names; raises NotFoundError."""
    where = f"models.{model}.{key.partition('-')[0]}"
    if not is_source(text):
        try:
            return locate(text, store)[0]
        except NotFoundError as error:
            raise NotFoundError(f"{where}: {error.message}", cause=error.cause, hint=error.hint) from error
    for entry in store.entries():
        if entry.source == text and not entry.damaged:
            return entry.path
    command = f"llamafile-mgr pull {text} --name {_name(model, key)}"
    raise NotFoundError(f"{where}: {text} is not in the store", hint=command)
