"""Does a remote serve the model of this pool? Its vectors must be of our vector space, and it must take what
our engines take: a text that fits here must not be refused there."""

from __future__ import annotations

from llamafile_mgr.catalog import Role
from llamafile_mgr.embedding.readiness import Baselines, make_checks
from llamafile_mgr.embedding.space import fingerprint_space
from llamafile_mgr.engines.family import EngineFamily
from llamafile_mgr.engines.remote_client import PeerFacts
from llamafile_mgr.engines.transport import EngineClient
from llamafile_mgr.errors import EngineError, EngineLostError, EngineStartError
from llamafile_mgr.planner.plans import Plan

#: Special tokens and the space before a text that any tokenizer may add.
_SPARE_TOKENS = 4
#: The longest text that is sent as a trial; one of 4,096 tokens takes a large model seconds.
_LONGEST_TRIAL = 2048
_TRIAL_SECONDS = 120.0


def check_peer(plan: Plan, facts: PeerFacts) -> None:
    """Compare what another proxy tells with what we need.

    Raises:
        EngineStartError: another vector space, a shorter limit, or a proxy that passes calls on.
    """
    if facts.remotes:
        raise EngineStartError(
            "it passes calls on to remotes of its own",
            cause="calls could go in circles",
            hint="name those remotes here instead",
        )
    space = fingerprint_space(plan) if plan.role is Role.EMBED else None
    if space is not None and facts.vector_space != space:
        raise EngineStartError(
            f"its vector space is {facts.vector_space}, not {space} as here",
            cause="its weights, pooling, prompts or engine generation are others",
            hint=f"serve the same file of {plan.name} there, and the same version of llamafile-mgr",
        )
    if plan.max_tokens is not None and facts.max_tokens is not None and facts.max_tokens < plan.max_tokens:
        raise EngineStartError(
            f"it takes texts of {facts.max_tokens} tokens, and {plan.max_tokens} are taken here",
            hint="set context there to what it is here",
        )


class RemoteChecks:
    """What a remote must pass before it takes calls: its facts agree, it shows what a local engine of the
    role does, and it takes a text as long as any that will come. ``facts``: what a proxy of ours tells."""

    def __init__(self, plan: Plan, baselines: Baselines, facts: PeerFacts | None) -> None:
        self._plan = plan
        self._facts = facts
        self._checks = make_checks(plan, baselines, records=False)

    async def check_ready(self, client: EngineClient, rules: EngineFamily) -> None:
        """Compare facts, then ask. Raises EngineError."""
        if self._facts is not None:
            check_peer(self._plan, self._facts)
        await self._checks.check_ready(client, rules)
        if self._plan.role is Role.EMBED:
            await self._try_long_text(client, rules)

    async def check_alive(self, client: EngineClient, rules: EngineFamily) -> None:
        """Ask for something small. Raises EngineError."""
        await self._checks.check_alive(client, rules)

    async def _try_long_text(self, client: EngineClient, rules: EngineFamily) -> None:
        longest = self._plan.max_tokens or self._plan.settings.context
        words = min(longest, _LONGEST_TRIAL) - _SPARE_TOKENS
        request = rules.embed([" ".join(["a"] * max(1, words))])
        reply = await client.request(request, deadline_seconds=_TRIAL_SECONDS)
        try:
            rules.read_vectors(reply, 1)
        except EngineLostError:
            raise
        except EngineError as error:
            raise EngineStartError(
                f"it does not take a text of {words} words, as engines here do",
                cause=error.message,
                hint=f"start it with a context and a batch (-c, -b, -ub) of {longest}",
            ) from error
