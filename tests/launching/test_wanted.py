"""Which models are meant, by settings, flags and arguments: a table, and what holds for every list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.catalog import Role
from llamafile_mgr.config import Config, ServeConfig
from llamafile_mgr.errors import NotFoundError, PlanError, UsageError
from llamafile_mgr.launching.local_plans import find_specs
from llamafile_mgr.launching.wanted import (
    ToldRoles,
    Wanted,
    WantedModels,
    anchor_name,
    locate,
    read_embedder,
    read_wanted,
)
from llamafile_mgr.paths import resolve_paths
from llamafile_mgr.store import Store

EMBED, GENERATE, RERANK = Role.EMBED, Role.GENERATE, Role.RERANK
BOTH = ServeConfig(embed=("e1", "e2"), generate=("g",))


@pytest.mark.parametrize(
    ("settings", "models", "roles", "wanted"),
    [
        (ServeConfig(), [], {}, []),
        (BOTH, [], {}, [("e1", EMBED), ("e2", EMBED), ("g", GENERATE)]),
        # A flag takes the place of its role's models, and leaves the other roles to the settings.
        (BOTH, [], {EMBED: ["x"]}, [("x", EMBED), ("g", GENERATE)]),
        (BOTH, [], {GENERATE: ["x", "y"]}, [("e1", EMBED), ("e2", EMBED), ("x", GENERATE), ("y", GENERATE)]),
        (BOTH, [], {RERANK: ["r"]}, [("e1", EMBED), ("e2", EMBED), ("g", GENERATE), ("r", RERANK)]),
        # Nothing told is not the same as told to serve none.
        (BOTH, [], {EMBED: None, GENERATE: [""]}, [("e1", EMBED), ("e2", EMBED)]),
        (BOTH, [], {EMBED: (), GENERATE: None}, [("g", GENERATE)]),
        (ServeConfig(embed=("",)), [], {}, []),
        # With arguments the settings' models stand aside.
        (BOTH, ["m", "n"], {}, [("m", None), ("n", None)]),
        (BOTH, ["m"], {GENERATE: ["x"]}, [("m", None), ("x", GENERATE)]),
        # Each once, where it was named first; a flag tells the role of an argument.
        (ServeConfig(), ["m", "m"], {EMBED: ["a", "b", "a"]}, [("m", None), ("a", EMBED), ("b", EMBED)]),
        (ServeConfig(), ["m", "n"], {RERANK: ["m"]}, [("m", RERANK), ("n", None)]),
    ],
)
def test_what_is_wanted(
    settings: ServeConfig,
    models: Sequence[str],
    roles: ToldRoles,
    wanted: list[tuple[str, Role | None]],
) -> None:
    assert [(each.name, each.role) for each in read_wanted(settings, models, roles).models] == wanted


def test_one_model_has_one_role() -> None:
    with pytest.raises(UsageError, match="m is named to embed and to rerank"):
        read_wanted(ServeConfig(), (), {EMBED: ["m"], RERANK: ["m"]})
    with pytest.raises(UsageError, match="e1 is named to embed and to generate"):
        read_wanted(BOTH, (), {GENERATE: ["e1"]})


names = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8)


@given(names, st.lists(st.sampled_from([None, *Role]), min_size=8, max_size=8))
def test_serve_runs_what_its_arguments_say(named: list[str], roles: list[Role | None]) -> None:
    """A list becomes arguments and a list again; only what has no role yet comes first."""
    wanted = WantedModels(tuple(map(Wanted, named, roles)))
    words = iter(wanted.arguments())
    models: list[str] = []
    told: dict[Role, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            told.setdefault(Role(word[2:]), []).append(next(words))
        else:
            models.append(word)
    again = read_wanted(ServeConfig(), models, told)
    assert set(again.models) == set(wanted.models)
    for role in (None, *Role):
        mine, its = ([each for each in some.models if each.role is role] for some in (wanted, again))
        assert mine == its


def test_one_model_to_embed_with() -> None:
    assert read_embedder(BOTH, None) == WantedModels((Wanted("e1", EMBED),))
    assert read_embedder(BOTH, "g") == WantedModels((Wanted("g", EMBED),))
    with pytest.raises(UsageError, match="no model was named"):
        read_embedder(ServeConfig(generate=("g",)), None)


def test_names_mean_the_same_from_every_directory(
    model_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(model_home / "store")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("mine.gguf", "all-minilm-l6-v2"):
        (tmp_path / name).write_bytes(b"GGUF")
    # What the store has comes first, as where a model is started.
    assert anchor_name("all-minilm-l6-v2", store) == "all-minilm-l6-v2"
    assert locate("all-minilm-l6-v2", store)[1] is not None
    assert anchor_name("./all-minilm-l6-v2", store) == str(tmp_path / "all-minilm-l6-v2")
    assert anchor_name("mine.gguf", store) == anchor_name("~/mine.gguf", store) == str(tmp_path / "mine.gguf")
    for name in ("", "unknown", "no/such.gguf"):
        assert anchor_name(name, store) == name
        with pytest.raises(NotFoundError):
            locate(name, store)


def test_two_files_cannot_have_one_name(tiny_generator: Path, tmp_path: Path) -> None:
    paths = resolve_paths({"LLAMAFILE_MGR_HOME": str(tmp_path)})
    other = tmp_path / tiny_generator.name
    other.write_bytes(tiny_generator.read_bytes())
    wanted = read_wanted(Config().serve, [str(tiny_generator), str(other)])
    with pytest.raises(PlanError, match="tiny-generator was asked for twice") as caught:
        find_specs(wanted, paths, {})
    assert str(other) in str(caught.value.cause)
