"""Local files, and lock files."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.catalog import ArtifactKind, Catalog, load_catalog
from llamafile_mgr.catalog.loading import parse_catalog
from llamafile_mgr.errors import InvalidFileError, NotFoundError, UsageError
from llamafile_mgr.store import Store, Trust
from llamafile_mgr.store.importing import Method, import_file
from llamafile_mgr.store.lockfile import (
    LockedArtifact,
    format_lock,
    locked,
    parse_lock,
    read_lock,
    write_lock,
)
from tests.store.putting import put

DATA = b"GGUF" + b"weights" * 1000


def make(tmp_path: Path, data: bytes = DATA, name: str = "my model.gguf") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def test_a_file_is_copied_and_left_alone(tmp_path: Path) -> None:
    path = make(tmp_path)
    entry, how = import_file(path, Store(tmp_path / "store"), load_catalog(), name="mine")
    assert how in ("copy", "reflink")
    assert entry.path.read_bytes() == path.read_bytes() == DATA
    assert (entry.kind, entry.trust) == (ArtifactKind.WEIGHTS, Trust.FIRST_USE)
    assert stat.S_IMODE(path.stat().st_mode) & 0o200
    assert entry.source.startswith("file://")


def test_a_linked_file_is_one_and_read_only(tmp_path: Path) -> None:
    path = make(tmp_path)
    store = Store(tmp_path / "store")
    entry, how = import_file(path, store, load_catalog(), name="mine", method=Method.LINK)
    assert how == "link"
    assert os.path.samefile(path, entry.path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert store.remove("mine").freed_bytes == 0
    assert path.read_bytes() == DATA


def test_a_file_of_the_catalog_gets_its_name(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"MZqFpD").hexdigest()
    path = make(tmp_path, b"MZqFpD", "downloaded (1).llamafile")
    entry, _ = import_file(path, Store(tmp_path / "store"), with_runtime(digest))
    assert (entry.name, entry.trust, entry.engine_version) == ("engine", Trust.PINNED, "0.10.5")
    assert stat.S_IMODE(entry.path.stat().st_mode) == 0o500


def with_runtime(digest: str) -> Catalog:
    return parse_catalog(
        '[[runtimes]]\nname = "engine"\nkind = "runtime"\nsource = "hf:a/b/c"\nengine_version = "0.10.5"\n'
        f'sha256 = "{digest}"'
    )


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"<!DOCTYPE html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b'{"error": "no"}', "JSON"),
        (b"", "empty"),
        (b"\x00\x01\x02", "begins with"),
    ],
)
def test_what_is_no_model_is_said(tmp_path: Path, data: bytes, cause: str) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(InvalidFileError) as caught:
        import_file(make(tmp_path, data, "x"), store, load_catalog())
    assert cause in str(caught.value.cause)
    assert store.entries() == []
    assert not list((store.root / "temporary").iterdir())


def test_wrong_digest_wrong_name_no_file(tmp_path: Path) -> None:
    store, catalog = Store(tmp_path / "store"), load_catalog()
    with pytest.raises(InvalidFileError, match="not 000"):
        import_file(make(tmp_path), store, catalog, name="x", sha256="0" * 64)
    for name in ("../x", "a/b", "a\0b"):
        with pytest.raises(UsageError):
            import_file(make(tmp_path), store, catalog, name=name)
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(NotFoundError):
            import_file(path, store, catalog)
    assert store.entries() == []


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30)
ARTIFACTS = st.builds(
    LockedArtifact,
    name=st.from_regex(r"[a-z][a-z0-9]{0,8}(:[a-z0-9]{1,5})?", fullmatch=True),
    kind=st.sampled_from(ArtifactKind),
    source=TEXT,
    size=st.integers(0, 2**50),
    sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    url=st.none() | TEXT,
    revision=st.none() | TEXT,
    conversion=st.none() | TEXT,
)


def test_a_lock_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "llamafile.lock"
    one = LockedArtifact("m", ArtifactKind.WEIGHTS, "hf:a/b/c", 1, "0" * 64, None, None, None)
    path.write_text(format_lock([one]), encoding="utf-8-sig")
    assert read_lock(path) == {"m": one}


@given(st.lists(ARTIFACTS, unique_by=lambda one: one.name, max_size=5))
def test_a_lock_file_says_what_was_put_in(artifacts: list[LockedArtifact]) -> None:
    text = format_lock(artifacts)
    assert parse_lock(text) == {one.name: one for one in artifacts}
    assert format_lock(parse_lock(text).values()) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "version = 2", "version = 1\n[[artifact]]\nname = 'x'", "version = ", "version = 1\nartifact = 3",
        f"version = 1\n[[artifact]]\nname='../x'\nkind='weights'\nsource='s'\nsize=1\nsha256='{'a' * 64}'",
        f"version = 1\n[[artifact]]\nname='x'\nkind='virus'\nsource='s'\nsize=1\nsha256='{'a' * 64}'",
        f"version = 1\n[[artifact]]\nname='x'\nkind='weights'\nsource='s'\nsize='1'\nsha256='{'a' * 64}'",
        f"version = 1\n[[artifact]]\nname='x'\nkind='weights'\nsource='s'\nsize=-1\nsha256='{'a' * 64}'",
        "version = 1\n[[artifact]]\nname='x'\nkind='weights'\nsource='s'\nsize=1\nsha256='../x'",
        "version = 1\n[[artifact]]\nevil=1",
    ],
)  # fmt: skip
def test_a_lock_file_that_makes_no_sense(text: str) -> None:
    with pytest.raises(InvalidFileError):
        parse_lock(text)


def test_two_pins_of_one_name_are_refused() -> None:
    artifact = LockedArtifact("x", ArtifactKind.WEIGHTS, "hf:a/b/c", 1, "a" * 64)
    with pytest.raises(InvalidFileError, match="two entries"):
        parse_lock(format_lock([artifact, artifact]))


def test_what_is_pinned_of_an_entry(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    commit = "c" * 40
    entry = put(store, "m", source="hf:a/b/c@main", revision=commit, source_digest="b" * 64, source_size=7)
    pin = locked(entry)
    assert (pin.source, pin.size, pin.sha256) == (f"hf:a/b/c@{commit}", 7, "b" * 64)
    local, _ = import_file(make(tmp_path), store, load_catalog(), name="local")
    with pytest.raises(UsageError) as caught:
        locked(local)
    assert "kit export" in str(caught.value.hint)


def test_reading_and_writing(tmp_path: Path) -> None:
    path = tmp_path / "llamafile.lock"
    with pytest.raises(NotFoundError):
        read_lock(path)
    artifact = LockedArtifact("x", ArtifactKind.WEIGHTS, "hf:a/b/c", 1, "a" * 64)
    write_lock(path, [artifact])
    assert read_lock(path) == {"x": artifact}


def test_a_file_of_another_kind_is_named_as_its_user_knows_it(tmp_path: Path) -> None:
    page = tmp_path / "saved.html"
    page.write_text("<html>")
    with pytest.raises(InvalidFileError, match=re.escape(f"{page} is neither")) as caught:
        import_file(page, Store(tmp_path / "store"), load_catalog())
    assert caught.value.cause == "it is a web page"
