"""Who shares a service: users who want the same models, in the same order, from the same files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamafile_mgr.catalog import Role
from llamafile_mgr.config_reading import load_config
from llamafile_mgr.endpoints.sharing_terms import ServiceChoice, choose
from llamafile_mgr.errors import NotFoundError, UsageError
from llamafile_mgr.launching.wanted import read_wanted
from llamafile_mgr.paths import resolve_paths

Choose = Callable[..., ServiceChoice]


@pytest.fixture
def chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Choose:
    """Return what chooses a service by the lines of ``[serve]`` and the models of each role."""
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        (tmp_path / f"{name}.gguf").write_bytes(b"GGUF")
    paths = resolve_paths({"LLAMAFILE_MGR_HOME": str(tmp_path / "home")})

    def make(serve: str = "", **roles: list[str]) -> ServiceChoice:
        settings = tmp_path / "config.toml"
        settings.write_text(f"[serve]\n{serve}\n")
        config = load_config(settings, environ={})
        wanted = read_wanted(config.serve, roles={Role(role): names for role, names in roles.items()})
        return choose(wanted, config, paths)

    return make


def test_the_same_models_however_they_were_named_share_a_service(chosen: Choose, tmp_path: Path) -> None:
    key = chosen(embed=["a.gguf"], generate=["b.gguf", "c.gguf"]).key
    assert chosen("embed = 'a.gguf'", generate=["b.gguf", "c.gguf"]).key == key
    assert chosen("embed = ['a.gguf']\ngenerate = ['b.gguf', 'c.gguf']").key == key
    assert (
        chosen("embed = 'c.gguf'", embed=["./a.gguf"], generate=["b.gguf", f"{tmp_path}/c.gguf"]).key == key
    )
    assert chosen("port = 9\nhost = '::1'", embed=["a.gguf"], generate=["b.gguf", "c.gguf"]).key == key


def test_a_replaced_file_beside_a_model_is_another_service(
    chosen: Choose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "chat.jinja").write_text("one")
    beside = "[models.'a.gguf']\nlora = ['b.gguf', 'nowhere.gguf']\nchat_template = 'chat.jinja'"

    def key() -> str:
        return chosen(beside, embed=[str(tmp_path / "a.gguf")]).key

    keys = [key()]
    assert key() == keys[0]
    (tmp_path / "b.gguf").write_bytes(b"GGUF2")
    keys.append(key())
    (tmp_path / "chat.jinja").write_text("another")
    keys.append(key())
    (tmp_path / "elsewhere").mkdir()  # where the same names mean other files
    monkeypatch.chdir(tmp_path / "elsewhere")
    keys.append(key())
    assert len(set(keys)) == 4


def test_another_engine_of_the_system_is_another_service(
    chosen: Choose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}/one:{tmp_path}/two")
    keys = [chosen(embed=["a.gguf"]).key]
    for folder, content in (("two", "x"), ("two", "another"), ("one", "x")):
        path = tmp_path / folder / "llama-server"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        path.chmod(0o755)
        keys.append(chosen(embed=["a.gguf"]).key)
    assert len(set(keys)) == len(keys)
    assert chosen("[engines]\nsearch_path = false", embed=["a.gguf"]).key not in keys


def test_other_models_are_another_service(chosen: Choose, tmp_path: Path) -> None:
    keys = [
        chosen(generate=["b.gguf"]).key,
        # The settings' model is served too.
        chosen("embed = 'a.gguf'", generate=["b.gguf"]).key,
        chosen("embed = 'a.gguf'", generate=["b.gguf", "c.gguf"]).key,
        # The first of a role answers calls that name no model.
        chosen("embed = 'a.gguf'", generate=["c.gguf", "b.gguf"]).key,
        chosen(rerank=["b.gguf"]).key,
        chosen("[engines]\nprograms = '/opt/llama-server'", rerank=["b.gguf"]).key,
    ]
    assert len(set(keys)) == len(keys)
    os.utime(tmp_path / "b.gguf", (1, 1))
    assert chosen(generate=["b.gguf"]).key not in keys


def test_a_choice_without_models_or_without_their_files(chosen: Choose) -> None:
    with pytest.raises(UsageError, match="no model was named"):
        chosen()
    with pytest.raises(NotFoundError, match=r"no such file: \./d\.gguf"):
        chosen(embed=["./d.gguf"])


def test_defaults_are_those_of_the_user(chosen: Choose, tmp_path: Path) -> None:
    def served(role: str, name: str) -> dict[str, Any]:
        return {"role": role, "path": str(tmp_path / f"{name}.gguf"), "model": name.upper()}

    running = [served("generate", "a"), served("embed", "c"), served("generate", "b")]
    assert chosen(generate=["a.gguf"]).find_defaults(running) == {"generate": "A"}
    assert chosen(generate=["b.gguf"]).find_defaults(running) == {"generate": "B"}
    both = chosen(embed=["c.gguf"], generate=["b.gguf", "a.gguf"])
    assert both.find_defaults(running) == {"embed": "C", "generate": "B"}
    assert chosen(rerank=["c.gguf"]).find_defaults(running) is None
    assert both.find_defaults(running[:2]) is None
