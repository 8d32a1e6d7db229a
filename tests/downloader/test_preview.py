"""What ``pull --dry-run`` knows without a network, and that it leaves no trace."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llamafile_mgr.catalog import ArtifactKind, load_catalog
from llamafile_mgr.cli import run
from llamafile_mgr.config import DownloadConfig
from llamafile_mgr.downloader import PullTarget, preview, target_of
from llamafile_mgr.errors import UsageError
from llamafile_mgr.store import Part, PartInfo, Store
from tests.store.putting import put

DIGEST = "ab" * 32


def test_a_model_of_the_catalog(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    seen = preview(target_of("mxbai-embed-large-v1", load_catalog()), store, DownloadConfig(), environ={})
    assert (seen.name, seen.licence) == ("mxbai-embed-large-v1:f16", "Apache-2.0")
    assert seen.url.startswith(
        "https://huggingface.co/Mozilla/mxbai-embed-large-v1-llamafile/resolve/b42e24a/"
    )
    assert (seen.size, seen.exact) == (699_000_000, False)
    assert seen.path == store.layout.blob(seen.sha256 or "")
    assert (seen.present, seen.arrived) == (False, 0)
    assert not store.root.exists()


def test_a_mirror_is_shown(tmp_path: Path) -> None:
    target = target_of("hf:org/repo/model.gguf", load_catalog())
    seen = preview(
        target, Store(tmp_path), DownloadConfig(), environ={"HF_ENDPOINT": "https://mirror.example"}
    )
    assert seen.url == "https://mirror.example/org/repo/resolve/main/model.gguf"
    assert (seen.size, seen.sha256, seen.licence) == (None, None, None)
    assert seen.path == tmp_path / "blobs"


def test_a_converted_file_lies_where_its_own_digest_says(tmp_path: Path) -> None:
    target = target_of("all-minilm-l6-v2", load_catalog())
    seen = preview(target, Store(tmp_path), DownloadConfig(), environ={})
    assert target.converted_sha256 is not None
    assert target.converted_sha256 != target.sha256
    assert (seen.exact, seen.path) == (True, tmp_path / "blobs" / target.converted_sha256)
    unpinned = replace(target, converted_sha256=None)
    assert preview(unpinned, Store(tmp_path), DownloadConfig(), environ={}).path == tmp_path / "blobs"


def test_what_an_earlier_attempt_left(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    info = PartInfo(name="m", source="https://example.org/m", size=100, sha256=DIGEST, validator=None)
    part = Part(store.layout.part(DIGEST), info)
    part.write(0, [b"x" * 40])
    part.close()
    target = PullTarget("m", "https://example.org/m", ArtifactKind.WEIGHTS, size=100, sha256=DIGEST)
    assert preview(target, store, DownloadConfig(), environ={}).arrived == 40


def test_what_is_here_already(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = put(store, "m")
    seen = preview(PullTarget("m", "https://example.org/m"), store, DownloadConfig(), environ={})
    assert (seen.present, seen.path) == (True, entry.path)
    other = PullTarget("m", "https://example.org/m", sha256=DIGEST)
    assert not preview(other, store, DownloadConfig(), environ={}).present


def test_a_source_that_makes_no_address(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        preview(PullTarget("m", "ftp://example.org/m"), Store(tmp_path), DownloadConfig(), environ={})


def test_the_command_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLAMAFILE_MGR_HOME", str(tmp_path / "home"))
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert run(["pull", "--dry-run", "--json", "qwen3-5-2b", str(file)]) == 0
    catalog, local = json.loads(capsys.readouterr().out)
    assert catalog["name"].startswith("qwen3-5-2b:")
    assert (local["size"], local["url"]) == (4, file.as_uri())
    assert run(["pull", "--dry-run", "./none.gguf"]) == 4
    assert not (tmp_path / "home").exists()
