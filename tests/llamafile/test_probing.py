"""Asking engines for their version and flags: real processes, started through sh."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest
from llamafile_samples import head

from llamafile_mgr.errors import EngineError, NotFoundError, UsageError
from llamafile_mgr.llamafile import Family, probe_help, probe_version
from llamafile_mgr.llamafile.probing import flags_in_help

DIGEST = "ab" * 32


def program(folder: Path, script: str) -> Path:
    path = folder / "engine"
    path.write_bytes(head(None, script=script + "\nexit 0"))
    return path


def test_a_version_is_asked_for_once(tmp_path: Path) -> None:
    path = program(tmp_path, 'echo x >> "$HOME/../calls"; echo "llamafile v0.8.4"')
    cache = tmp_path / "cache"
    for _ in range(3):
        probe = probe_version(path, digest=DIGEST, cache_dir=cache)
        assert (probe.program, probe.version, probe.family) == ("llamafile", "0.8.4", Family.V1)
    assert (tmp_path / "calls").read_text() == "x\n"
    probe_version(path, digest="cd" * 32, cache_dir=cache)
    assert (tmp_path / "calls").read_text() == "x\nx\n"
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert sorted(os.listdir(cache)) == [f"{'ab' * 32}.version.json", f"{'cd' * 32}.version.json"]


@pytest.mark.parametrize("broken", ["", "{", "[]", '"text"', "\0"])
def test_a_broken_answer_on_the_disk_is_asked_for_again(tmp_path: Path, broken: str) -> None:
    path = program(tmp_path, 'echo "llamafile v0.10.5"')
    (tmp_path / f"{DIGEST}.version.json").write_text(broken)
    assert probe_version(path, digest=DIGEST, cache_dir=tmp_path).family is Family.V10


def test_the_words_in_front_of_a_version(tmp_path: Path) -> None:
    path = program(tmp_path, 'echo "warning: this v9 processor is odd"; echo "llamafiler v0.9.3"')
    probe = probe_version(path, digest=DIGEST, cache_dir=tmp_path)
    assert (probe.program, probe.version) == ("llamafiler", "0.9.3")


def test_what_a_probe_may_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("LLAMA_ARG_PORT", "1")
    script = 'env > "$HOME/env"; cat > "$HOME/stdin"; echo "$1" > "$HOME/argument"; echo "llamafile v0.8.4"'
    probe_version(program(tmp_path, script), digest=DIGEST, cache_dir=tmp_path / "cache")
    seen = (tmp_path / "cache" / "env").read_text()
    assert "secret" not in seen
    assert "LLAMA_ARG" not in seen
    assert f"TMPDIR={tmp_path}/cache" in seen
    assert (tmp_path / "cache" / "stdin").read_text() == ""
    assert (tmp_path / "cache" / "argument").read_text() == "--version\n"


def test_a_given_environment_is_used(tmp_path: Path) -> None:
    path = program(tmp_path, 'echo "llamafile v$MINE"')
    environment = {"MINE": "0.9.1", "PATH": os.environ["PATH"]}
    probe = probe_version(path, digest=DIGEST, cache_dir=tmp_path, environment=environment)
    assert probe.version == "0.9.1"


def test_a_program_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    path = program(tmp_path, 'echo thinking; sleep 600 & echo $! > "$HOME/child"; wait')
    with pytest.raises(EngineError, match=r"--version within 0\.5 seconds") as caught:
        probe_version(path, digest=DIGEST, cache_dir=tmp_path, timeout_seconds=0.5)
    assert caught.value.cause == "it printed: thinking"
    assert _ends(int((tmp_path / "child").read_text()))
    assert not (tmp_path / f"{DIGEST}.version.json").exists()


def test_children_do_not_outlive_an_answer(tmp_path: Path) -> None:
    path = program(tmp_path, 'sleep 600 >/dev/null 2>&1 & echo $! > "$HOME/child"; echo "llamafile v0.8.4"')
    assert probe_version(path, digest=DIGEST, cache_dir=tmp_path).version == "0.8.4"
    assert _ends(int((tmp_path / "child").read_text()))


def _ends(pid: int) -> bool:
    """Whether this process is gone soon: a killed one may take a moment to die."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_endless_output_is_cut(tmp_path: Path) -> None:
    path = program(tmp_path, 'while :; do echo "no number here at all, on and on and on"; done')
    with pytest.raises(EngineError, match="names no version"):
        probe_version(path, digest=DIGEST, cache_dir=tmp_path)


def test_silence(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="names no version") as caught:
        probe_version(program(tmp_path, ":"), digest=DIGEST, cache_dir=tmp_path)
    assert caught.value.cause == "it printed nothing"
    with pytest.raises(EngineError, match="lists no flags"):
        probe_help(program(tmp_path, ":"), digest=DIGEST, cache_dir=tmp_path)


def test_bad_calls(tmp_path: Path) -> None:
    path = program(tmp_path, 'echo "llamafile v0.8.4"')
    for digest in ("", "../../etc/passwd", "AB" * 32, "ab"):
        with pytest.raises(UsageError, match="is no digest"):
            probe_version(path, digest=digest, cache_dir=tmp_path)
    with pytest.raises(NotFoundError):
        probe_version(tmp_path / "none", digest=DIGEST, cache_dir=tmp_path)
    with pytest.raises(EngineError, match="cannot be run"):
        probe_version(path, digest=DIGEST, cache_dir=path / "inside")


def test_help_is_asked_for_once_per_question(tmp_path: Path) -> None:
    path = program(
        tmp_path, 'echo "$@" >> "$HOME/calls"; printf "%s\\n" "-m, --model FILE  x" "--nobrowser  y"'
    )
    for _ in range(2):
        probe = probe_help(path, digest=DIGEST, cache_dir=tmp_path)
        assert probe.knows("--nobrowser")
        assert not probe.knows("--v2")
        assert probe.flags == {"-m", "--model", "--nobrowser"}
    probe_help(path, digest=DIGEST, cache_dir=tmp_path, arguments=("--server", "--help"))
    assert (tmp_path / "calls").read_text() == "--help\n--server --help\n"


#: Shapes of llama.cpp's generated help, of its older hand-written one, and of llamafile's manual page.
HELP = """
usage: engine [options] --not-an-option
-h,    --help, --usage                  print usage and exit
-t,    --threads N                      number of CPU threads (see --gone)
-C,    --cpu-mask M                     CPU affinity mask
-fa,   --flash-attn [on|off|auto]       set Flash Attention use
-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers
--pooling {none,mean,cls,last,rank}     pooling type for embeddings
--rope-scaling {none,linear,yarn}       RoPE
--no-context-shift                      use --other instead
  -c N, --ctx-size N    size of the prompt context
  --embedding           enable embedding vector output
     -ctk TYPE, --cache-type-k TYPE
             KV cache data type, as --said elsewhere
  --temp=N              temperature
  --host ip_address     ip (default: 127.0.0.1)
- a bullet, no flag
-- neither
"""


def test_flags_in_a_help_text() -> None:
    assert flags_in_help(HELP) == {
        *("-h", "--help", "--usage", "-t", "--threads", "-C", "--cpu-mask", "-fa", "--flash-attn"),
        *("-ngl", "--gpu-layers", "--n-gpu-layers", "--pooling", "--rope-scaling", "--no-context-shift"),
        *("-c", "--ctx-size", "--embedding", "-ctk", "--cache-type-k", "--temp", "--host"),
    }
