"""Files that many tests read; each is written once per session and never changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.llamafile.llamafile_samples import write_bert, write_llama, write_llamafile, write_runtime


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep commands away from the directories of whoever runs the tests."""
    monkeypatch.setenv("LLAMAFILE_MGR_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the shared files."""
    return tmp_path_factory.mktemp("samples")


@pytest.fixture(scope="session")
def bert(samples: Path) -> Path:
    return write_bert(samples / "bert.gguf")


@pytest.fixture(scope="session")
def llama(samples: Path) -> Path:
    return write_llama(samples / "llama.gguf")


@pytest.fixture(scope="session")
def runtime(samples: Path) -> Path:
    return write_runtime(samples / "llamafile-0.8.4")


@pytest.fixture(scope="session")
def llamafile(samples: Path, bert: Path) -> Path:
    return write_llamafile(samples / "bert.llamafile", bert, "-m\nbert.gguf\n--host\n0.0.0.0\n...\n")
