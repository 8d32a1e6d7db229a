"""Remote engines in plans. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llamafile_mgr.addresses import RemoteConfig
from llamafile_mgr.errors import PlanError
from llamafile_mgr.planner.plans import Plan, Reason

#: Settings of the engine itself that mean nothing where none is started.
_LOCAL = frozenset({"threads", "replicas", "memory", "gpu", "prompt_cache"})


def add_remotes(plan: Plan, remotes: Sequence[RemoteConfig]) -> Plan:
    """Return the plan with these beside its own engines."""
    reasons = tuple(Reason("remote", remote.url, _explain(remote)) for remote in remotes)
    return replace(plan, remotes=tuple(remotes), reasons=(*plan.reasons, *reasons))


def only_remotes(plan: Plan, remotes: Sequence[RemoteConfig]) -> Plan:
    """Return the plan with these in the place of its own engines."""
    kept = tuple(reason for reason in plan.reasons if reason.setting not in _LOCAL)
    none = Reason("replicas", "0", "set in the configuration: remotes serve this model")
    plan = replace(plan, replicas=0, memory=None, device="remotes", warnings=(), reasons=(*kept, none))
    return add_remotes(plan, remotes)


def without_remotes(plan: Plan) -> Plan:
    """Return the plan with its own engines alone.

    Raises:
        PlanError: it has none.
    """
    if plan.replicas == 0:
        raise PlanError(
            f"no engine of {plan.name} is planned here",
            cause="it has replicas = 0, and remotes take no part in what measures or repeats to the last bit",
            hint="take replicas = 0 out of its settings",
        )
    return replace(plan, remotes=())


def describe_remote(remote: RemoteConfig) -> dict[str, object]:
    """Return what may be shown of a remote; no key is in it."""
    return {
        "url": remote.url,
        "key": remote.key_source,
        "ca_file": remote.ca_file,
        "model": remote.model,
        "plain": not remote.secure,
    }


def _explain(remote: RemoteConfig) -> str:
    """Return what is checked and how it is reached, in words."""
    how = "over TLS" if remote.secure else "in clear, private addresses only"
    if remote.allow_plain_http and not remote.secure:
        how = "in clear, as allow_plain_http says"
    key = f"with the key of {remote.key_source}" if remote.key_source else "without a key"
    return f"set in the configuration; {how}, {key}; takes calls once its answers are right"
