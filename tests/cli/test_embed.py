"""``embed`` as its users run it, on the real engine."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from llamafile_mgr.cli import run
from llamafile_mgr.cli.progress import TextDisplay, describe_progress, describe_report
from tests.support.golden import GOLDEN, golden_cosine
from tests.support.service import Service, environment, program, run_program

MODEL = "all-minilm-l6-v2"
COUNT = 600


def corpus(path: Path) -> Path:
    words = ["quick", "brown", "fox", "jumps", "over", "lazy", "dog", "while", "it", "rains", "in", "spain"]
    choose = random.Random(3)
    texts = [" ".join(choose.choices(words, k=choose.randint(2, 30))) for _ in range(COUNT)]
    texts[100] = "far too long " * 400
    path.write_text("".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(texts)))
    return path


def embed(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_program(home, "embed", "--model", MODEL, *arguments)


@pytest.fixture(scope="module")
def whole(model_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output of a job that was not interrupted, its input beside it."""
    folder = tmp_path_factory.mktemp("whole")
    output = folder / "whole.npy"
    result = embed(model_home, str(corpus(folder / "in.jsonl")), "-o", str(output), "--own", "--json")
    assert result.returncode == 18, result.stderr
    assert result.stderr.startswith(f"starting {MODEL}\n")
    assert "1 of 600 texts have no vector" in result.stderr
    report = json.loads(result.stdout)
    assert (report["texts"], report["failed"], report["exact"], report["kept"]) == (600, 1, True, 0)
    return output


@pytest.mark.timeout(180)
def test_killed_at_any_moment_a_job_ends_with_the_same_bytes(
    model_home: Path, whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "cut.npy"
    argv = program("embed", "--model", MODEL, str(whole.with_name("in.jsonl")), "-o", str(output), "--own")
    argv += ["--keep-every", "32", "--quiet"]
    parts = tmp_path / "cut.npy.parts"
    expected = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
    for stop, (number, code) in enumerate(expected.items(), 1):
        with subprocess.Popen(argv, env=environment(model_home), stderr=subprocess.PIPE, text=True) as job:
            while len(list(parts.rglob("*.part"))) < 4 * stop:
                assert job.poll() is None
                time.sleep(0.01)
            children = psutil.Process(job.pid).children(recursive=True)
            job.send_signal(number)
            _, errors = job.communicate(timeout=20)
            assert job.returncode == code, errors
            assert "Traceback" not in errors
            assert not psutil.wait_procs(children, 10)[1]
        assert not output.exists()
    result = subprocess.run(
        [*argv, "--json", "--batch", "5"],
        env=environment(model_home),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 18
    assert json.loads(result.stdout)["kept"] >= 12 * 32
    for suffix in (".npy", ".ids.jsonl", ".errors.jsonl", ".meta.json"):
        assert output.with_suffix(suffix).read_bytes() == whole.with_suffix(suffix).read_bytes(), suffix
    assert not parts.exists()


def test_several_files_into_a_folder_of_files(model_home: Path, tmp_path: Path) -> None:
    """Killed in the middle, then gone on with: the same bytes as at one go."""
    inputs = tmp_path / "corpus"
    inputs.mkdir()
    (inputs / "a.txt").write_text("".join(f"a short text, number {n}\n" for n in range(100)))
    (inputs / "b.csv").write_text("id,body\n" + "".join(f"b{n},another {n}\n" for n in range(100)))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    words = [str(inputs), f"{tmp_path}/corpus/*.txt", "--own", "--quiet", "--keep-every", "16"]
    assert embed(model_home, *words, "-o", f"{whole}/").returncode == 0
    argv = program("embed", "--model", MODEL, *words, "-o", str(cut))
    with subprocess.Popen(argv, env=environment(model_home)) as job:
        while len(list(cut.glob("part-*.parquet"))) < 3:
            assert job.poll() is None
            time.sleep(0.01)
        job.kill()
    assert not (cut / "_meta.json").exists()
    resumed = embed(model_home, *words, "-o", str(cut), "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["kept"] >= 3 * 16
    files = {path.name: path.read_bytes() for path in cut.iterdir()}
    assert files == {path.name: path.read_bytes() for path in whole.iterdir()}
    assert len(files) == 1 + 2 * 7
    import pyarrow.parquet

    ids = pyarrow.parquet.read_table(cut)["id"].to_pylist()
    assert ids == [*(f"{inputs}/a.txt:{n}" for n in range(1, 101)), *(f"b{n}" for n in range(100))]
    assert not cut.with_name("cut.parts").exists()


def test_a_changed_input_is_refused(model_home: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("".join(f"text number {n}\n" for n in range(400)))
    argv = program("embed", "--model", MODEL, "--own", str(path), "-o", str(tmp_path / "o.jsonl"), "--quiet")
    argv += ["--keep-every", "8"]
    with subprocess.Popen(argv, env=environment(model_home)) as job:
        while not list(tmp_path.rglob("*.part")):
            assert job.poll() is None
            time.sleep(0.01)
        job.kill()
    path.write_text("other\n")
    refused = subprocess.run(argv, env=environment(model_home), capture_output=True, text=True, timeout=50)
    assert refused.returncode == 17
    assert "its input changed" in refused.stderr
    assert "--restart" in refused.stderr
    again = subprocess.run([*argv, "--restart"], env=environment(model_home), timeout=50)
    assert again.returncode == 0
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 1


def test_a_running_serve_is_asked(service: Service, model_home: Path, tmp_path: Path) -> None:
    texts = list(GOLDEN)
    path = tmp_path / "golden.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("id", "body"), *((f"g{n}", text) for n, text in enumerate(texts))])
    for arguments, said in (
        ([str(path), "--url", service.url], f"asking {service.url}"),
        ([str(path)], f"asking the running serve, {service.url}"),
    ):
        result = embed(model_home, *arguments)
        assert result.returncode == 0, result.stderr
        assert result.stderr.splitlines()[0] == said
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        assert [line["id"] for line in lines] == [f"g{n}" for n in range(len(texts))]
        for text, line in zip(texts, lines, strict=True):
            assert golden_cosine(text, line["embedding"]) >= 0.999
    engines = [
        each["engines"] for each in json.loads(run_program(model_home, "status", "--json").stdout)["models"]
    ]
    assert engines


def test_texts_from_arguments_and_standard_input(service: Service, model_home: Path, tmp_path: Path) -> None:
    result = embed(model_home, "-t", "one", "-t", "two", "--quiet", "--input-type", "query")
    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == [1, 2]
    assert result.stderr == ""
    output = tmp_path / "out.parquet"
    piped = subprocess.run(
        program("embed", "-m", MODEL, "-", "-o", str(output), "--truncate", "chunk"),
        input="one\nword " + "word " * 900 + "\n",
        env=environment(model_home),
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert piped.returncode == 0, piped.stderr
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(output)
    assert table["truncated"].to_pylist() == [None, "chunk"]
    assert np.allclose(
        table["embedding"][0].as_py(), json.loads(result.stdout.splitlines()[0])["embedding"], atol=1e-3
    )


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "embed what?"),
        (["x.txt", "--text", "y"], 2, "embed what?"),
        (["none.txt"], 4, "there is no file"),
        (["in.docx"], 2, "--input-format"),
        (["two.csv"], 5, "which column"),
        (["two.csv", "--text-column", "c"], 5, "its columns: a, b"),
        (["empty.csv"], 5, "without a header"),
        (["bad.parquet"], 5, "no Parquet file"),
        (["pipe.txt"], 2, "standard input"),
        (["in.txt", "--json"], 2, "--output"),
        (["in.txt", "-o", "out.docx"], 2, ".parquet"),
        (["in.txt", "-o", "there.npy"], 2, "--overwrite"),
        (["in.txt", "--own", "--model", "no-such-model"], 4, "no-such-model"),
        (["in.txt", "--url", "http://127.0.0.1:9", "--batch", "0"], 2, "batch"),
    ],
)
def test_mistakes(
    arguments: list[str],
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLAMAFILE_MGR_HOME", str(tmp_path / "home"))
    for name in ("in.txt", "in.docx", "there.npy"):
        (tmp_path / name).write_text("x")
    (tmp_path / "two.csv").write_text("a,b\n1,2\n")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    os.mkfifo(tmp_path / "pipe.txt")
    assert run(["embed", *arguments]) == code
    errors = capsys.readouterr().err
    assert says in errors
    assert "Traceback" not in errors
    assert "starting" not in errors  # no engine is started for a mistake


def test_progress_as_lines() -> None:
    from llamafile_mgr.bulk import JobProgress

    assert describe_progress(JobProgress(1280, 280, 2, 5000), 10.0) == (
        "1,280 of 5,000 texts, 100.0 docs/s, 37 s left, 2 failed"
    )
    assert describe_progress(JobProgress(5, 5, 0, None), 0.0) == "5 texts"


def test_the_end_tells_texts_vectors_and_speed() -> None:
    from llamafile_mgr.bulk import JobReport

    report = JobReport("m", "space", 384, 4000, failed=0, truncated=0, kept=0, exact=True)
    assert describe_report(report, 61.4) == "4,000 x 384 of 4,000 texts, 61 s, 65 texts/s"
    again = JobReport("m", "space", 384, 4000, failed=2, truncated=0, kept=3000, exact=True)
    assert describe_report(again, 10.0) == (
        "3,998 x 384 of 4,000 texts, 3,000 of them from an earlier run, 2 failed, 10 s, 100 texts/s"
    )


def test_a_bar_counts_no_kept_work_as_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    from llamafile_mgr.bulk import JobProgress

    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with TextDisplay(quiet=False) as display:
        display(JobProgress(0, 0, 0, 5000))
        bar = display._bar
        display(JobProgress(3000, 3000, 0, 5000))
        assert (bar.n, bar.initial, bar.total) == (3000, 3000, 5000)
        display(JobProgress(3100, 3000, 0, 5000))
        assert bar.n - bar.initial == 100


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["embed", "--help"]) == 0
    assert "Examples:" in capsys.readouterr().out
