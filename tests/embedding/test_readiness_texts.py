"""Which texts a check sends: of a model that wants a mark at the end of every text, with that mark.

The models of the catalog that want it have seven billion parameters, so an engine's part is played with
vectors that the embedded engine gave for the same texts.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from llamafile_mgr.embedding.probing import PROBE_TEXTS
from llamafile_mgr.embedding.readiness import Baselines, EmbeddingChecks
from llamafile_mgr.engines.families import Family, family_rules
from llamafile_mgr.engines.messages import EngineReply, EngineRequest
from llamafile_mgr.engines.transport import EngineClient
from tests.embedding.stub_pool import make_plan
from tests.support.models import write_tiny_generator

RECORDED = json.loads(
    (Path(__file__).parent.parent / "support/captures/probes-minilm.json").read_text("ascii")
)["vectors"]


class RecordedClient(EngineClient):
    """An engine that knows the probe texts, with a mark behind each or without."""

    def __init__(self, mark: str) -> None:
        super().__init__("127.0.0.1", 1)
        self._mark = mark

    async def request(self, request: EngineRequest, *, deadline_seconds: float | None = None) -> EngineReply:
        texts = orjson.loads(request.body or b"")["input"]
        assert all(text.endswith(self._mark) for text in texts)
        vectors = [RECORDED[text.removesuffix(self._mark)] for text in texts]
        data = [{"index": at, "embedding": vector} for at, vector in enumerate(vectors)]
        return EngineReply(200, "application/json", orjson.dumps({"data": data}))


@pytest.mark.parametrize("mark", ["", "</s>"])
async def test_probe_texts_end_as_callers_texts_do(mark: str, tmp_path: Path) -> None:
    weights = write_tiny_generator(tmp_path / "m.gguf")
    plan = replace(make_plan(), path=weights, append_eos=bool(mark), dimensions=len(RECORDED[PROBE_TEXTS[0]]))
    rules, client = family_rules(Family.V10), RecordedClient(mark)
    checks = EmbeddingChecks(plan, Baselines(tmp_path / "known"), records=True)
    await checks.check_ready(client, rules)
    await checks.check_alive(client, rules)
