"""``show`` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamafile_mgr.cli import run
from tests.llamafile.llamafile_samples import head, pair, raw_gguf, text, write_llamafile, write_runtime


def lines_of(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Return the printed labels with their values."""
    rows = (line.split("  ", 1) for line in capsys.readouterr().out.splitlines() if "  " in line.strip())
    return {label.strip(): value.strip() for label, value in rows}


def test_a_llamafile(capsys: pytest.CaptureFixture[str], llamafile: Path) -> None:
    assert run(["show", str(llamafile)]) == 0
    out = capsys.readouterr().out
    for expected in (
        *(
            "Kind           llamafile",
            "Engine         0.8.4",
            "Family         v1",
            "Weights         bert.gguf",
        ),
        *("Architecture    bert", "Parameters      38784", "Quantisation    F16", "Context         512"),
        *("Dimensions      384", "Layers          6", "Heads           12", "Pooling         mean"),
        *("Adds BOS / EOS  yes / yes", "Causal          no", "Embedded arguments"),
        *("-m bert.gguf: loads the model bert.gguf", "--host 0.0.0.0: listens on the address 0.0.0.0"),
        "! every machine that reaches this address",
        "! its engine 0.8.4 cuts about 4 % of English texts into wrong tokens with BERT models: plan and",
    ):
        assert expected in out


def test_a_llamafile_as_json(capsys: pytest.CaptureFixture[str], llamafile: Path) -> None:
    assert run(["show", str(llamafile), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["kind"], value["engine_version"], value["family"]) == ("llamafile", "0.8.4", "v1")
    (weights,) = value["weights"]
    assert (weights["member"], weights["gguf"]["architecture"]) == ("bert.gguf", "bert")
    assert (weights["gguf"]["pooling"], weights["gguf"]["parameters"]) == ("mean", 38_784)
    assert value["arguments"]["syntax"] == "lines"
    assert value["arguments"]["arguments"] == ["-m", "bert.gguf", "--host", "0.0.0.0"]
    assert "every machine" in value["arguments"]["effects"][1]["warning"]
    assert value["known_bad"].startswith("its engine 0.8.4 cuts about 4 % of English texts")


def test_a_llamafile_that_would_overrule_us(
    capsys: pytest.CaptureFixture[str], bert: Path, tmp_path: Path
) -> None:
    start = head("0.8.17")
    path = write_llamafile(tmp_path / "x.llamafile", bert, "-m bert.gguf ... --host 0.0.0.0", start=start)
    assert run(["show", str(path)]) == 0
    out = capsys.readouterr().out
    assert (
        "! its embedded arguments put --host 0.0.0.0 behind ours, where they overrule them: plan and" in out
    )
    assert "counts instead of it, so serve does not start this engine" in out
    assert "serve passes its own value" not in out


def test_a_gguf_and_a_runtime(
    capsys: pytest.CaptureFixture[str], llama: Path, runtime: Path, tmp_path: Path
) -> None:
    assert run(["show", str(llama)]) == 0
    rows = lines_of(capsys)
    assert (rows["Kind"], rows["Experts"], rows["Heads"]) == ("weights", "4 (used: 2)", "8 (key/value: 4)")
    assert "Engine" not in rows
    assert run(["show", str(llama), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["known_bad"] is None
    assert run(["show", str(runtime)]) == 0
    assert lines_of(capsys)["Engine"] == "0.8.4"
    with_library = write_runtime(tmp_path / "r", {"ggml-cuda.so": b"x"}, start=head("0.10.5"))
    assert run(["show", str(with_library)]) == 0
    assert lines_of(capsys)["GPU libraries"] == "ggml-cuda.so"


def test_a_part_of_a_split_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "part.gguf"
    path.write_bytes(raw_gguf([pair("split.no", 2, b"\1\0"), pair("split.count", 2, b"\3\0")]))
    assert run(["show", str(path)]) == 0
    assert lines_of(capsys)["Part"] == "2 of 3"


def test_a_stranger_cannot_drive_the_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, bert: Path
) -> None:
    evil = "\x1b]0;owned\x07\x9b2J\nFamily  v10"
    gguf = tmp_path / "evil.gguf"
    gguf.write_bytes(raw_gguf([pair("general.name", 8, text(evil))]))
    path = write_llamafile(tmp_path / "x", gguf, f"-a '{evil}' $(evil)\n", start=head("0.10.5"))
    assert run(["show", str(path)]) == 0
    out = capsys.readouterr().out
    assert not any((ord(c) < 32 and c != "\n") or 0x7F <= ord(c) < 0xA0 for c in out)
    assert "\\x1b]0;owned" in out
    assert run(["show", str(path), "--json"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_catalog_entry(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["show", "mxbai-embed-large-v1"]) == 0
    out = capsys.readouterr().out
    for expected in (
        "embed",
        "Apache-2.0",
        "1024",
        "cls",
        "Represent this sentence",
        "! f16",
        "its engine 0.8.4",
    ):
        assert expected in out
    assert run(["show", "sfr-embedding-mistral"]) == 0
    out = capsys.readouterr().out
    assert "not for commercial use" in out
    assert "!" not in out
    assert run(["show", "mxbai-embed-large-v1", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["role"], value["pooling"], value["dimensions"]) == ("embed", "cls", 1024)
    assert value["artifacts"][0]["kind"] == "llamafile"


def test_a_runtime_of_the_catalog(capsys: pytest.CaptureFixture[str]) -> None:
    from llamafile_mgr.catalog import load_catalog

    name = next(iter(load_catalog().runtimes))
    assert run(["show", name]) == 0
    assert lines_of(capsys)["Runtime"] == name
    assert run(["show", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "runtime"


@pytest.mark.parametrize(
    ("what", "code", "message"),
    [
        ("no-such-model", 4, "no model or runtime of this name"),
        ("mxbai-embed-large", 4, "did you mean mxbai-embed-large-v1"),
        ("./no-such-file", 4, "no such file"),
        ("none.gguf", 4, "no such file"),
    ],
)
def test_what_is_not_there(capsys: pytest.CaptureFixture[str], what: str, code: int, message: str) -> None:
    assert run(["show", what]) == code
    assert message in capsys.readouterr().err


def test_a_broken_file(capsys: pytest.CaptureFixture[str], tmp_path: Path, llamafile: Path) -> None:
    path = tmp_path / "cut.llamafile"
    path.write_bytes(llamafile.read_bytes()[:50_000])
    assert run(["show", str(path)]) == 5
    err = capsys.readouterr().err
    assert "truncated" in err
    assert "fix: pull it again" in err
