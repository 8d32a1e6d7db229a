"""Kits: a way to carry models, and no way to write anywhere else."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llamafile_mgr.catalog import ArtifactKind, Catalog, load_catalog
from llamafile_mgr.catalog.loading import parse_catalog
from llamafile_mgr.errors import Error, IntegrityError, InvalidFileError, NotFoundError, StoreError
from llamafile_mgr.store import Store, Trust
from llamafile_mgr.store.kit_archives import export_kit, import_kit
from llamafile_mgr.store.records import record_json
from tests.store.putting import put

DATA = b"GGUF" + bytes(range(256)) * 50
DIGEST = hashlib.sha256(DATA).hexdigest()


def test_a_kit_carries_names_files_and_modes(tmp_path: Path) -> None:
    here = Store(tmp_path / "here")
    put(here, "weights", DATA)
    put(here, "alias", DATA)
    put(here, "engine", b"MZ-engine", kind=ArtifactKind.RUNTIME, engine_version="0.10.5")
    kit = tmp_path / "office.kit"
    size = export_kit(here.entries(), kit)
    assert size == kit.stat().st_size < 2 * len(DATA)
    there = Store(tmp_path / "there")
    names = [entry.name for entry in import_kit(kit, there, load_catalog())]
    assert names == ["alias", "engine", "weights"]
    assert there.find("weights").path == there.find("alias").path
    assert there.find("weights").path.read_bytes() == DATA
    assert there.find("engine").path.stat().st_mode & 0o777 == 0o500
    assert there.find("engine").engine_version == "0.10.5"
    # A second time nothing changes.
    assert [entry.name for entry in import_kit(kit, there, load_catalog())] == names
    assert not list((there.root / "temporary").iterdir())


def test_what_a_kit_says_about_trust_is_only_its_claim(tmp_path: Path) -> None:
    here = Store(tmp_path / "here")
    put(here, "weights", DATA, trust=Trust.PINNED)
    export_kit(here.entries(), tmp_path / "kit")
    there = Store(tmp_path / "there")
    (entry,) = import_kit(tmp_path / "kit", there, load_catalog())
    assert entry.trust is Trust.FIRST_USE
    (entry,) = import_kit(tmp_path / "kit", Store(tmp_path / "third"), pinning(DIGEST))
    assert entry.trust is Trust.PINNED


def test_a_kit_of_what_is_here_changes_nothing_that_is_known_of_it(tmp_path: Path) -> None:
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    put(here, "weights", DATA, trust=Trust.PINNED)
    put(there, "weights", DATA)
    export_kit(there.entries(), tmp_path / "kit")
    before = here.find("weights").record
    (entry,) = import_kit(tmp_path / "kit", here, load_catalog())
    assert entry.record == before
    here.layout.blob(DIGEST).unlink()  # then the kit brings the bytes, and what is known of them stays
    (entry,) = import_kit(tmp_path / "kit", here, load_catalog())
    assert entry.record == replace(before, verified_at=entry.record.verified_at)
    assert entry.path.read_bytes() == DATA


def pinning(digest: str) -> Catalog:
    """Return a catalog that pins a runtime called ``weights``."""
    return parse_catalog(
        f'[[runtimes]]\nname = "weights"\nkind = "runtime"\nsource = "hf:a/b/c"\nsha256 = "{digest}"'
    )


def test_a_kit_cannot_replace_what_the_catalog_pins(tmp_path: Path) -> None:
    here = Store(tmp_path / "here")
    put(here, "weights", DATA)
    export_kit(here.entries(), tmp_path / "kit")
    there = Store(tmp_path / "there")
    with pytest.raises(IntegrityError, match="not the one that the catalog pins"):
        import_kit(tmp_path / "kit", there, pinning("0" * 64))
    assert_untouched(there)


def test_a_name_that_is_taken_stays(tmp_path: Path) -> None:
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    put(here, "weights", DATA)
    export_kit(here.entries(), tmp_path / "kit")
    put(there, "weights", b"GGUFother")
    with pytest.raises(StoreError, match="with other bytes"):
        import_kit(tmp_path / "kit", there, load_catalog())
    assert there.find("weights").path.read_bytes() == b"GGUFother"


def test_a_damaged_file_makes_no_kit(tmp_path: Path) -> None:
    here = Store(tmp_path / "here")
    entry = put(here, "weights", DATA)
    entry.path.chmod(0o600)
    entry.path.write_bytes(DATA[:-1] + b"!")
    with pytest.raises(IntegrityError, match="no kit was written"):
        export_kit([entry], tmp_path / "kit")
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    here = Store(tmp_path / "here")
    entry = put(here, "weights", DATA)
    (tmp_path / "kit").write_text("mine")
    with pytest.raises(StoreError, match="exists already"):
        export_kit([entry], tmp_path / "kit")
    assert (tmp_path / "kit").read_text() == "mine"


Members = list[tuple[tarfile.TarInfo, bytes]]


def member(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """Return one entry of an archive."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def manifest(**change: object) -> tuple[tarfile.TarInfo, bytes]:
    """Return the manifest of a kit with one record, changed."""
    record = {
        "name": "weights", "digest": DIGEST, "size": len(DATA), "kind": "llamafile", "trust": "pinned",
        "source": "hf:a/b/c", "verified_at": "2026-01-01T00:00:00+00:00", **change,
    }  # fmt: skip
    return member("kit.json", json.dumps({"version": 1, "records": [record]}).encode())


BLOB = member(f"blobs/{DIGEST}", DATA)
BAD_KITS: list[tuple[str, Members, type[Error]]] = [
    ("a manifest nested too deeply", [member("kit.json", b"[" * 200_000), BLOB], InvalidFileError),
    ("a record nested too deeply",
     [member("kit.json", b'{"version": 1, "records": [' + b"[" * 900 + b"]" * 900 + b"]}"), BLOB],
     InvalidFileError),
    ("dots in the manifest's name", [manifest(name="../../evil"), BLOB], InvalidFileError),
    ("an absolute name", [manifest(name="/etc/cron.d/evil"), BLOB], InvalidFileError),
    ("a NUL in a name", [manifest(name="a\0b"), BLOB], InvalidFileError),
    ("dots in a digest", [manifest(digest="../../../evil"), BLOB], InvalidFileError),
    ("a digest of another file", [manifest(digest="0" * 64, size=4), member("blobs/" + "0" * 64, b"evil")],
     IntegrityError),
    ("a member with dots", [manifest(), member("blobs/../../evil", b"x")], InvalidFileError),
    ("an absolute member", [manifest(), member("/tmp/evil", b"x")], InvalidFileError),
    ("a member beside", [manifest(), BLOB, member("evil", b"x")], InvalidFileError),
    ("a symbolic link", [manifest(), member(f"blobs/{DIGEST}", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
     InvalidFileError),
    ("a hard link", [manifest(), member(f"blobs/{DIGEST}", type=tarfile.LNKTYPE, linkname="kit.json")],
     InvalidFileError),
    ("a device", [manifest(), member(f"blobs/{DIGEST}", type=tarfile.CHRTYPE)], InvalidFileError),
    ("a directory", [manifest(), member("blobs", type=tarfile.DIRTYPE)], InvalidFileError),
    ("a manifest that is a link", [member("kit.json", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
     InvalidFileError),
    ("no manifest", [BLOB], InvalidFileError),
    ("an empty archive", [], InvalidFileError),
    ("nonsense for a manifest", [member("kit.json", b"{]"), BLOB], InvalidFileError),
    ("another version", [member("kit.json", b'{"version": 2, "records": []}')], InvalidFileError),
    ("a file twice", [manifest(), BLOB, BLOB], InvalidFileError),
    ("a file that is not listed", [manifest(), member("blobs/" + "1" * 64, b"x")], InvalidFileError),
    ("a file that is missing", [manifest()], InvalidFileError),
    ("another size", [manifest(size=5), BLOB], InvalidFileError),
    ("an unknown key", [manifest(run="rm -rf /"), BLOB], InvalidFileError),
]  # fmt: skip


@pytest.mark.parametrize(("what", "members", "error"), BAD_KITS, ids=[row[0] for row in BAD_KITS])
def test_a_bad_kit_leaves_nothing_anywhere(
    what: str, members: Members, error: type[Error], tmp_path: Path
) -> None:
    kit = tmp_path / "kit"
    with tarfile.open(kit, "w") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    store = Store(tmp_path / "deep" / "er" / "store")
    with pytest.raises(error):
        import_kit(kit, store, load_catalog())
    assert_untouched(store)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "kit"]


def cut(kit: bytes) -> bytes:
    return kit[: len(kit) // 2]


def flip(kit: bytes) -> bytes:
    at = kit.index(DATA) + 100
    return kit[:at] + bytes([kit[at] ^ 1]) + kit[at + 1 :]


def text(kit: bytes) -> bytes:
    return b"hello"


@pytest.mark.parametrize("spoil", [cut, flip, text])
def test_a_spoilt_kit_leaves_nothing(spoil: Callable[[bytes], bytes], tmp_path: Path) -> None:
    here = Store(tmp_path / "here")
    put(here, "weights", DATA)
    export_kit(here.entries(), tmp_path / "kit")
    (tmp_path / "bad").write_bytes(spoil((tmp_path / "kit").read_bytes()))
    there = Store(tmp_path / "there")
    with pytest.raises((InvalidFileError, IntegrityError)):
        import_kit(tmp_path / "bad", there, load_catalog())
    assert_untouched(there)


def test_a_kit_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        import_kit(tmp_path / "none", Store(tmp_path), load_catalog())
    with pytest.raises(InvalidFileError):
        import_kit(tmp_path, Store(tmp_path), load_catalog())


def assert_untouched(store: Store) -> None:
    assert store.entries() == []
    for name in ("blobs", "names", "temporary", "parts"):
        assert list((store.root / name).iterdir()) == []


def test_the_manifest_is_readable_by_people(tmp_path: Path) -> None:
    here = Store(tmp_path / "here")
    entry = put(here, "weights", DATA)
    export_kit([entry], tmp_path / "kit")
    with tarfile.open(tmp_path / "kit") as archive:
        assert archive.getnames() == ["kit.json", f"blobs/{entry.digest}"]
        stream = archive.extractfile("kit.json")
        assert stream is not None
        assert json.load(stream) == {"version": 1, "records": [record_json(entry.record)]}
