"""Results of tuning on the disk: written whole, read back, and void once anything changed."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from llamafile_mgr.errors import StoreError
from llamafile_mgr.launching.tuning_records import fingerprint_machine, load_tuned, save_tuned, tuned_path
from llamafile_mgr.llamafile import Family
from llamafile_mgr.machine import Machine
from llamafile_mgr.paths import Paths, resolve_paths
from llamafile_mgr.planner.tuning import MeasuredType, TunedSettings, Variant
from tests.planner import samples

DIGEST = "ab" * 32
TYPES = (MeasuredType("Q8_0", 1.4, 0.998),)
TUNED = TunedSettings(Family.EMBEDDED, Variant(1, 2, 8, 1024, False), 1.25, TYPES)
NOW = datetime(2026, 1, 2, tzinfo=UTC)
HERE = samples.LAPTOP_8GB


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return resolve_paths({"LLAMAFILE_MGR_HOME": str(tmp_path)})


def test_what_was_saved_is_loaded(paths: Paths) -> None:
    assert load_tuned(paths, HERE, DIGEST) == ()
    path = save_tuned(paths, HERE, DIGEST, "m", replace(TUNED, gain=9.0), NOW)
    assert save_tuned(paths, HERE, DIGEST, "m", TUNED, NOW) == path
    other = replace(TUNED, family=Family.V10)
    save_tuned(paths, HERE, DIGEST, "m", other, NOW)
    assert set(load_tuned(paths, HERE, DIGEST)) == {TUNED, other}
    assert sorted(file.name for file in path.parent.iterdir()) == sorted(
        tuned_path(paths, HERE, DIGEST, family).name for family in (Family.EMBEDDED, Family.V10)
    )
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "machine",
    [
        replace(HERE, cpu=replace(HERE.cpu, model="another")),
        replace(HERE, cpu=replace(HERE.cpu, quota=2.0)),
        replace(HERE, memory=replace(HERE.memory, total=64 * samples.GB)),
        replace(HERE, memory=replace(HERE.memory, cgroup_limit=samples.GB)),
        replace(HERE, gpus=samples.GPU_24GB.gpus),
        replace(HERE, architecture="arm64"),
    ],
)
def test_a_changed_machine_finds_nothing(paths: Paths, machine: Machine) -> None:
    save_tuned(paths, HERE, DIGEST, "m", TUNED, NOW)
    assert fingerprint_machine(machine) != fingerprint_machine(HERE)
    assert load_tuned(paths, machine, DIGEST) == ()


def test_a_changed_file_finds_nothing(paths: Paths) -> None:
    save_tuned(paths, HERE, DIGEST, "m", TUNED, NOW)
    assert load_tuned(paths, HERE, "cd" * 32) == ()
    # The name holds a part of the digest; the whole one stands in the file.
    assert load_tuned(paths, HERE, DIGEST[:16] + "0" * 48) == ()


def test_load_and_free_memory_change_nothing() -> None:
    busy = replace(HERE, load=9.0, memory=replace(HERE.memory, available=1, total=8 * samples.GB - 4096))
    assert fingerprint_machine(busy) == fingerprint_machine(HERE)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"gain": "fast"},
        {"gain": 0.5},
        {"gain": True},
        {"family": "v1"},
        {"variant": {}},
        {"variant": None},
        {"variant": {"threads": 0, "replicas": 1, "slots": 1, "batch": None}},
    ],
)
def test_what_makes_no_sense_counts_as_nothing(paths: Paths, change: dict[str, object]) -> None:
    path = save_tuned(paths, HERE, DIGEST, "m", TUNED, NOW)
    document = json.loads(path.read_text(encoding="ascii"))
    path.write_text(json.dumps({**document, **change}), encoding="ascii")
    assert load_tuned(paths, HERE, DIGEST) == ()


@pytest.mark.parametrize("field", ["threads", "replicas", "slots", "batch", "flash_attention", "cpu_only"])
@pytest.mark.parametrize("value", [-1, 0, 1 << 40, "2", 1.5, []])
def test_a_variant_of_wrong_values_counts_as_nothing(paths: Paths, field: str, value: object) -> None:
    path = save_tuned(paths, HERE, DIGEST, "m", TUNED, NOW)
    document = json.loads(path.read_text(encoding="ascii"))
    document["variant"][field] = value
    path.write_text(json.dumps(document), encoding="ascii")
    assert load_tuned(paths, HERE, DIGEST) == ()


@pytest.mark.parametrize(
    "types",
    [
        None,
        3,
        {},
        ["Q8_0"],
        [{}],
        [{"quantisation": 8, "gain": 1.4, "least_cosine": 0.9}],
        [{"quantisation": "Q8_0", "gain": "1", "least_cosine": 0.9}],
        [{"quantisation": "Q8_0", "gain": 1.4, "least_cosine": float("nan")}],
    ],
)
def test_types_that_make_no_sense_or_are_not_there_leave_the_rest(paths: Paths, types: object) -> None:
    path = save_tuned(paths, HERE, DIGEST, "m", TUNED, NOW)
    document = json.loads(path.read_text(encoding="ascii"))
    for changed in (
        {**document, "file_types": types},
        {k: v for k, v in document.items() if k != "file_types"},
    ):
        path.write_text(json.dumps(changed), encoding="ascii")
        assert load_tuned(paths, HERE, DIGEST) == (replace(TUNED, types=()),)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_broken_file_counts_as_nothing(paths: Paths, content: bytes) -> None:
    save_tuned(paths, HERE, DIGEST, "m", TUNED, NOW).write_bytes(content)
    assert load_tuned(paths, HERE, DIGEST) == ()


def test_a_place_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path, paths: Paths) -> None:
    (tmp_path / "state").write_bytes(b"a file where a directory should be")
    with pytest.raises(StoreError):
        save_tuned(paths, HERE, DIGEST, "m", TUNED, NOW)
