"""Which pool a call goes to: by its role and the model it names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llamafile_mgr.catalog import Role
from llamafile_mgr.errors import RequestError
from llamafile_mgr.supervisor.pool import Pool

__all__ = ["MODEL_HEADER", "choose_pool", "model_headers"]

#: Names the model that answered, and one that was asked for but is not served.
MODEL_HEADER, SUBSTITUTED_HEADER = "x-model", "x-model-substituted-for"

_VERBS = {Role.EMBED: "embed", Role.GENERATE: "generate text", Role.RERANK: "rerank"}


def choose_pool(pools: Sequence[Pool], role: Role, body: dict[str, Any]) -> Pool:
    """Return the pool of ``role``; the name in ``body["model"]`` may be missing or a placeholder.

    Raises:
        RequestError: no model of this role is served, or the named one has another role.
    """
    name = body.get("model")
    if name is not None and not isinstance(name, str):
        raise RequestError("'model' must be a text")
    named = next((pool for pool in pools if pool.plan.name == name), None)
    if named is not None and named.plan.role is not role:
        raise RequestError(
            f"{named.plan.name} cannot {_VERBS[role]}: it is a model to {_VERBS[named.plan.role]}",
            hint=_advice(pools, role),
        )
    chosen = named or next((pool for pool in pools if pool.plan.role is role), None)
    if chosen is None:
        raise RequestError(f"no model to {_VERBS[role]} is being served", hint=_advice(pools, role))
    return chosen


def _advice(pools: Sequence[Pool], role: Role) -> str:
    served = [pool.plan.name for pool in pools if pool.plan.role is role]
    if served:
        return f"ask for {' or '.join(served)}"
    return f"start one: llamafile-mgr serve --{role.value} MODEL (`llamafile-mgr list` shows what there is)"


def model_headers(pool: Pool, body: dict[str, Any]) -> dict[str, str]:
    """Return the headers that name the model which answers, and say so when another was asked for."""
    headers = {MODEL_HEADER: _header_text(pool.plan.name)}
    asked = body.get("model")
    if isinstance(asked, str) and asked and asked != pool.plan.name:
        headers[SUBSTITUTED_HEADER] = _header_text(asked)
    return headers


def _header_text(text: str) -> str:
    """Return ``text`` without what may not stand in a header, at most 200 characters."""
    return "".join(c if 32 <= ord(c) < 127 else "?" for c in text[:200])
