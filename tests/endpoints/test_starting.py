"""What a start says that fails before there is a service to ask."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamafile_mgr.catalog import Role
from llamafile_mgr.config_reading import load_config
from llamafile_mgr.endpoints.joining import join_or_start
from llamafile_mgr.endpoints.service_start import _read_failure
from llamafile_mgr.endpoints.sharing_terms import choose
from llamafile_mgr.errors import EngineStartError, IntegrityError, StoreError
from llamafile_mgr.launching.wanted import Wanted, WantedModels
from llamafile_mgr.paths import resolve_paths


def test_a_lock_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    paths = resolve_paths({"LLAMAFILE_MGR_HOME": str(tmp_path)})
    wanted = WantedModels((Wanted(str(model), Role.EMBED),))
    choice = choose(wanted, load_config(paths.config_file, environ={}), paths)
    (paths.runtime / f"exec-{choice.key}.lock").mkdir(parents=True)
    (paths.runtime / f"exec-{choice.key}.holder").mkdir()
    with pytest.raises(StoreError, match=r"exec-.*\.lock"):
        join_or_start(choice, lambda _: None)


@pytest.mark.parametrize(
    ("log", "error", "cause"),
    [
        ("", EngineStartError, "full disk"),
        ("Killed\n", EngineStartError, "Killed"),
        ('{"event": "failed", "code": "integrity", "message": "m", "cause": "c"}\n', IntegrityError, "c"),
    ],
)
def test_the_log_says_why(tmp_path: Path, log: str, error: type[Exception], cause: str) -> None:
    file = tmp_path / "exec.log"
    file.write_text(log)
    found = _read_failure(file)
    assert type(found) is error
    assert cause in str(found.cause)
