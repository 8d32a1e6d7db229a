"""What an embedding call means, from texts to checked vectors in the callers' order.

Prompt, cache, length policy, queue, engine, mean of chunks, cut to fewer dimensions; nothing goes back up.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace

from llamafile_mgr.embedding.assembling import assemble, check_dimensions, cut_result
from llamafile_mgr.embedding.embed_counters import EmbedderStats
from llamafile_mgr.embedding.lengths import TokenCounter, estimate_tokens, surely_fits, text_limit
from llamafile_mgr.embedding.policy import FittedText, fit_text, keep_whole
from llamafile_mgr.embedding.prompts import PromptedText, end_text, make_prompt
from llamafile_mgr.embedding.requests import EmbedRequest, EmbedResult, InputType, ItemOutcome
from llamafile_mgr.embedding.space import fingerprint_space
from llamafile_mgr.embedding.text_work import TextWork
from llamafile_mgr.embedding.vector_cache import CacheThread, text_key
from llamafile_mgr.embedding.vectors import TextVector
from llamafile_mgr.errors import Error, NotReadyError, RequestError
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.calls import Caller, Deadline, Priority, Weight
from llamafile_mgr.supervisor.pool import Pool
from llamafile_mgr.tasks import run_all


@dataclass(eq=False)
class Embedder:
    """Embeds for one pool. ``wait_seconds``, ``deadline_seconds``: for calls whose caller names no deadline.
    ``input_type``: of texts whose caller names none. ``cache`` None keeps nothing; weights without a digest
    are never cached, since nothing would tell others of the same name from them."""

    pool: Pool
    _: KW_ONLY
    wait_seconds: float = 600.0
    deadline_seconds: float = 600.0
    input_type: InputType = InputType.NONE
    cache: CacheThread | None = None

    def __post_init__(self) -> None:
        self._counters = EmbedderStats()
        self._setup = self._set_up()
        self._work = TextWork(self._counters)

    @property
    def vector_space(self) -> str:
        """Return the fingerprint of the vectors that the pool's engines give now."""
        return self._present.space

    @property
    def _present(self) -> _Setup:
        """Return what follows from the plan of the pool's engines; a restart may have changed it."""
        if self._setup.plan is not self.pool.plan:
            self._setup = self._set_up()
        return self._setup

    def _set_up(self) -> _Setup:
        plan = self.pool.plan
        return _Setup(
            plan=plan,
            space=fingerprint_space(plan),
            counter=TokenCounter(self.pool.calls, plan, self._counters.tokenize_seconds.add),
            cache=self.cache if plan.weights_digest is not None else None,
        )

    def stats(self) -> EmbedderStats:
        """Return what was done so far and what waits now."""
        queue = self.pool.calls.queue
        depth = {priority.value: queue.depth(priority) for priority in self._counters.waiting_seconds}
        return replace(self._counters, queue_depth=depth)

    async def embed(self, request: EmbedRequest, caller: Caller | None = None) -> EmbedResult:
        """Return the vectors of all texts, each checked and of unit length. What the cache knows whole costs
        no permit and needs no engine.

        Raises:
            RequestError: the model has no such dimensions, the task is none, or a text is no Unicode.
            InputTooLongError: a text is longer than the model takes and must not be cut.
            BusyError: the queue is full.
            NotReadyError: no engine became ready in time, or the call's time is over.
            EngineError: an engine failed on a text.
            DeadlyRequestError: engines died of a text.
            With ``keep_going`` what concerns one text stands in its outcome instead; messages name its index.
        """
        began = time.monotonic()
        caller = caller or Caller("", Deadline.after(self.wait_seconds, self.deadline_seconds))
        counters = self._counters
        counters.calls += 1
        counters.texts += len(request.texts)
        try:
            # Vectors are of one space: all are made anew when other engines came meanwhile. What failed is
            # tried anew then too, since the call was made for the engines before.
            while True:
                setup = self._present
                try:
                    result = await self._embed_with(setup, request, caller)
                except Error:
                    if setup is self._present:
                        raise
                else:
                    if setup.space == self.vector_space:
                        return result
        finally:
            counters.total_seconds.add(time.monotonic() - began)

    async def _embed_with(self, setup: _Setup, request: EmbedRequest, caller: Caller) -> EmbedResult:
        plan = setup.plan
        check_dimensions(request.dimensions, plan, plan.dimensions)
        _check_texts(request.texts)
        kind = request.input_type or self.input_type
        prompt = make_prompt(plan.model, kind, request.task, end_text(plan))
        cache = setup.cache if request.use_cache else None
        work = _Work(setup, cache, request, caller, [prompt.apply(text) for text in request.texts])
        await self._look_up(work, {text.text for text in work.prompted})
        work.fitted = [keep_whole(text) for text in work.prompted]
        missing = [text.text for text in work.prompted if text.text not in work.computed]
        if missing:
            weight = Weight(len(missing), sum(map(estimate_tokens, missing)))
            with self.pool.calls.admit(caller, weight):
                await self._fit(work)
                await self._look_up(work, {text for fitted in work.fitted for text, _ in fitted.pieces})
                single = len(request.texts) == 1 or kind is InputType.QUERY
                await self._compute(work, Priority.QUERY if single else Priority.BULK)
        else:
            self._counters.cache_hits += len(work.prompted)
        result = assemble(
            work.fitted, work.computed, setup.space, plan.dimensions, with_chunks=request.return_chunks
        )
        self._count(result)
        return cut_result(result, request.dimensions, plan)

    async def _look_up(self, work: _Work, texts: set[str]) -> None:
        """Take from the cache what it knows of ``texts``."""
        if work.cache is None:
            return
        texts = texts - work.looked_up
        work.looked_up |= texts
        if not texts:
            return
        keys = {text_key(text): text for text in texts}
        known = await work.cache.get(work.setup.space, list(keys))
        for key, entry in known.items():
            share = entry.tokens or estimate_tokens(keys[key])
            work.computed[keys[key]] = replace(
                entry, share=share, cached=True, estimated=entry.tokens is None
            )

    async def _fit(self, work: _Work) -> None:
        """Apply the length policy to every text that is not known whole."""
        request, setup = work.request, work.setup
        limit = text_limit(setup.plan)

        async def fit(index: int) -> FittedText:
            text = work.prompted[index]
            try:
                return await fit_text(
                    text,
                    request.truncation,
                    limit,
                    lambda piece: setup.counter.count(piece, work.caller),
                    name=setup.plan.name,
                    index=index,
                )
            except RequestError as error:
                if not request.keep_going:
                    raise
                return FittedText((), ItemOutcome(error=error))

        unsure = [
            index
            for index, text in enumerate(work.prompted)
            if text.text not in work.computed and not surely_fits(text.text, limit)
        ]
        if not unsure:
            return
        # A text that stands there again is counted once: its counts are known by then.
        first = {work.prompted[index].text: index for index in reversed(unsure)}.values()
        for indexes in (list(first), sorted({*unsure} - {*first})):
            done = await run_all(fit(index) for index in indexes)
            for index, fitted in zip(indexes, done, strict=True):
                work.fitted[index] = fitted

    async def _compute(self, work: _Work, priority: Priority) -> None:
        """Embed what is not known, each different text once, and keep it."""
        pieces = [piece for fitted in work.fitted for piece in fitted.pieces]
        counts = {text: tokens for text, tokens in pieces if text not in work.computed}
        known = sum(1 for text, _ in pieces if text in work.computed)
        self._counters.cache_hits += known
        self._counters.cache_misses += len(counts)
        self._counters.deduplicated += len(pieces) - known - len(counts)
        results = await self.pool.calls.compute(
            self._work,
            list(counts),
            [tokens or estimate_tokens(text) for text, tokens in counts.items()],
            priority,
            work.caller,
            stop_early=not work.request.keep_going,
        )
        self._keep(work, counts, results)

    def _keep(
        self, work: _Work, counts: Mapping[str, int | None], results: Sequence[TextVector | Error | None]
    ) -> None:
        """Take ``results`` into the call, and vectors into the cache. Raises an error when the call must not
        go on; else it is kept for the text's outcome."""
        errors: dict[str, Error] = {}
        fresh: dict[bytes, TextVector] = {}
        for (text, tokens), result in zip(counts.items(), results, strict=True):
            if isinstance(result, Error):
                errors[text] = result
            elif result is not None:
                exact = tokens if tokens is not None else result.tokens
                told = result.share or exact
                work.computed[text] = fresh[text_key(text)] = replace(
                    result, tokens=exact, share=told or estimate_tokens(text), estimated=not told
                )
        if work.cache is not None and work.setup.space == self.vector_space:
            work.cache.put(work.setup.space, fresh)
        for text, error in errors.items():
            if isinstance(error, NotReadyError):
                raise error
            if not work.request.keep_going:
                index = next(i for i, fitted in enumerate(work.fitted) if text in dict(fitted.pieces))
                raise type(error)(f"text {index}: {error.message}", cause=error.cause, hint=error.hint)
        work.computed |= errors

    def _count(self, result: EmbedResult) -> None:
        counters = self._counters
        counters.tokens += result.prompt_tokens
        for outcome in result.outcomes:
            counters.failed += outcome.error is not None
            if outcome.truncated is not None:
                how = outcome.truncated.value
                counters.truncated[how] = counters.truncated.get(how, 0) + 1


@dataclass(frozen=True, slots=True)
class _Setup:
    """What follows from a plan."""

    plan: Plan
    space: str
    counter: TokenCounter
    cache: CacheThread | None


@dataclass(slots=True)
class _Work:
    """One call under way. ``cache``: what it may use. ``computed``: by final text. ``fitted``: one per
    text."""

    setup: _Setup
    cache: CacheThread | None
    request: EmbedRequest
    caller: Caller
    prompted: Sequence[PromptedText]
    fitted: list[FittedText] = field(default_factory=list)
    computed: dict[str, TextVector | Error] = field(default_factory=dict)
    looked_up: set[str] = field(default_factory=set)


def _check_texts(texts: Sequence[str]) -> None:
    """Raise RequestError for half a surrogate pair, which no engine could be sent."""
    for index, text in enumerate(texts):
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise RequestError(f"text {index} is no Unicode text: {error.reason}") from error
