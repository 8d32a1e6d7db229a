"""Embedding as a step of a Ray Data pipeline, on a real cluster of several node processes."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow
import pyarrow.parquet
import pytest
import ray
import ray.data

from llamafile_mgr.bulk import EmbedSettings
from llamafile_mgr.bulk.ray import embed_dataset
from llamafile_mgr.embedding.requests import Truncation
from llamafile_mgr.errors import NotReadyError, UsageError
from tests.support.fixed_source import BROKEN, fixed_source, noting_source
from tests.support.golden import GOLDEN, golden_cosine
from tests.support.ray_cluster import RayNodes, ray_nodes

MODEL = "all-minilm-l6-v2"
#: Ray Data warns of its own doings.
pytestmark = [pytest.mark.timeout(180), pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def nodes(model_home: Path) -> Iterator[RayNodes]:
    """Return a cluster of two nodes with this process as its driver."""
    with pytest.MonkeyPatch.context() as patch, ray_nodes(cpus=2) as cluster:
        patch.setenv("LLAMAFILE_MGR_HOME", str(model_home))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster.add(model_home)
        cluster.add(model_home)
        ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
        ray.data.DataContext.get_current().enable_progress_bars = False
        try:
            yield cluster
        finally:
            ray.shutdown()


def test_a_pipeline_from_parquet_to_parquet(nodes: RayNodes, model_home: Path, tmp_path: Path) -> None:
    texts: list[str | None] = [*GOLDEN, *(f"text number {n}" for n in range(90))]
    texts[40], texts[50] = None, "far too long " * 400
    rows = [{"key": n, "body": text} for n, text in enumerate(texts)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "in.parquet")
    dataset = ray.data.read_parquet(str(tmp_path / "in.parquet"))
    embedded = embed_dataset(dataset, MODEL, text="body", rows=16, batch=8)
    embedded.write_parquet(str(tmp_path / "out"))
    table = pyarrow.parquet.read_table(tmp_path / "out").sort_by("key")
    assert table.column_names == ["key", "body", "embedding", "vector_space", "error", "truncated"]
    rows = table.to_pylist()
    assert [(row["key"], row["body"]) for row in rows] == list(enumerate(texts))
    assert [row["key"] for row in rows if row["error"] is not None] == [40, 50]
    assert "has no text" in rows[40]["error"]
    assert rows[50]["error"].startswith("context_length_exceeded")
    assert (rows[40]["embedding"], rows[40]["vector_space"]) == (None, None)
    assert len({row["vector_space"] for row in rows if row["error"] is None}) == 1
    for text, row in zip(GOLDEN, rows, strict=False):
        assert golden_cosine(text, row["embedding"]) >= 0.999
    assert len(rows[0]["embedding"]) == 384
    assert engines_of(model_home) == []


def engines_of(home: Path) -> list[int]:
    """Return the engines that still run for nodes of this home, a moment after a pipeline ended."""
    found = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "llamafile_mgr.engines.embedded" in (process.info["cmdline"] or ())
        and process.environ().get("LLAMAFILE_MGR_HOME") == str(home)
        and process.ppid() != os.getpid()
    ]
    _, alive = psutil.wait_procs(found, 15)
    return [process.pid for process in alive]


def blocks_of(count: int) -> Any:
    return ray.data.from_items([{"text": f"text {n}"} for n in range(count)], override_num_blocks=20)


def test_every_node_has_one_set_of_engines(nodes: RayNodes, tmp_path: Path) -> None:
    connect = functools.partial(noting_source, 0.05, tmp_path)
    assert embed_dataset(blocks_of(80), connect, rows=4).count() == 80
    started = [path.read_text() for path in tmp_path.iterdir()]
    assert len(started) == len(set(started)) == 2


def test_settings_and_refusals(nodes: RayNodes) -> None:
    dataset = ray.data.from_items([{"text": "word " * 900, "error": "mine"}])
    settings = EmbedSettings(truncation=Truncation.RIGHT)
    [row] = embed_dataset(dataset, MODEL, settings=settings, nodes=1).take_all()
    assert (row["error"], row["truncated"]) == (None, "right")
    assert np.isclose(np.linalg.norm(row["embedding"]), 1, atol=1e-3)
    with pytest.raises(NotReadyError, match="no node has 1 processors and 9 GPUs"):
        embed_dataset(dataset, MODEL, gpus=9)
    with pytest.raises(UsageError):
        embed_dataset(dataset, MODEL, rows=0)
    with pytest.raises(Exception, match="there is no column 'body' among text, error"):
        embed_dataset(dataset, functools.partial(fixed_source, 0.0), text="body").take_all()


def test_a_node_with_a_broken_engine_ends_the_pipeline(nodes: RayNodes, tmp_path: Path) -> None:
    nodes.add(tmp_path, **{BROKEN: "1"})
    with pytest.raises(Exception, match="its vectors are not those of the job"):
        embed_dataset(blocks_of(80), functools.partial(fixed_source, 0.1), rows=4).take_all()
