"""``tune`` on the real embedded engine: it ends in time, leaves nothing running, and plans use its result."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from llamafile_mgr.benchmarking.file_type_runs import FileTypeRun, compare_file_types
from llamafile_mgr.benchmarking.tune_runs import ABRun, compare_plans, make_text, tune_plan
from llamafile_mgr.catalog import Role
from llamafile_mgr.config import Config
from llamafile_mgr.errors import UsageError
from llamafile_mgr.launching.local_plans import make_plans
from llamafile_mgr.launching.other_types import find_other_types
from llamafile_mgr.launching.tunables import find_tunable, keep_tuned
from llamafile_mgr.launching.wanted import Wanted, WantedModels
from llamafile_mgr.paths import resolve_paths
from llamafile_mgr.planner.tuning import Variant, variant_of
from llamafile_mgr.store import Store
from tests.store.putting import put
from tests.support.service import environment, program, run_program


def engines(home: Path) -> list[int]:
    """Return the ids of the engines under this home that still run."""
    children = psutil.Process().children(recursive=True)
    alive = [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    return [child.pid for child in alive if any(str(home) in word for word in child.cmdline())]


async def test_a_generator_is_tuned_and_the_plan_says_so(tiny_generator: Path, tmp_path: Path) -> None:
    paths = resolve_paths({"LLAMAFILE_MGR_HOME": str(tmp_path)})
    tunable = find_tunable(str(tiny_generator), Config(), paths)
    seen: list[ABRun] = []
    report = await tune_plan(tunable.plan, tunable.limits, paths, 25, seen.append)
    assert not engines(tmp_path)
    assert report.default == variant_of(tunable.plan)
    assert report.runs
    assert seen[: len(report.runs)] == list(report.runs)
    assert all(run.failure is None for run in seen)
    assert all(run.best_speed > 0 and run.candidate_speed > 0 for run in seen)
    assert (report.best.gain > 1.0) == (report.best.variant != report.default)
    assert not list(paths.runtime.glob("tuning-*"))

    keep_tuned(tunable, report.best, paths)
    (plan,) = make_plans(WantedModels((Wanted(str(tiny_generator)),)), Config(), paths)
    assert plan.tuned
    assert variant_of(plan) == report.best.variant
    assert any("measured on this machine by tune" in reason.why for reason in plan.reasons)


def rename(minilm: Path, folder: Path) -> Path:
    """Return a file of the model that the catalog does not know by its name."""
    model = folder / "mine.gguf"
    model.write_bytes(minilm.read_bytes().replace(b"all-minilm-l6-v2", b"some-other-model", 1))
    return model


@pytest.mark.parametrize("known", [True, False])
async def test_other_types_of_the_file_are_measured(minilm: Path, tmp_path: Path, known: bool) -> None:
    paths = resolve_paths({"LLAMAFILE_MGR_HOME": str(tmp_path)})
    plan = find_tunable(str(minilm if known else rename(minilm, tmp_path)), Config(), paths).plan
    assert [each.path for each in find_other_types(plan, paths)] == [None]
    seen: list[FileTypeRun] = []
    runs = await compare_file_types(plan, Variant(1, 1, 4, 512), paths, 4, seen.append)
    own, other = runs
    assert seen == [other]
    assert not engines(tmp_path)
    assert [(run.other.quantisation, run.failure) for run in runs] == [("F16", None), ("Q8_0", None)]
    assert other.other.name == ("all-minilm-l6-v2:pypi-q8_0" if known else None)
    assert other.judgement.rounds >= 1
    assert other.judgement.gain > 0.3
    assert own.accuracy is not None
    assert other.accuracy is not None
    assert own.accuracy.least >= 0.9999 > other.accuracy.least >= 0.998
    assert other.accuracy.mean > other.accuracy.least
    assert not list(Store(paths.store).layout.temporary.iterdir())
    assert not list(paths.runtime.glob("tuning-*"))


async def test_a_type_whose_file_is_damaged_is_told_and_the_others_go_on(
    minilm: Path, tmp_path: Path
) -> None:
    paths = resolve_paths({"LLAMAFILE_MGR_HOME": str(tmp_path)})
    broken = {"model_id": "all-minilm-l6-v2", "artifact": "pypi-q8_0", "role": Role.EMBED}
    put(Store(paths.store), "all-minilm-l6-v2:pypi-q8_0", b"GGUF\x03\x00\x00\x00" + bytes(1000), **broken)
    plan = find_tunable(str(minilm), Config(), paths).plan
    own, other = await compare_file_types(plan, Variant(1, 1, 4, 512), paths, 4, lambda _: None)
    assert own.failure is None
    assert other.failure is not None
    assert not engines(tmp_path)


async def test_engines_that_do_not_start_lose(minilm: Path, tmp_path: Path) -> None:
    paths = resolve_paths({"LLAMAFILE_MGR_HOME": str(tmp_path)})
    plan = find_tunable(str(minilm), Config(), paths).plan
    # No text fits its batch, so that its readiness check never passes.
    broken = Variant(1, 1, 4, 4)
    run = await compare_plans(plan, Variant(1, 1, 4, 512), broken, paths, 2, 0.0)
    assert run.failure is not None
    assert not engines(tmp_path)


def test_minilm_is_tuned_in_time(minilm: Path, tmp_path: Path) -> None:
    result = run_program(tmp_path, "tune", str(minilm), "--budget", "20", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["seconds"] < 90
    assert report["contests"]
    assert "tuning for about 20 seconds" in result.stderr
    assert Path(report["file"]).is_file()
    assert [each["type"] for each in report["file_types"]] == ["F16", "Q8_0"]
    assert [each["failure"] for each in report["file_types"]] == [None, None]
    assert all(each["least_cosine"] > 0.99 for each in report["file_types"])
    planned = run_program(tmp_path, "plan", str(minilm), "--json")
    assert json.loads(planned.stdout)["plans"][0]["tuned"] is True


def test_ctrl_c_ends_every_engine_and_keeps_nothing(minilm: Path, tmp_path: Path) -> None:
    child = subprocess.Popen(
        program("tune", str(minilm)),
        env=environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Whoever runs the tests may ignore it, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        process, deadline = psutil.Process(child.pid), time.monotonic() + 30
        while not (started := process.children()) and time.monotonic() < deadline:
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 130
    finally:
        child.kill()
    assert started
    gone, alive = psutil.wait_procs(started, timeout=5)
    assert len(gone) == len(started)
    assert not alive
    assert not list((tmp_path / "state" / "tuning").glob("*.json"))
    assert not list((tmp_path / "run").glob("tuning-*"))


@pytest.mark.parametrize("budget", ["19", "91", "soon"])
def test_a_budget_outside_the_bounds_is_refused(tmp_path: Path, budget: str) -> None:
    result = run_program(tmp_path, "tune", "x", "--budget", budget)
    assert result.returncode == UsageError.exit_code


def test_the_texts_differ_and_keep_to_the_limit() -> None:
    texts = [make_text(number, 512) for number in range(40)]
    assert len(set(texts)) > 30
    assert max(len(text.split()) for text in texts) > 100
    assert all(len(make_text(number, 64).split()) <= 30 for number in range(40))
