"""Names, files, use and removal."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from llamafile_mgr.catalog import ArtifactKind, Role
from llamafile_mgr.errors import IntegrityError, NotFoundError, StoreError, UsageError
from llamafile_mgr.store import NameRecord, Store, Trust
from llamafile_mgr.store.pruning import prune
from llamafile_mgr.store.records import parse_record, record_json
from llamafile_mgr.store.verification import verify
from tests.store.putting import NOW, put

ROOT = Path(__file__).parent.parent.parent


def test_publishing_gives_the_mode_that_the_kind_needs(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    weights = put(store, "weights")
    program = put(store, "program", b"MZ", kind=ArtifactKind.RUNTIME)
    assert stat.S_IMODE(weights.path.stat().st_mode) == 0o400
    assert stat.S_IMODE(program.path.stat().st_mode) == 0o500
    assert all(stat.S_IMODE(d.stat().st_mode) == 0o700 for d in store.layout.directories())


def test_a_wrong_digest_is_never_published(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(IntegrityError):
        put(store, "model", digest="0" * 64, kind=ArtifactKind.LLAMAFILE)
    assert not list((tmp_path / "blobs").iterdir())


def test_a_bare_model_means_its_recommended_artifact_else_the_newest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    model = {"model_id": "mxbai-embed-large-v1"}
    put(store, "mxbai-embed-large-v1:old", b"1", artifact="old", **model)
    put(store, "mxbai-embed-large-v1:new", b"2", artifact="new", verified_at=NOW + timedelta(1), **model)
    assert store.find("mxbai-embed-large-v1").artifact == "new"
    put(store, "mxbai-embed-large-v1:f16", b"3", artifact="f16", verified_at=NOW - timedelta(1), **model)
    assert store.find("mxbai-embed-large-v1").artifact == "f16"
    assert store.find("mxbai-embed-large-v1:old").artifact == "old"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mxbai-embed-large-v1", "llamafile-mgr pull mxbai-embed-large-v1"),
        ("mxbai-embed-large-v1:f16", "llamafile-mgr pull mxbai-embed-large-v1:f16"),
        ("mxbai-embed-large", "did you mean mxbai-embed-large-v1?"),
        ("my-mode", "did you mean my-model?"),
        ("hf:org/repo/file.gguf", "llamafile-mgr pull hf:org/repo/file.gguf"),
        ("zzz", "llamafile-mgr list says what is here"),
    ],
)
def test_what_is_not_here_is_said_with_the_command_that_fetches_it(
    tmp_path: Path, name: str, hint: str
) -> None:
    store = Store(tmp_path)
    put(store, "my-model")
    with pytest.raises(NotFoundError) as caught:
        store.find(name)
    assert caught.value.hint is not None
    assert hint in caught.value.hint


def test_an_empty_store_is_not_created_by_looking(tmp_path: Path) -> None:
    store = Store(tmp_path / "none")
    assert store.entries() == []
    assert prune(store) == []
    with pytest.raises(NotFoundError):
        store.find("x")
    assert not store.root.exists()


def test_a_file_that_vanished_is_not_here(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, "model").path.unlink()
    assert store.entries() == []
    with pytest.raises(NotFoundError):
        store.find("model")


def test_use_is_noted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = put(store, "model")
    assert entry.last_used_at is None
    store.touch(entry.digest)
    used = store.find("model").last_used_at
    assert used is not None
    assert abs((datetime.now(UTC) - used).total_seconds()) < 60


def test_what_is_held_is_not_removed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = put(store, "model")
    with store.hold(entry.digest, "serve") as path:
        assert path == entry.path
        with pytest.raises(StoreError, match=f"serve \\(process {os.getpid()}\\)"):
            store.remove("model")
        store.layout.record("model").unlink()
        assert prune(store) == []
        assert path.exists()
    assert [one.what for one in prune(store)] == ["file without a name"]
    assert not path.exists()


def test_a_second_name_of_a_held_file_can_go(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = put(store, "model")
    put(store, "other")
    with store.hold(entry.digest):
        assert store.remove("other").freed_bytes == 0
    assert store.remove("model").freed_bytes == 8


def test_a_dead_process_holds_nothing(tmp_path: Path) -> None:
    entry = put(Store(tmp_path), "model")
    code = (
        "import sys, os; from pathlib import Path; from llamafile_mgr.store import Store\n"
        "with Store(Path(sys.argv[1])).hold(sys.argv[2]): print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(tmp_path), entry.digest]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(StoreError, match=f"process {process.pid}"):
            Store(tmp_path).remove("model")
        process.kill()
    Store(tmp_path).remove("model")
    assert not entry.path.exists()


def test_holding_what_is_gone_is_an_error(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = put(store, "model")
    store.remove("model")
    with pytest.raises(NotFoundError), store.hold(entry.digest):
        pass


def test_prune_keeps_young_downloads_and_everything_when_a_record_is_broken(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = put(store, "model")
    part = store.layout.part("a" * 64)
    part.mkdir()
    (part / "map").write_text("")
    assert prune(store) == []
    old = time.time() - 15 * 24 * 3600
    os.utime(part / "map", (old, old))
    assert [one.what for one in prune(store, dry_run=True)] == ["unfinished download"]
    assert part.exists()
    assert [one.what for one in prune(store)] == ["unfinished download"]
    assert not part.exists()
    store.layout.record("model").write_text("{")
    with pytest.raises(StoreError, match="nothing is removed"):
        prune(store)
    assert entry.path.exists()


def test_prune_leaves_a_download_alone_that_a_process_works_on(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    part = store.layout.part("a" * 64)
    part.mkdir()
    lock = store.locks.lock(store.layout.lock("a" * 64))
    lock.acquire()
    assert prune(store, every_part=True) == []
    lock.release()
    assert len(prune(store, every_part=True)) == 1


def test_damage_is_found_where_it_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
    data = bytes(9 * 1024 * 1024)
    entry = put(store, "model", data, kind=ArtifactKind.LLAMAFILE)
    assert verify(store, entry).sound
    entry.path.chmod(0o600)
    with entry.path.open("r+b") as stream:
        stream.seek(5 * 1024 * 1024)
        stream.write(b"rot")
    result = verify(store, entry)
    assert result.damage == ((4 * 1024 * 1024, 8 * 1024 * 1024),)
    with pytest.raises(IntegrityError, match="damaged"):
        store.find("model")
    damaged = store.find("model", damaged_too=True)
    assert damaged.damaged
    assert not stat.S_IMODE(damaged.path.stat().st_mode) & 0o111
    # Mended by other means, it is taken back.
    damaged.path.write_bytes(data)
    assert verify(store, damaged).sound
    assert stat.S_IMODE(store.find("model").path.stat().st_mode) == 0o500


def test_damage_without_block_hashes_is_still_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = put(store, "model")
    store.layout.blocks(entry.digest).write_text("no")
    entry.path.chmod(0o600)
    entry.path.write_bytes(b"GGUFrott")
    assert verify(store, entry).damage is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../x",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "..",
        "a..b",
        "a\0b",
        ".hidden",
        "a\nb",
        "-rf",
        "a" * 300,
        "ä",
    ],
)
def test_no_name_leads_out_of_the_store(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        Store(tmp_path).layout.record(name)
    with pytest.raises(NotFoundError):
        Store(tmp_path).find(name)


@pytest.mark.parametrize("digest", ["", "../../x", "a" * 63, "A" * 64, "a" * 63 + "/", "a" * 64 + "\n"])
def test_no_digest_leads_out_of_the_store(tmp_path: Path, digest: str) -> None:
    layout = Store(tmp_path).layout
    for make in (
        layout.blob,
        layout.blocks,
        layout.part,
        layout.lock,
        layout.holds,
        layout.used,
        layout.damaged,
    ):
        with pytest.raises(UsageError):
            make(digest)


def test_a_linked_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "store" / "blobs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="symbolic link"):
        Store(tmp_path / "store").prepare()


def test_records_survive_their_way_through_json() -> None:
    record = NameRecord(
        "m:f16", "a" * 64, 5, ArtifactKind.LLAMAFILE, Trust.HUB, "hf:a/b/c", NOW,
        revision="abc", model_id="m", artifact="f16", role=Role.EMBED, source_digest="b" * 64, source_size=9,
    )  # fmt: skip
    import json

    assert parse_record(json.dumps(record_json(record))) == record


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../x"}, {"digest": "../x"}, {"size": "5"}, {"size": -1}, {"size": True}, {"kind": "virus"},
        {"trust": 3}, {"verified_at": "yesterday"}, {"unknown": 1}, {"source": None}, {"role": "chief"},
        {"source_digest": "x"},
    ],
)  # fmt: skip
def test_a_record_that_makes_no_sense_is_none(change: dict[str, object]) -> None:
    import json

    record = NameRecord("m", "a" * 64, 5, ArtifactKind.LLAMAFILE, Trust.HUB, "hf:a/b/c", NOW)
    with pytest.raises(ValueError, match=r"."):
        parse_record(json.dumps({**record_json(record), **change}))
