"""Are the right passages found? Thirty real questions against all passages, with a prompt and without."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import numpy as np
import pytest

from llamafile_mgr.catalog import load_catalog
from llamafile_mgr.embedding.prompts import make_prompt
from llamafile_mgr.embedding.requests import InputType
from tests.support.service import Service

PAIRS = json.loads((Path(__file__).parent / "data" / "retrieval.json").read_text(encoding="utf-8"))
PROMPTED = ("mxbai-embed-large-v1", "e5-mistral-7b-instruct")


def ranks(scores: np.ndarray) -> np.ndarray:
    """Return where each question's own passage stands, 1 for first; row and column have the same index."""
    own = np.diag(scores)[:, np.newaxis]
    places: np.ndarray = (scores > own).sum(axis=1) + 1
    return places


def mrr(places: np.ndarray) -> float:
    """Return the mean reciprocal rank."""
    return float((1 / places).mean())


def ndcg(places: np.ndarray, depth: int = 10) -> float:
    """Return nDCG at ``depth`` for one right passage a question."""
    return float(np.where(places <= depth, 1 / np.log2(places + 1), 0).mean())


def embed(service: Service, texts: list[str]) -> np.ndarray:
    reply = httpx.post(f"{service.url}/v1/embeddings", json={"input": texts}, timeout=50)
    return np.array([item["embedding"] for item in reply.json()["data"]], np.float32)


def test_ranking_metrics() -> None:
    scores = np.array([[0.9, 0.1, 0.2], [0.9, 0.5, 0.1], [0.3, 0.4, 0.2]])
    assert ranks(scores).tolist() == [1, 2, 3]
    assert mrr(ranks(scores)) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert ndcg(ranks(scores)) == pytest.approx((1 + 1 / np.log2(3) + 1 / 2) / 3)
    assert ndcg(np.array([11])) == 0


def test_right_passages_are_found(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    """MiniLM was trained without prompts: they must not be needed, and foreign ones must not ruin it."""
    passages = embed(service, [pair["passage"] for pair in PAIRS])
    questions = [pair["question"] for pair in PAIRS]
    found = {"no prompt": ranks(embed(service, questions) @ passages.T)}
    for name in PROMPTED:
        prompt = make_prompt(load_catalog().models[name], InputType.QUERY, None)
        found[f"prompt of {name}"] = ranks(
            embed(service, [prompt.apply(question).text for question in questions]) @ passages.T
        )
    with capsys.disabled():
        print("\nall-MiniLM-L6-v2, 30 questions:")
        for how, places in found.items():
            print(f"  {how:34} MRR {mrr(places):.3f}  nDCG@10 {ndcg(places):.3f}")
    assert mrr(found["no prompt"]) > 0.9
    assert ndcg(found["no prompt"]) > 0.9
