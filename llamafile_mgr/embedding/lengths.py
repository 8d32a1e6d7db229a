"""How long a text is for a model, counted by the engine's own tokenizer and only when it must be."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from llamafile_mgr.catalog import Pooling
from llamafile_mgr.engines.families import family_rules
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.calls import Caller, Priority
from llamafile_mgr.supervisor.dispatch import Dispatcher

#: Special tokens that any tokenizer puts around a text, and the space that some put in front.
_MOST_SPECIALS = 3
_BERT_SPECIALS, _OTHER_SPECIALS = 2, 1


def text_limit(plan: Plan) -> int | None:
    """Return the most tokens that a text may have, special tokens included; None where nothing tells.

    Some families cut a text that fills their context, and llama.cpp's server refuses one that fills the
    context of a causal model (measured: 255 of 256 tokens are taken, 256 are not), so there it must stay one
    below. Of the others, which it computes in one batch, the whole context is taken (512 of 512 measured).
    """
    limit = plan.max_tokens
    if family_rules(plan.family).cuts_full_context or plan.settings.pooling is Pooling.LAST:
        return min(limit or plan.settings.context, plan.settings.context - 1)
    return limit


def special_tokens(plan: Plan) -> int:
    """Return how many special tokens the engine adds and its ``/tokenize`` does not count.

    There are two around a BERT text, one in front of any other.
    """
    if family_rules(plan.family).counts_special_tokens:
        return 0
    bert = plan.model is None or plan.model.architecture == "bert"
    return _BERT_SPECIALS if bert else _OTHER_SPECIALS


def surely_fits(text: str, limit: int | None) -> bool:
    """Tell whether ``text`` fits without being counted: a token is at least one byte of UTF-8."""
    if limit is None:
        return True
    room = limit - _MOST_SPECIALS
    return len(text) <= room and (4 * len(text) <= room or len(text.encode("utf-8", "replace")) <= room)


def estimate_tokens(text: str) -> int:
    """Return about how many tokens ``text`` has, for packing: four ASCII letters or one other a token."""
    size = len(text.encode("utf-8", "replace"))
    foreign = (size - len(text) + 1) // 2
    return 2 + (len(text) - min(foreign, len(text))) // 4 + foreign


@dataclass(eq=False)
class TokenCounter:
    """Counts tokens over HTTP and remembers the counts, by digest, for the latest ``remember`` texts.

    ``observe`` is told the seconds that each request took.
    """

    calls: Dispatcher
    plan: Plan
    observe: Callable[[float], None] = lambda _: None
    remember: int = 65536

    def __post_init__(self) -> None:
        self._rules = family_rules(self.plan.family)
        self._extra = special_tokens(self.plan)
        self._known: OrderedDict[bytes, int] = OrderedDict()

    async def count(self, text: str, caller: Caller) -> int:
        """Return the tokens of ``text``, special tokens included.

        Raises:
            NotReadyError: no engine became ready in time, or the call's time is over.
            EngineError: the engine gave no token list.
        """
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        known = self._known.get(digest)
        if known is not None:
            self._known.move_to_end(digest)
            return known
        began = time.monotonic()
        reply = await self.calls.ask(self._rules.tokenize(text), caller, priority=Priority.CONTROL)
        self.observe(time.monotonic() - began)
        tokens = self._rules.count_tokens(reply) + self._extra
        self._known[digest] = tokens
        if len(self._known) > self.remember:
            self._known.popitem(last=False)
        return tokens
