"""A reranker for tests: MiniLM with a head that is fitted to a few pairs, so that its order makes sense.

No reranker's weights can be had from PyPI. The engine reads ``[CLS] query [SEP] [SEP] document [SEP]`` and
scores the vector of ``[CLS]``; the same vectors come from the encoder with ``--pooling cls``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

from tests.support.models import write_reranker
from tests.support.service import environment

__all__ = ["ANSWERS", "fit_reranker"]

#: Each question with its answer.
ANSWERS = {
    "How do I reset my password?": "To reset your password, open the settings and choose a new one.",
    "What do cats eat?": "Cats are carnivores that live on meat and fish.",
    "When did the war end?": "The war ended in May 1945.",
    "How high is Mont Blanc?": "Mont Blanc rises 4,806 metres above the sea.",
    "Which fruit has much potassium?": "Bananas are rich in potassium.",
}


def fit_reranker(encoder: Path, path: Path) -> Path:
    """Write a reranker that scores every answer above every other text for its own question."""
    pairs = [(q, a, float(q == own)) for q in ANSWERS for own, a in ANSWERS.items()]
    with _encoder(encoder) as http:
        questions = {text: _tokens(http, text) for text in ANSWERS}
        answers = {text: _tokens(http, text) for text in ANSWERS.values()}
        separator = questions["What do cats eat?"][-1]
        rows = [[*questions[q], separator, *answers[a][1:]] for q, a, _ in pairs]
        data = http.post("/v1/embeddings", json={"input": rows}).raise_for_status().json()["data"]
    features = np.array([item["embedding"] for item in data], np.float64)
    wanted = np.array([6.0 * right - 3.0 for _, _, right in pairs])
    middle = features.mean(axis=0)
    head = np.linalg.lstsq(features - middle, wanted - wanted.mean(), rcond=1e-6)[0]
    return write_reranker(encoder, path, head, float(wanted.mean() - head @ middle))


@contextmanager
def _encoder(model: Path) -> Iterator[httpx.Client]:
    """Run the engine that gives the vectors of ``[CLS]`` as they are."""
    sizes = ["-t", "1", "-c", "512", "-b", "512", "-ub", "512"]
    flags = [*sizes, "--embedding", "--pooling", "cls", "--embd-normalize", "-1"]
    argv = [sys.executable, "-m", "llamafile_mgr.engines.embedded", "-m", str(model), "--port", "0", *flags]
    process = subprocess.Popen(argv, env=environment(model.parent), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        found = next(m for line in process.stderr if (m := re.search(r"listening at (\S+)", line)))
        with httpx.Client(base_url=found.group(1), timeout=30) as http:
            yield http
    finally:
        process.kill()
        process.wait(5)
        process.stderr.close()


def _tokens(http: httpx.Client, text: str) -> list[int]:
    tokens: list[int] = http.post("/tokenize", json={"content": text, "add_special": True}).json()["tokens"]
    return tokens
