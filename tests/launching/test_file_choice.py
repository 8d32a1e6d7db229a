"""Which file a pull takes that names a model alone: what is here, else the fastest; never another unasked."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from llamafile_mgr.catalog import Role, load_catalog
from llamafile_mgr.config import EnginesConfig
from llamafile_mgr.launching import file_choice
from llamafile_mgr.launching.file_choice import choose_file, stored_name
from llamafile_mgr.launching.local_plans import find_site
from llamafile_mgr.machine import Cpu
from llamafile_mgr.paths import Paths, resolve_paths
from llamafile_mgr.planner.prospects import Site
from llamafile_mgr.store import Store
from tests.store.putting import put

CATALOG = load_catalog()
MODEL = "all-minilm-l6-v2"
F16, Q8 = f"{MODEL}:pypi-f16", f"{MODEL}:pypi-q8_0"
X86 = Cpu(physical_cores=2, features=("avx", "avx2", "f16c", "fma"))
ENGINES = EnginesConfig(search_path=False)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return resolve_paths({"LLAMAFILE_MGR_HOME": str(tmp_path)})


@pytest.fixture(autouse=True)
def site(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this computer be one with AVX2, whatever it is."""

    def find(*arguments: object, **named: object) -> Site:
        found = find_site(*arguments, **named)  # type: ignore[arg-type]
        return replace(found, machine=replace(found.machine, cpu=X86))

    monkeypatch.setattr(file_choice, "find_site", find)


def store_file(paths: Paths, name: str) -> None:
    model, _, artifact = name.partition(":")
    put(Store(paths.store), name, name.encode(), model_id=model, artifact=artifact, role=Role.EMBED)


@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="the wheel is not installed")
def test_nothing_is_here_and_the_fastest_is_taken(paths: Paths) -> None:
    choice = choose_file(MODEL, CATALOG, paths, ENGINES)
    assert choice.name == Q8
    assert choice.why is not None
    assert F16 in choice.why


@pytest.mark.parametrize("name", [F16, Q8])
def test_what_is_here_stays(paths: Paths, name: str) -> None:
    store_file(paths, name)
    choice = choose_file(MODEL, CATALOG, paths, ENGINES)
    assert choice.name == stored_name(MODEL, paths) == name


@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="the wheel is not installed")
def test_a_slower_one_that_is_here_is_told(paths: Paths) -> None:
    store_file(paths, F16)
    why = choose_file(MODEL, CATALOG, paths, ENGINES).why
    assert why is not None
    assert f"pull {Q8}" in why
    assert "index again" in why


def test_pulling_the_other_one_does_not_change_what_the_name_means(paths: Paths) -> None:
    store_file(paths, F16)
    store_file(paths, Q8)
    assert choose_file(MODEL, CATALOG, paths, ENGINES).name == stored_name(MODEL, paths) == F16


@pytest.mark.parametrize("name", [F16, Q8, "mxbai-embed-large-v1", "llamafile-0.10.5", "hf:a/b/c.gguf", "?"])
def test_every_other_name_means_what_it_says(paths: Paths, name: str) -> None:
    choice = choose_file(name, CATALOG, paths, ENGINES)
    assert (choice.name, choice.why) == (name, None)
    assert stored_name(name, paths) is None


def test_an_engine_of_the_settings_that_is_none_does_not_hinder_a_pull(paths: Paths, tmp_path: Path) -> None:
    engines = EnginesConfig(programs=(str(tmp_path / "none"),), search_path=False)
    assert choose_file(MODEL, CATALOG, paths, engines).name == F16
