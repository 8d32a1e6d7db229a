"""What a node of a cluster does before it embeds, on the real engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llamafile_mgr.benchmarking.tune_runs import tune_once
from llamafile_mgr.bulk import EmbedSettings, plan_alone
from llamafile_mgr.bulk.nodes import node_source, predict_space
from llamafile_mgr.config import Config
from llamafile_mgr.downloader import PullTarget
from llamafile_mgr.errors import OfflineError
from llamafile_mgr.paths import Paths, resolve_paths
from tests.support.golden import GOLDEN, golden_cosine

MODEL = "all-minilm-l6-v2"


@pytest.fixture
def paths(model_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """Return a machine with the model, where nothing was measured."""
    (tmp_path / "store").symlink_to((model_home / "store").resolve())
    monkeypatch.setenv("LLAMAFILE_MGR_HOME", str(tmp_path))
    return resolve_paths()


@pytest.mark.timeout(120)
async def test_a_node_tunes_once(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamafile_mgr.benchmarking.tune_runs._ONCE_SECONDS", 20)
    records = paths.state / "tuning"
    async with node_source(MODEL, EmbedSettings()) as source:
        assert source.vector_space == predict_space(MODEL, Config(), paths)[0]
    assert not records.exists()
    async with node_source(MODEL, EmbedSettings(), tune=tune_once) as source:
        vectors = await source.probe(list(GOLDEN))
    for text, vector in zip(GOLDEN, vectors, strict=True):
        assert golden_cosine(text, np.asarray(vector).tolist()) >= 0.999
    [record] = records.glob("*.json")
    measured = record.read_bytes()
    assert plan_alone(MODEL, Config(), paths).tuned
    assert plan_alone(MODEL, Config(), paths).settings.slots == 1
    async with node_source(MODEL, EmbedSettings(), tune=tune_once):
        pass
    assert record.read_bytes() == measured


async def test_a_node_without_the_model_pulls_the_file_that_others_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def refuse(target: PullTarget, *_: object) -> None:
        asked.append(target.name)
        raise OfflineError("no hub here")

    monkeypatch.setattr("llamafile_mgr.bulk.nodes.pull", refuse)
    monkeypatch.setenv("LLAMAFILE_MGR_HOME", str(tmp_path))
    for file in (None, f"{MODEL}:pypi-q8_0"):
        with pytest.raises(OfflineError):
            async with node_source(MODEL, EmbedSettings(), file=file):
                pass
    assert asked == [f"{MODEL}:pypi-f16", f"{MODEL}:pypi-q8_0"]


def test_where_the_model_does_not_lie_the_catalogs_golden_vectors_are_known(tmp_path: Path) -> None:
    empty = resolve_paths({"LLAMAFILE_MGR_HOME": str(tmp_path)})
    space, reference = predict_space(MODEL, Config(), empty)
    assert (space, reference.pinned) == (None, True)
    assert not predict_space("no-such-model", Config(), empty)[1].pinned
