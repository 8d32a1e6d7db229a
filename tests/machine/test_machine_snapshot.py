"""Snapshots go out as JSON and come back the same, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.errors import ConfigError, NotFoundError
from llamafile_mgr.machine import Cpu, Gpu, Machine, Memory, System
from llamafile_mgr.machine.detection import detect_machine
from llamafile_mgr.machine.snapshot import machine_from_dict, machine_to_dict, read_snapshot
from llamafile_mgr.machine.vendors import vendor_names

SIZES = st.none() | st.integers(0, 2**60)
COUNTS = st.none() | st.integers(0, 4096)
TEXTS = st.none() | st.text(max_size=20)
MACHINES = st.builds(
    Machine,
    system=st.sampled_from(System),
    system_version=TEXTS,
    kernel=TEXTS,
    architecture=TEXTS,
    cpu=st.builds(
        Cpu,
        model=TEXTS,
        physical_cores=COUNTS,
        logical_cpus=COUNTS,
        efficiency_cores=COUNTS,
        features=st.none() | st.lists(st.text(max_size=8), max_size=4).map(tuple),
        quota=st.none() | st.floats(0, 4096),
        cpuset=COUNTS,
        cpuset_cores=COUNTS,
    ),
    memory=st.builds(Memory, SIZES, SIZES, SIZES, SIZES, SIZES, SIZES),
    numa_nodes=COUNTS,
    load=st.none() | st.floats(0, 1000),
    gpus=st.lists(
        st.builds(
            Gpu,
            vendor=st.sampled_from(vendor_names()),
            name=st.text(max_size=20),
            index=COUNTS,
            memory_total=SIZES,
            memory_free=SIZES,
            unified=st.booleans(),
            compute_capability=TEXTS,
            driver=TEXTS,
            backend=TEXTS,
        ),
        max_size=3,
    ).map(tuple),
    container=TEXTS,
    wsl=st.none() | st.integers(1, 2),
    rosetta=st.booleans(),
)


@given(MACHINES)
def test_every_machine_round_trips_through_json(machine: Machine) -> None:
    text = json.dumps(machine_to_dict(machine))
    assert machine_from_dict(json.loads(text)) == machine


@given(MACHINES)
def test_derived_figures_never_exceed_what_they_come_from(machine: Machine) -> None:
    usable = machine.memory.usable
    assert usable is None or machine.memory.total is None or 0 <= usable <= machine.memory.total
    assert machine.cpu.usable_cores >= 1
    for gpu in machine.gpus:
        room = machine.memory_of(gpu)
        if gpu.unified and room is not None and usable is not None:
            assert room <= usable


def test_this_machine_round_trips() -> None:
    machine = detect_machine()
    assert machine_from_dict(machine_to_dict(machine)) == machine


def test_unset_fields_may_be_left_out() -> None:
    assert machine_from_dict({"system": "linux"}) == Machine(System.LINUX)
    assert machine_from_dict({"system": "linux", "memory": {"total": 5}}).memory.total == 5
    assert machine_from_dict({"system": "linux", "cpu": {"quota": 2}}).cpu.quota == 2.0


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ({}, "system"),
        ({"system": "amiga"}, "amiga"),
        ({"system": "linux", "colour": 1}, "colour"),
        ({"system": "linux", "cpu": {"colour": 1}}, "machine.cpu"),
        ({"system": "linux", "cpu": 5}, "machine.cpu"),
        ({"system": "linux", "cpu": {"physical_cores": "4"}}, "physical_cores"),
        ({"system": "linux", "cpu": {"physical_cores": True}}, "physical_cores"),
        ({"system": "linux", "memory": {"total": -1}}, "total"),
        ({"system": "linux", "load": float("nan")}, "load"),
        ({"system": "linux", "gpus": {}}, "gpus"),
        ({"system": "linux", "gpus": [{"vendor": "nvidia"}]}, "gpus[0]"),
        ({"system": "linux", "gpus": [{"vendor": "voodoo", "name": "3dfx"}]}, "'voodoo'"),
        ({"system": "linux", "rosetta": 1}, "rosetta"),
        ({"version": 2, "system": "linux"}, "version"),
        ({"version": True, "system": "linux"}, "version"),
        ([], "object"),
        (None, "object"),
    ],
)
def test_a_wrong_snapshot_is_refused_with_its_place(data: object, word: str) -> None:
    with pytest.raises(ConfigError, match=r".") as caught:
        machine_from_dict(data)  # type: ignore[arg-type]
    assert word in caught.value.message
    assert caught.value.hint


def test_files(tmp_path: Path) -> None:
    machine = detect_machine()
    bare, wrapped = tmp_path / "bare.json", tmp_path / "doctor.json"
    bare.write_text(json.dumps(machine_to_dict(machine)))
    wrapped.write_text(json.dumps({"ok": True, "machine": machine_to_dict(machine), "checks": []}))
    assert read_snapshot(bare) == read_snapshot(wrapped) == machine
    for marked in ("utf-8-sig", "utf-16"):  # as PowerShell redirects
        bare.write_text(json.dumps(machine_to_dict(machine)), encoding=marked)
        assert read_snapshot(bare) == machine
    with pytest.raises(NotFoundError):
        read_snapshot(tmp_path / "none.json")
    for text in ("", "{", "[1]", "[" * 100_000, '{"system": 1}'):
        bare.write_text(text)
        with pytest.raises(ConfigError):
            read_snapshot(bare)
    bare.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError):
        read_snapshot(bare)
    with pytest.raises(ConfigError):
        read_snapshot(tmp_path)
