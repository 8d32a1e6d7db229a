"""Is an engine right? Real requests with known answers, before any caller's request is sent."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from llamafile_mgr.catalog import Role, load_golden
from llamafile_mgr.embedding.limits import cosine_limits
from llamafile_mgr.embedding.probing import (
    LONGER_TEXT,
    OLD_TOKENIZER,
    PROBE_TEXTS,
    KnownTokens,
    check_meaning,
    check_tokens,
    make_traps,
    require_near,
    tell_tokens,
)
from llamafile_mgr.embedding.prompts import end_text
from llamafile_mgr.embedding.space import fingerprint_space
from llamafile_mgr.embedding.vectors import cosines, normalise
from llamafile_mgr.engines.family import EngineFamily
from llamafile_mgr.engines.messages import json_request
from llamafile_mgr.engines.replies import read_json
from llamafile_mgr.engines.reranking import read_scores, rerank_request
from llamafile_mgr.engines.transport import EngineClient
from llamafile_mgr.errors import EngineError, EngineStartError, InvalidFileError, NotFoundError
from llamafile_mgr.files import store_errors, write_atomically
from llamafile_mgr.llamafile import inspect_file
from llamafile_mgr.llamafile.inspection import Weights
from llamafile_mgr.llamafile.tensor_damage import find_damage
from llamafile_mgr.llamafile.word_pieces import read_word_pieces
from llamafile_mgr.paths import ensure_private_dir
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.engine_start import EngineChecks

T = TypeVar("T")
#: Several engines of one file are checked at once.
_LOOKING = Lock()
_UNIT_TOLERANCE = 1e-2
_REQUEST_SECONDS = 600.0
#: Texts that are also embedded alone, and as many in another order: enough to tell, and quick.
_FEW = 3
#: To the first of the probe texts.
_ANSWER = "To reset your password, open the settings and choose a new one."
#: A pair alone and among others differs by rounding only; the share is of the distance that it must keep.
_SCORE_TOLERANCE = 0.05


def make_checks(plan: Plan, baselines: Baselines, *, records: bool = True) -> EngineChecks:
    """Return what an engine of this plan must pass before it takes calls, and now and then afterwards.

    ``records``: what the first engine answers becomes known; never so for one that is not ours.
    """
    if plan.role is Role.EMBED:
        return EmbeddingChecks(plan, baselines, records)
    return RerankChecks() if plan.role is Role.RERANK else GenerationChecks()


class Baselines:
    """What engines answered when models were first started here, for models without golden vectors.

    A later start whose vectors differ, because the engine, a driver or the file changed, does not become
    ready unnoticed. One small JSON file per vector space in a directory; blocks on the disk.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self, space: str) -> NDArray[np.float32] | None:
        """Return the vectors recorded for a vector space, None when there are none that can be read."""
        try:
            rows = json.loads(self._path(space).read_text(encoding="ascii"))
            vectors = np.array(rows, dtype=np.float32)
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        return vectors if vectors.ndim == 2 and vectors.size else None

    def record(self, space: str, vectors: NDArray[np.float32]) -> None:
        """Write the vectors of a vector space.

        Raises:
            StoreError: they cannot be written.
        """
        ensure_private_dir(self._directory)
        path = self._path(space)
        with store_errors(path):
            write_atomically(path, json.dumps(vectors.astype(float).tolist()).encode("ascii"))

    def _path(self, space: str) -> Path:
        return self._directory / f"{space}.json"


@dataclass(frozen=True, slots=True)
class _FileView:
    """What an engine's file tells of its tokens. ``traps``: as ``make_traps`` returns them."""

    traps: tuple[str, ...] = ()
    tokens: KnownTokens | None = None


class EmbeddingChecks:
    """Checks of an embedding engine: the file, its tokens, texts alone and among others, their meaning, and
    known vectors: the catalog's golden ones or, for a model without any, those of its first start here.
    """

    def __init__(self, plan: Plan, baselines: Baselines, records: bool) -> None:
        self._plan = plan
        self._baselines = baselines
        self._ours = records
        self._limits = cosine_limits(plan.quantisation)
        self._weights = f"({plan.quantisation or 'unknown'} weights)"
        self._first: NDArray[np.float32] | None = None
        self._end = end_text(plan)
        changed = plan.features.vector_facts() or plan.vector_arguments
        self._golden = load_golden(plan.model) if plan.model is not None and not changed else ()
        # Known vectors say what the others' checks say, unless some of them may be missed on purpose.
        accepted = plan.accepted
        alone = self._golden and accepted.least_cosine is None and accepted.known_bad is None
        self._probes = () if alone else (*PROBE_TEXTS, LONGER_TEXT)
        self._texts = (*self._probes, *(entry.text for entry in self._golden))

    async def _ask(
        self, client: EngineClient, rules: EngineFamily, texts: Sequence[str]
    ) -> NDArray[np.float32]:
        """Return the vectors of texts that end as callers' texts do."""
        return await _embed(client, rules, [text + self._end for text in texts])

    async def check_ready(self, client: EngineClient, rules: EngineFamily) -> None:
        """Ask, then compare. Raises EngineError."""
        file = await asyncio.to_thread(_look_at, self._plan.path, _view_file)
        if self._ours and self._probes:
            await asyncio.to_thread(_refuse_damage, self._plan.path)
        insists = self._plan.accepted.known_bad is not None
        traps = () if insists or file is None else file.traps
        if self._ours and not insists and file is not None and file.tokens is not None:
            await _compare_tokens(client, rules, file.tokens)
        vectors = await self._compare_with_itself(client, rules, (*self._texts, *traps))
        if traps:
            between = "of a text in small letters and in capitals, which the model does not tell apart"
            self._require_alike(vectors[-1:], vectors[-2:-1], between, hint=OLD_TOKENIZER)
        if self._probes:
            check_meaning(vectors, any_meaning=self._plan.accepted.any_meaning)
        if self._golden:
            self._compare_golden(vectors[len(self._probes) : len(self._texts)])
        else:
            await asyncio.to_thread(self._compare_baseline, vectors[: len(PROBE_TEXTS)])
        self._first = vectors[:1]

    async def check_alive(self, client: EngineClient, rules: EngineFamily) -> None:
        """Embed one text and compare it with what the engine gave at its start. Raises EngineError."""
        now = normalise(await self._ask(client, rules, self._texts[:1]))
        if self._first is not None:
            self._require_as_before(now, self._first, "its own vector at the start")

    async def _compare_with_itself(
        self, client: EngineClient, rules: EngineFamily, texts: Sequence[str]
    ) -> NDArray[np.float32]:
        """Embed texts alone, together and in another order; return their vectors, of unit length."""
        alone = np.concatenate([await self._ask(client, rules, [text]) for text in texts[:_FEW]])
        together = await self._ask(client, rules, texts)
        _check_shape(self._plan, together)
        turned = await self._ask(client, rules, texts[_FEW - 1 :: -1])
        vectors = normalise(together)
        self._require_alike(normalise(alone), vectors[:_FEW], "alone and among other texts")
        self._require_alike(normalise(turned), vectors[_FEW - 1 :: -1], "among others in another order")
        return vectors

    def _require_alike(
        self, left: NDArray[np.float32], right: NDArray[np.float32], between: str, hint: str | None = None
    ) -> None:
        require_near(cosines(left, right), self._limits.repeat, f"{between} {self._weights}", hint=hint)

    def _require_as_before(self, now: NDArray[np.float32], then: NDArray[np.float32], when: str) -> None:
        require_near(cosines(now, then), self._limits.elsewhere, f"with {when} {self._weights}")

    def _compare_golden(self, vectors: NDArray[np.float32]) -> None:
        accepted = self._plan.accepted
        known = normalise(np.array([entry.vector for entry in self._golden], dtype=np.float32))
        near = cosines(vectors, known)
        if accepted.known_bad is not None:
            near = np.median(near, keepdims=True)  # single texts may be wrong, but not most of them
        limit = self._limits.golden
        limit = limit if accepted.least_cosine is None else min(limit, accepted.least_cosine)
        require_near(
            near,
            limit,
            f"with the model's known vectors {self._weights}",
            hint=f'to accept weights so far off, set least_cosine in [models."{self._plan.name}"]',
        )

    def _compare_baseline(self, vectors: NDArray[np.float32]) -> None:
        space = fingerprint_space(self._plan)
        known = self._baselines.load(space)
        if known is None and not self._ours:
            raise EngineStartError(
                f"there are no known vectors of {self._plan.name} yet to compare its own with",
                hint="let one engine start here once, with replicas = 1",
            )
        if known is None or known.shape != vectors.shape:
            if not self._ours:
                raise EngineStartError("its vectors have another shape than those of the first start here")
            self._baselines.record(space, vectors)
        else:
            self._require_as_before(vectors, known, "the vectors of its first start here")


class GenerationChecks:
    """Checks of a generation engine: one token comes back."""

    async def check_ready(self, client: EngineClient, rules: EngineFamily) -> None:
        """Generate one token. Raises EngineError."""
        request = json_request("/completion", {"prompt": "Hello", "n_predict": 1})
        body = read_json(await client.request(request, deadline_seconds=_REQUEST_SECONDS))
        if not isinstance(body, dict) or "content" not in body:
            raise EngineError("the engine's completion has no content")

    check_alive = check_ready


class RerankChecks:
    """Checks of a reranking engine."""

    def __init__(self) -> None:
        self._right: float | None = None
        self._distance = 0.0

    async def check_ready(self, client: EngineClient, rules: EngineFamily) -> None:
        """Score an answer and something else, alone and together. Raises EngineError."""
        right, wrong = await _score(client, _ANSWER, PROBE_TEXTS[2])
        if right <= wrong:
            raise EngineStartError(
                "its scores are wrong",
                cause=f"an answer to a question is scored no higher ({right:.3f}) than none ({wrong:.3f})",
                hint="the model may be no reranker; a model that embeds is served with --embed",
            )
        self._right, self._distance = right, right - wrong
        await self.check_alive(client, rules)

    async def check_alive(self, client: EngineClient, rules: EngineFamily) -> None:
        """Score one pair and compare it with the first time. Raises EngineError."""
        (now,) = await _score(client, _ANSWER)
        if self._right is not None and abs(now - self._right) > _SCORE_TOLERANCE * self._distance:
            raise EngineStartError(
                "its scores are wrong", cause=f"{now:.3f} for a pair that had {self._right:.3f} at the start"
            )


async def _embed(client: EngineClient, rules: EngineFamily, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the vectors of texts, as many to a request as the engine takes."""
    found = []
    for at in range(0, len(texts), rules.max_texts):
        batch = texts[at : at + rules.max_texts]
        reply = await client.request(rules.embed(batch), deadline_seconds=_REQUEST_SECONDS)
        found.append(rules.read_vectors(reply, len(batch)).vectors)
    return np.concatenate(found)


async def _compare_tokens(client: EngineClient, rules: EngineFamily, known: KnownTokens) -> None:
    request = rules.tokenize(known.text, special=False)
    tokens = rules.read_tokens(await client.request(request, deadline_seconds=_REQUEST_SECONDS))
    if all(isinstance(token, int) for token in tokens):
        check_tokens(known, tokens)


def _look_at(path: Path, look: Callable[[Path, Weights], T]) -> T | None:
    """Return what ``look`` finds in the weights of a file, None without any; engines of one file look once.

    Blocks; raises EngineStartError.
    """
    try:
        found = path.stat()
        with _LOOKING:
            return _look_at_version(path, look, found.st_mtime_ns, found.st_size)
    except OSError as error:
        raise EngineStartError(f"its file {path} cannot be read: {error.strerror or error}") from error
    except (InvalidFileError, NotFoundError) as error:
        raise EngineStartError(error.message, cause=error.cause, hint=error.hint) from error


@functools.lru_cache(maxsize=16)
def _look_at_version(path: Path, look: Callable[[Path, Weights], T], changed_ns: int, size: int) -> T | None:
    weights = inspect_file(path).model
    return None if weights is None else look(path, weights)


def _view_file(path: Path, weights: Weights) -> _FileView:
    words = read_word_pieces(path, weights)
    return _FileView(make_traps(words), tell_tokens(words))


def _refuse_damage(path: Path) -> None:
    """Raise EngineStartError for weights that are damaged. Blocks."""
    damage = _look_at(path, find_damage)
    if damage is not None:
        raise EngineStartError(
            "its weights are damaged",
            cause=damage,
            hint="pull, copy or convert them again; verify checks files that were pulled",
        )


async def _score(client: EngineClient, *documents: str) -> list[float]:
    reply = await client.request(rerank_request(PROBE_TEXTS[0], documents), deadline_seconds=_REQUEST_SECONDS)
    return read_scores(reply, len(documents))


def _check_shape(plan: Plan, vectors: NDArray[np.float32]) -> None:
    width = vectors.shape[1]
    if plan.dimensions is not None and width != plan.dimensions:
        raise EngineStartError(f"its vectors have {width} dimensions where {plan.name} has {plan.dimensions}")
    lengths = np.linalg.norm(vectors, axis=1)
    if not np.all(np.abs(lengths - 1.0) < _UNIT_TOLERANCE):
        raise EngineStartError(f"its vectors are not of unit length but {lengths.min():.3g} and more")
