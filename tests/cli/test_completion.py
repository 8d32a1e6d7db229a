"""Completion as the shells ask for it: bash itself, the others by what their scripts send."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service import environment, run_program

MODEL = "all-minilm-l6-v2"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a program ``llamafile-mgr``, for shells to find."""
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "llamafile-mgr"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m llamafile_mgr "$@"\n')
    script.chmod(0o755)
    return folder


def bash(home: Path, programs: Path, line: str) -> list[str]:
    """Return what bash offers behind this line, which ends where the cursor is."""
    words = [*shlex.split(line), ""] if line.endswith(" ") else shlex.split(line)
    code = (
        'eval "$(llamafile-mgr completion bash)"\n'
        f"COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}\n"
        '_llamafile_mgr_completion llamafile-mgr\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", "--norc", "-c", code],
        env=environment(home, {"PATH": path}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stderr == ""
    return result.stdout.split()


def ask(home: Path, shell: str, line: str) -> str:
    """Return what the script of zsh or fish is told for this line."""
    last = line.rpartition(" ")[2]
    words = len(line.split(" ")) - 1
    extra = {"_LLAMAFILE_MGR_COMPLETE": f"{shell}_complete", "COMP_WORDS": line}
    result = run_program(home, extra={**extra, "COMP_CWORD": last if shell == "fish" else str(words)})
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_bash(model_home: Path, programs: Path) -> None:
    assert bash(model_home, programs, "llamafile-mgr exe") == ["exec"]
    assert bash(model_home, programs, "llamafile-mgr load all") == [MODEL]
    assert bash(model_home, programs, "llamafile-mgr exec --embed mxbai-e") == ["mxbai-embed-large-v1"]
    assert bash(model_home, programs, "llamafile-mgr serve --em") == ["--embed"]
    everything = bash(model_home, programs, "llamafile-mgr pull ")
    assert {MODEL, "mxbai-embed-large-v1", "sfr-embedding-mistral"} <= set(everything)
    assert bash(model_home, programs, "llamafile-mgr load zzz") == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells(model_home: Path, shell: str) -> None:
    script = run_program(model_home, "completion", shell).stdout
    assert f"_LLAMAFILE_MGR_COMPLETE={shell}_complete" in script
    assert MODEL in ask(model_home, shell, "llamafile-mgr serve --embed all")
    assert "in the store" in ask(model_home, shell, "llamafile-mgr load all")
    assert "recommend" in ask(model_home, shell, "llamafile-mgr reco")
    artifact = ask(model_home, shell, "llamafile-mgr pull mxbai-embed-large-v1:")
    assert "f16" in artifact
    assert "file" in ask(model_home, shell, "llamafile-mgr show ./mod")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_a_shell_that_is_here_takes_the_script(model_home: Path, shell: str) -> None:
    script = run_program(model_home, "completion", shell).stdout
    assert script.count("{") == script.count("}")
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n"], input=script, text=True, check=True, capture_output=True)


def test_a_broken_store_completes_without_a_message(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("no directory")
    assert ask(tmp_path, "zsh", "llamafile-mgr load a").strip() == ""
