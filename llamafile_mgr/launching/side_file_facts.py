"""What is in the files that settings name beside a model, and whether engines can take them."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from stat import S_ISREG

from llamafile_mgr.config import ModelConfig
from llamafile_mgr.engine_settings import CHAT_TEMPLATES
from llamafile_mgr.errors import ConfigError, InvalidFileError
from llamafile_mgr.launching.side_files import locate_side_file
from llamafile_mgr.llamafile import FileKind, inspect_file
from llamafile_mgr.llamafile.identity import identify_weights
from llamafile_mgr.planner.model_specs import SideFile, SideFiles
from llamafile_mgr.store import Store

_MOST_TEMPLATE_BYTES = 1 << 20


def read_side_files(model: str, settings: ModelConfig, store: Store) -> SideFiles:
    """Return the files that the settings of ``model`` name. Blocks on the disk.

    Raises:
        NotFoundError: one is not here; the hint is the command that fetches it.
        InvalidFileError: one is no GGUF, or a broken one.
        ConfigError: a chat template that is neither a name nor a text in a file.
    """
    found = {key: _find(model, key, text, store) for key, text in settings.files.items()}
    return SideFiles(
        mmproj=found.get("mmproj"),
        lora=tuple(file for key, file in found.items() if key.startswith("lora-")),
        draft=found.get("draft"),
        chat_template=_find_template(model, settings.chat_template),
    )


def _find(model: str, key: str, text: str, store: Store) -> SideFile:
    path = locate_side_file(model, key, text, store)
    facts = inspect_file(path)
    weights = facts.model
    if facts.kind is not FileKind.WEIGHTS or weights is None:
        raise InvalidFileError(
            f"models.{model}.{key.partition('-')[0]}: {text} is no GGUF", hint="engines take a bare GGUF here"
        )
    return SideFile(text, path.absolute(), weights.gguf, facts.size, identify_weights(path, weights))


def _find_template(model: str, text: str | None) -> Path | None:
    """Return the file that holds the template, None for a built-in one or none."""
    if text is None:
        return None
    if text in CHAT_TEMPLATES:
        return None
    path, where = Path(text), f"models.{model}.chat_template"
    if "\n" in text or "{" in text:
        raise ConfigError(f"{where} is a template itself", hint="write it into a file, and name that")
    if not os.path.exists(path) and Path(text).name == text:  # also where no file could have that name
        near = difflib.get_close_matches(text, CHAT_TEMPLATES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"built in are {', '.join(CHAT_TEMPLATES)}"
        raise ConfigError(f"{where}: {text} is neither a built-in template nor a file", hint=hint)
    try:
        found = path.stat()
        if not S_ISREG(found.st_mode) or found.st_size > _MOST_TEMPLATE_BYTES:
            kind = "too large for a template" if S_ISREG(found.st_mode) else "no regular file"
            raise ConfigError(f"{where}: {text} is {kind}")
        path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where}: cannot read {text}", cause=str(error)) from error
    return path.absolute()
