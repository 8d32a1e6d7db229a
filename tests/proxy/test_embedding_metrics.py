"""What embedders count reaches ``/metrics`` in Prometheus' form."""

from __future__ import annotations

import re

import httpx

from llamafile_mgr.embedding.metrics import Counters
from llamafile_mgr.proxy.embedding_metrics import render_embedding_metrics
from tests.support.service import Service

LINE = re.compile(r'^[a-z_]+\{[a-z]+="[^"]*"(?:,[a-z]+="[^"]*")*\} [0-9.e+-]+$')


def values(text: str) -> dict[str, float]:
    """Return line without its number -> number; every line must have the exposition format's form."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            assert LINE.match(line) or line.startswith("llamafile_"), line
            name, _, number = line.rpartition(" ")
            found[name] = float(number)
    return found


def test_every_count_is_rendered() -> None:
    counters = Counters(calls=2, texts=9, tokens=70, cache_hits=3, cache_misses=5, deduplicated=1, failed=4)
    counters.truncated = {"right": 2, "chunk": 1}
    for seconds in (0.0005, 0.003, 1000.0):
        counters.tokenize.add(seconds)
    counters.engine.add(0.02)
    counters.total.add(0.2)
    text = render_embedding_metrics({"m": counters.snapshot(6, {"query": 0, "bulk": 8})})
    assert all(LINE.match(line) for line in text.splitlines() if not line.startswith("#"))
    found = values(text)
    for name, value in [
        ("llamafile_embedding_calls_total", 2),
        ("llamafile_texts_total", 9),
        ("llamafile_prompt_tokens_total", 70),
        ("llamafile_engine_groups_total", 6),
        ("llamafile_cache_hits_total", 3),
        ("llamafile_cache_misses_total", 5),
        ("llamafile_deduplicated_texts_total", 1),
        ("llamafile_failed_texts_total", 4),
    ]:
        assert found[f'{name}{{model="m"}}'] == value
    assert found['llamafile_truncated_texts_total{model="m",how="right"}'] == 2
    assert found['llamafile_truncated_texts_total{model="m",how="chunk"}'] == 1
    assert found['llamafile_waiting_texts{model="m",lane="bulk"}'] == 8
    buckets = [v for k, v in found.items() if k.startswith("llamafile_tokenize_seconds_bucket")]
    assert buckets == sorted(buckets)
    assert (buckets[0], buckets[1], buckets[2], buckets[-2], buckets[-1]) == (1, 1, 2, 2, 3)
    assert found['llamafile_tokenize_seconds_count{model="m"}'] == 3
    assert found['llamafile_group_seconds_sum{model="m"}'] == 0.02
    assert found['llamafile_embedding_seconds_count{model="m"}'] == 1


def test_no_name_is_told_twice_and_calls_are_counted(service: Service) -> None:
    def scrape() -> dict[str, float]:
        text = httpx.get(f"{service.url}/metrics").text
        helped = [line.split()[2] for line in text.splitlines() if line.startswith("# HELP")]
        assert len(helped) == len(set(helped))
        return values(text)

    model = '{model="all-minilm-l6-v2"}'
    before = scrape()
    body = {"input": ["counted", "counted", "word " * 900], "truncate": "right", "use_cache": False}
    assert httpx.post(f"{service.url}/v1/embeddings", json=body).status_code == 200
    after = scrape()

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown(f"llamafile_texts_total{model}") == 3
    assert grown(f"llamafile_deduplicated_texts_total{model}") == 1
    assert grown(f"llamafile_embedding_seconds_count{model}") == 1
    assert grown(f"llamafile_tokenize_seconds_count{model}") >= 1
    assert grown(f"llamafile_group_seconds_count{model}") == grown(f"llamafile_engine_groups_total{model}")
    assert grown(model.replace("{", "llamafile_truncated_texts_total{").replace("}", ',how="right"}')) == 1
