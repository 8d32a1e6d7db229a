"""What embedders count reaches ``/metrics`` in Prometheus' form."""

from __future__ import annotations

import re
import time

import httpx

from llamafile_mgr.embedding.embed_counters import EmbedderStats
from llamafile_mgr.proxy.observing import render_embedding_metrics
from llamafile_mgr.supervisor.calls import Priority
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
    counters = EmbedderStats(
        calls=2, texts=9, tokens=70, batches=6, cache_hits=3, cache_misses=5, deduplicated=1, failed=4
    )
    counters.queue_depth = {"query": 0, "bulk": 8}
    counters.truncated = {"right": 2, "chunk": 1}
    for seconds in (0.0005, 0.003, 1000.0):
        counters.tokenize_seconds.add(seconds)
    counters.waiting_seconds[Priority.BULK].add(0.0002, 3)
    counters.waiting_seconds[Priority.BULK].add(0.4, 2)
    counters.engine_seconds.add(0.02)
    counters.total_seconds.add(0.2)
    text = render_embedding_metrics({"m": counters})
    assert all(LINE.match(line) for line in text.splitlines() if not line.startswith("#"))
    found = values(text)
    for name, value in [
        ("llamafile_embedding_calls_total", 2),
        ("llamafile_texts_total", 9),
        ("llamafile_prompt_tokens_total", 70),
        ("llamafile_engine_batches_total", 6),
        ("llamafile_cache_hits_total", 3),
        ("llamafile_cache_misses_total", 5),
        ("llamafile_deduplicated_texts_total", 1),
        ("llamafile_failed_texts_total", 4),
    ]:
        assert found[f'{name}{{model="m"}}'] == value
    assert found['llamafile_truncated_texts_total{model="m",how="right"}'] == 2
    assert found['llamafile_truncated_texts_total{model="m",how="chunk"}'] == 1
    assert found['llamafile_waiting_texts{model="m",priority="bulk"}'] == 8
    buckets = [v for k, v in found.items() if k.startswith("llamafile_tokenize_seconds_bucket")]
    assert buckets == sorted(buckets)
    assert (buckets[0], buckets[1], buckets[2], buckets[-2], buckets[-1]) == (1, 1, 2, 2, 3)
    assert found['llamafile_tokenize_seconds_count{model="m"}'] == 3
    waits = 'llamafile_waiting_seconds_bucket{model="m",priority="bulk",le="%s"}'
    assert [found[waits % bound] for bound in ("0.001", "0.25", "0.5", "+Inf")] == [3, 3, 5, 5]
    assert found['llamafile_waiting_seconds_sum{model="m",priority="bulk"}'] == 0.8006
    assert found['llamafile_waiting_seconds_count{model="m",priority="query"}'] == 0
    assert found['llamafile_batch_seconds_sum{model="m"}'] == 0.02
    assert found['llamafile_embedding_seconds_count{model="m"}'] == 1


def scrape(service: Service) -> dict[str, float]:
    """Return the service's metrics."""
    text = httpx.get(f"{service.url}/metrics").text
    helped = [line.split()[2] for line in text.splitlines() if line.startswith("# HELP")]
    assert len(helped) == len(set(helped))
    return values(text)


def test_waits_are_counted_by_priority(service: Service) -> None:
    def ask(texts: list[str]) -> float:
        """Embed and return the seconds it took."""
        began = time.monotonic()
        body = {"input": texts, "use_cache": False}
        assert httpx.post(f"{service.url}/v1/embeddings", json=body, timeout=60).status_code == 200
        return time.monotonic() - began

    def waits(priority: str) -> tuple[float, float]:
        found, labels = scrape(service), f'{{model="all-minilm-l6-v2",priority="{priority}"}}'
        return found[f"llamafile_waiting_seconds_count{labels}"], found[
            f"llamafile_waiting_seconds_sum{labels}"
        ]

    before, queries = waits("bulk"), waits("query")
    texts = [
        f"number {n} of many texts that are too long to be sent to an engine at once " * 5 for n in range(40)
    ]
    took = ask(texts)
    after = waits("bulk")
    assert after[0] - before[0] == len(texts)
    # All were there from the start and the last batch waited for most others.
    assert took > (after[1] - before[1]) / len(texts) > 0.1 * took
    assert waits("query") == queries
    took = ask(["one that finds an engine free"])
    count, seconds = waits("query")
    assert count - queries[0] == 1
    assert 0 <= seconds - queries[1] < took
    assert waits("bulk") == after


def test_no_name_is_told_twice_and_calls_are_counted(service: Service) -> None:
    model = '{model="all-minilm-l6-v2"}'
    before = scrape(service)
    body = {"input": ["counted", "counted", "word " * 900], "truncate": "right", "use_cache": False}
    assert httpx.post(f"{service.url}/v1/embeddings", json=body).status_code == 200
    after = scrape(service)

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown(f"llamafile_texts_total{model}") == 3
    assert grown(f"llamafile_deduplicated_texts_total{model}") == 1
    assert grown(f"llamafile_embedding_seconds_count{model}") == 1
    assert grown(f"llamafile_tokenize_seconds_count{model}") >= 1
    assert grown(f"llamafile_batch_seconds_count{model}") == grown(f"llamafile_engine_batches_total{model}")
    assert grown(model.replace("{", "llamafile_truncated_texts_total{").replace("}", ',how="right"}')) == 1
