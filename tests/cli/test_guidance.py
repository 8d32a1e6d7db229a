"""What people are told who have nothing yet, or who forgot the model: a command that works here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llamafile_mgr.cli import run

Ask = Callable[..., tuple[int, str]]

MODEL = "all-minilm-l6-v2"


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Return what runs a command in a home and gives its code and what it said."""

    def answer(home: Path, *arguments: str) -> tuple[int, str]:
        monkeypatch.setenv("LLAMAFILE_MGR_HOME", str(home))
        code = run(list(arguments))
        said = capsys.readouterr()
        return code, said.out + said.err

    return answer


def test_an_empty_store(ask: Ask, tmp_path: Path) -> None:
    code, said = ask(tmp_path, "list")
    assert code == 0
    assert "llamafile-mgr pull mxbai-embed-large-v1" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["serve"], 2),
        (["plan"], 2),
        (["pull"], 2),
        (["exec", "--", "true"], 2),
        (["status"], 14),
        (["kit", "export", "kit.tar"], 4),
    ],
)
def test_nothing_pulled(ask: Ask, tmp_path: Path, arguments: list[str], code: int) -> None:
    found, said = ask(tmp_path, *arguments)
    assert found == code
    assert "fix: llamafile-mgr pull mxbai-embed-large-v1, which suits this machine" in said


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["serve"], f"llamafile-mgr serve --embed {MODEL}"),
        (["plan"], f"llamafile-mgr plan --embed {MODEL}"),
        (["exec", "--", "true"], f"llamafile-mgr exec --embed {MODEL} -- COMMAND"),
        (["status", "--port", "9"], f"start one: llamafile-mgr serve --embed {MODEL}"),
    ],
)
def test_a_model_is_here(ask: Ask, model_home: Path, arguments: list[str], hint: str) -> None:
    assert f"  fix: {hint}\n" in ask(model_home, *arguments)[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["exce", "--", "true"], "did you mean exec?"),
        (["exec", "--embd", MODEL, "--", "true"], "'--embed'"),
        (["exec", "--embed", "all-minlm-l6-v2", "--", "true"], f"did you mean {MODEL}?\n"),
        (["serve", "mxbai-embed-large"], "(llamafile-mgr pull mxbai-embed-large-v1 fetches it)"),
        (["completion", "bsh"], "'bash'"),
    ],
)
def test_what_was_meant(ask: Ask, model_home: Path, arguments: list[str], said: str) -> None:
    assert said in ask(model_home, *arguments)[1]
