"""What tests of bulk jobs share: a source of vectors without engines."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from llamafile_mgr.bulk.text_records import Failure, TextResult
from tests.embedding.stub_pool import WIDTH, vector_of

__all__ = ["FAILING", "FakeSource"]

#: Texts with this word have no vector.
FAILING = "<failing>"


@dataclass
class FakeSource:
    """Gives each text the vector that its letters make; notes what it was asked for.

    ``dies_after``: texts after which every request fails as a whole.
    """

    model: str = "fake"
    vector_space: str = "0" * 16
    dimensions: int | None = WIDTH
    exact: bool = True
    dies_after: int | None = None
    asked: list[str] = field(default_factory=list)
    most_under_way: int = 0
    _under_way: int = 0

    async def embed(self, texts: Sequence[str]) -> list[TextResult]:
        self._under_way += 1
        self.most_under_way = max(self.most_under_way, self._under_way)
        try:
            # Later requests end first, so that order is never kept by chance.
            for _ in range(10 - len(self.asked) % 10):
                await asyncio.sleep(0)
        finally:
            self._under_way -= 1
        if self.dies_after is not None and len(self.asked) + len(texts) > self.dies_after:
            raise ConnectionError("the source died")
        self.asked += texts
        return [self._result(text) for text in texts]

    def _result(self, text: str) -> TextResult:
        if FAILING in text:
            return TextResult(failure=Failure("engine", "no vector"))
        return TextResult(vector_of(text), truncated="right" if "long" in text else None)
