"""Which pool a call goes to: by its role and the model it names. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llamafile_mgr.catalog import Role
from llamafile_mgr.embedding.requests import InputType
from llamafile_mgr.errors import ConfigError, RequestError
from llamafile_mgr.proxy.api_errors import UnknownModelError
from llamafile_mgr.supervisor.pool import Pool

#: Names the model that answered, and one that was asked for but is not served.
MODEL_HEADER, SUBSTITUTED_HEADER = "x-model", "x-model-substituted-for"

_VERBS = {Role.EMBED: "embed", Role.GENERATE: "generate text", Role.RERANK: "rerank"}
#: Names that clients send when their user named none: llamafile's documents, llm, Emacs, OpenAPI tools.
_PLACEHOLDERS = frozenset({"", "default", "unset", "none", "llama_cpp", "llamafile", "string"})
#: The tag that some programs append to a model's name by themselves.
_TAG = ":latest"
_SUFFIXES = {":query": InputType.QUERY, ":document": InputType.DOCUMENT}


@dataclass(frozen=True, slots=True)
class RoutedCall:
    """The pool that answers. ``substituted_for``: the unknown name that was asked for, if it was.

    ``input_type``: what a suffix of the name says the texts are.
    """

    pool: Pool
    substituted_for: str | None = None
    input_type: InputType | None = None

    def headers(self) -> dict[str, str]:
        """Return the headers that name the model, and say so when another was asked for."""
        headers = {MODEL_HEADER: _header_text(self.pool.plan.name)}
        if self.substituted_for is not None:
            headers[SUBSTITUTED_HEADER] = _header_text(self.substituted_for)
        return headers


@dataclass(frozen=True, slots=True)
class Router:
    """``aliases``: further name -> served name. ``strict``: a name that is not served is refused."""

    pools: Sequence[Pool]
    aliases: Mapping[str, str] = field(default_factory=dict)
    strict: bool = False

    def __post_init__(self) -> None:
        taken = {pool.plan.name for pool in self.pools} & set(self.aliases)
        if taken:
            raise ConfigError(f"{min(taken)!r} is an alias of one model and the name of another")

    def choose(self, role: Role, name: object) -> RoutedCall:
        """Return the pool of ``role`` that ``name`` means; None and placeholders mean the first.

        With one model of the role any name reaches it, unless the router is strict.

        Raises:
            RequestError: the name is no text, the model has another role, or no model of the role is served.
            UnknownModelError: several models of the role are served, and none has this name.
        """
        if name is not None and not isinstance(name, str):
            raise RequestError("'model' must be a text")
        asked, kind = _split_suffix((name or "").removesuffix(_TAG))
        named = self.find(asked)
        if named is not None:
            if named.plan.role is not role:
                raise RequestError(
                    f"{named.plan.name} cannot {_VERBS[role]}: it is a model to {_VERBS[named.plan.role]}",
                    hint=self._advice(role),
                )
            return RoutedCall(named, input_type=kind)
        candidates = [pool for pool in self.pools if pool.plan.role is role]
        if not candidates:
            raise RequestError(f"no model to {_VERBS[role]} is being served", hint=self._advice(role))
        if asked.lower() in _PLACEHOLDERS:
            return RoutedCall(candidates[0], input_type=kind)
        if self.strict or len(candidates) > 1:
            raise UnknownModelError(f"no model {asked[:200]!r} is served", hint=self._advice(role))
        return RoutedCall(candidates[0], substituted_for=name, input_type=kind)

    def find(self, name: str) -> Pool | None:
        """Return the pool of this name or alias, None when there is none."""
        name = name.removesuffix(_TAG)
        wanted = self.aliases.get(name, name)
        return next((pool for pool in self.pools if pool.plan.name == wanted), None)

    def _advice(self, role: Role) -> str:
        served = [pool.plan.name for pool in self.pools if pool.plan.role is role]
        if served:
            return f"ask for {' or '.join(served)}"
        return (
            f"start one: llamafile-mgr serve --{role.value} MODEL (`llamafile-mgr list` shows what there is)"
        )


def _split_suffix(name: str) -> tuple[str, InputType | None]:
    for suffix, kind in _SUFFIXES.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix), kind
    return name, None


def _header_text(text: str) -> str:
    """Return ``text`` without what may not stand in a header, at most 200 characters."""
    if len(text) <= 200 and text.isascii() and text.isprintable():
        return text
    return "".join(c if 32 <= ord(c) < 127 else "?" for c in text[:200])
