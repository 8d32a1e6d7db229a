"""Bulk jobs on a real Ray cluster of several node processes, with the real engine."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import random
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from llamafile_mgr.bulk import BulkJob, JobProgress, TextInput
from llamafile_mgr.bulk.job import run_job
from llamafile_mgr.bulk.ray import RayCluster, run_on_ray
from llamafile_mgr.cli import run
from llamafile_mgr.errors import NotReadyError
from tests.support.fixed_source import BROKEN, fixed_source
from tests.support.ray_cluster import RayNodes, ray_nodes
from tests.support.service import environment, program, run_program

MODEL = "all-minilm-l6-v2"
COUNT = 600


@pytest.fixture(scope="module")
def cluster(model_home: Path) -> Iterator[RayNodes]:
    with ray_nodes() as nodes:
        nodes.add(model_home)
        nodes.add(model_home)
        yield nodes


@pytest.fixture(scope="module")
def whole(model_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output of one process, its inputs beside it."""
    folder = tmp_path_factory.mktemp("whole")
    choose = random.Random(3)
    words = ["quick", "brown", "fox", "jumps", "over", "lazy", "dog", "while", "it", "rains", "in", "spain"]
    texts = [" ".join(choose.choices(words, k=choose.randint(2, 12))) for _ in range(COUNT)]
    texts[100] = "far too long " * 400
    rows = [{"id": f"doc{n}", "text": text} for n, text in enumerate(texts)]
    (folder / "in").mkdir()
    (folder / "in" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:250]))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[250:]), folder / "in" / "b.parquet")
    result = run_program(model_home, *arguments(folder / "in", folder / "whole.npy"), "--own", "--quiet")
    assert result.returncode == 18, result.stderr
    return folder / "whole.npy"


def arguments(source: Path, output: Path) -> list[str]:
    return ["embed", "--model", MODEL, str(source), "-o", str(output), "--keep-every", "16", "--batch", "8"]


def write_variant(model: Path, path: Path) -> Path:
    """Copy a GGUF with another letter in its header: other weights, as far as fingerprints know."""
    data = model.read_bytes()
    at = data.index(b"general.name") + len(b"general.name") + 4 + 8
    path.write_bytes(data[:at] + b"X" + data[at + 1 :])
    return path


def await_parts(job: subprocess.Popen[str], output: Path, count: int) -> None:
    while len(list(output.glob("part-*.parquet"))) < count:
        assert job.poll() is None, job.communicate()
        time.sleep(0.02)


def check_output(output: Path, whole: Path) -> None:
    """Compare row by row; a row that is lost or doubled would show in the ids."""
    table, expected = pyarrow.parquet.read_table(output), np.load(whole)
    known = [json.loads(line) for line in whole.with_suffix(".ids.jsonl").read_text().splitlines()]
    [failed] = [json.loads(line) for line in whole.with_suffix(".errors.jsonl").read_text().splitlines()]
    assert table["id"].to_pylist() == known
    errors = [row for row, error in enumerate(table["error"].to_pylist()) if error is not None]
    assert (errors, known[errors[0]]) == ([failed["row"]], failed["id"])
    right = ~np.isnan(expected[:, 0])
    assert right.sum() == COUNT - 1
    vectors = np.stack([row for row in table["embedding"].to_pylist() if row is not None])
    assert np.min(np.sum(vectors * expected[right], axis=1)) >= 0.9999
    assert not output.with_name(f"{output.name}.parts").exists()


@pytest.mark.timeout(180)
def test_a_killed_driver_and_a_killed_node_change_nothing(
    cluster: RayNodes, model_home: Path, minilm: Path, whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    argv = program(*arguments(whole.with_name("in"), output), f"--ray={cluster.address}")
    options = {"env": environment(model_home), "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(argv, **options) as driver:  # type: ignore[call-overload]
        await_parts(driver, output, 4)
        driver.send_signal(signal.SIGKILL)
    kept = len(list(output.glob("part-*.parquet")))
    # A node with another file of that name joins, and one that has work is lost.
    other = tmp_path / "other"
    variant = write_variant(minilm, tmp_path / "variant.gguf")
    assert run_program(other, "import", str(variant), "--name", MODEL).returncode == 0
    cluster.add(other)
    with subprocess.Popen([*argv, "--json"], stdout=subprocess.PIPE, **options) as driver:  # type: ignore[call-overload]
        await_parts(driver, output, kept + 6)
        cluster.kill(0)
        said, errors = driver.communicate(timeout=120)
    assert driver.returncode == 18, errors
    assert "Traceback" not in errors
    assert said.startswith("{"), said
    report = json.loads(said)
    assert (report["texts"], report["failed"]) == (COUNT, 1)
    assert report["kept"] >= 16 * (kept - 1)  # the last one of a file is smaller
    assert "leaves the job: its vector space is" in errors
    assert errors.count("takes part") == 2
    check_output(output, whole)


@pytest.mark.timeout(180)
async def test_a_node_with_a_broken_engine_leaves_also_a_job_that_goes_on(tmp_path: Path) -> None:
    """It names the right vector space. The job has no golden vectors but those that its first node gave."""
    source = TextInput(texts=tuple(f"text {n}" for n in range(64)))
    job = BulkJob(source, tmp_path / "out.npy", batch=4, fragment=4)
    said: list[str] = []
    with ray_nodes() as nodes:
        nodes.add(tmp_path)
        slow = functools.partial(fixed_source, 0.02)
        where, kept = RayCluster(nodes.address), asyncio.Event()

        def note(progress: JobProgress) -> None:
            if progress.done:
                kept.set()

        running = asyncio.create_task(run_on_ray(job, where, slow, observe=note))
        await kept.wait()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        nodes.kill(0)
        nodes.add(tmp_path, **{BROKEN: "1"})
        with pytest.raises(NotReadyError) as caught:
            await run_on_ray(job, where, slow)
        assert "its vectors are not those of the job" in caught.value.describe()
        nodes.add(tmp_path)
        report = await run_on_ray(job, where, slow, say=said.append)
    assert report.kept >= 4
    assert [line for line in said if "leaves the job" in line and "those of the job's first node" in line]
    whole = replace(job, output=tmp_path / "whole.npy")
    async with fixed_source(0.0) as one:
        await run_job(whole, one)
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


@pytest.mark.timeout(120)
async def test_engines_of_a_cluster_of_our_own_yield_to_nobody(tmp_path: Path) -> None:
    said: list[str] = []
    job = BulkJob(TextInput(texts=("one", "two")), tmp_path / "out.jsonl")
    report = await run_on_ray(job, RayCluster(), functools.partial(fixed_source, 0.0), say=said.append)
    assert report.texts == 2
    [line] = said
    assert line.endswith("takes part")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--ray", "corpus.jsonl"], 2, "--ray=HOST:PORT"),
        (["corpus.jsonl", "--ray"], 2, "--ray needs --output"),
        (["corpus.jsonl", "--ray=localhost:1", "-o", "x.npy", "--url", "http://127.0.0.1:1"], 2, "--url"),
        (["corpus.jsonl", "-o", "x.npy", "--tune"], 2, "--tune is for the nodes of --ray"),
        (["corpus.jsonl", "--ray=../x", "-o", "x.npy"], 2, "is no address"),
    ],
)
def test_what_is_refused(
    words: Sequence[str],
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.jsonl").write_text('"one"\n')
    assert run(["embed", "--model", MODEL, *words]) == code
    assert says in capsys.readouterr().err
