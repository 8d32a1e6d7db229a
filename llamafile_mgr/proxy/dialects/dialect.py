"""What a dialect is: one client API with its routes, how it reads and writes bodies, and its errors.

A new one is an object of its own file and a line of ``dialect_table``; nothing else names it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

from llamafile_mgr.embedding.requests import EmbedRequest, EmbedResult
from llamafile_mgr.errors import Error
from llamafile_mgr.proxy.api_errors import ERROR_SCHEMA, render_error
from llamafile_mgr.proxy.dialects.schemas import OBJECT, Schema
from llamafile_mgr.proxy.http import Reply, Request, StreamReply

if TYPE_CHECKING:
    from llamafile_mgr.proxy.front import Front


@dataclass(frozen=True, slots=True)
class EmbedCall:
    """A parsed call. ``render`` takes the result, the model's name and the seconds that the call took."""

    request: EmbedRequest
    render: Callable[[EmbedResult, str, float], object]


@dataclass(frozen=True, slots=True)
class RerankCall:
    """A parsed call. ``with_documents``: the answer holds them. ``raw``: scores stay as the model gave them.

    ``render`` takes the call, the best documents' indices and scores, the model's name and the request's id.
    """

    query: str
    documents: tuple[str, ...]
    top: int
    with_documents: bool
    raw: bool
    render: RerankRenderer


@dataclass(frozen=True, slots=True)
class TokenizeCall:
    """A parsed call. ``special``: with the tokens that mark begin and end; ``pieces``: with tokens' texts.

    ``marked``: each token shall have its text, and say whether it is one of those marks. ``render`` takes the
    tokens of each text.
    """

    texts: tuple[str, ...]
    special: bool
    pieces: bool
    marked: bool
    render: Callable[[list[list[Any]]], object]


_Call = TypeVar("_Call", covariant=True)


@dataclass(frozen=True, slots=True)
class Form(Generic[_Call]):
    """How a dialect writes one kind of call. ``parse`` raises RequestError.

    ``claims``: the body can only be of this form, whichever shared route it came to; None where only the
    dialect's own routes read it.
    """

    parse: Callable[[Request, dict[str, Any]], _Call]
    schema: Schema
    claims: Callable[[Request, Mapping[str, Any]], bool] | None = None


RerankRenderer: TypeAlias = "Callable[[RerankCall, Sequence[tuple[int, float]], str, str], object]"
Answer: TypeAlias = "Callable[[Front, Request], Awaitable[Reply | StreamReply]]"
#: The calls that share routes; each is a field of ``Dialect``.
SharedCall = Literal["embed", "rerank", "tokenize"]


@dataclass(frozen=True, slots=True)
class Route:
    """One path and method; a path's last part may be ``{name}``. ``schema``: of a body in the own form.

    ``public``: no key is needed. ``admin``: only the administrator's key opens it. ``shared``: bodies in
    other dialects' forms of this call are answered too. ``conditional``: it heeds If-Vector-Space.
    ``hold_seconds``: silence while a model loads.
    """

    method: str
    path: str
    answer: Answer
    schema: Schema = field(default_factory=lambda: OBJECT)
    public: bool = False
    admin: bool = False
    hold_seconds: float = 10.0
    shared: SharedCall | None = None
    conditional: bool = False


@dataclass(frozen=True, slots=True)
class Dialect:
    """A client API. Its own routes answer errors as ``render_error`` gives them; ``banner``: what programs
    that look for this API expect at ``/``.

    ``embed``, ``rerank``, ``tokenize``: its forms of the calls that share routes with other dialects.
    """

    name: str
    routes: Sequence[Route]
    render_error: Callable[[Error], dict[str, Any]] = render_error
    error_schema: Schema = field(default_factory=lambda: ERROR_SCHEMA)
    banner: str = ""
    embed: Form[EmbedCall] | None = None
    rerank: Form[RerankCall] | None = None
    tokenize: Form[TokenizeCall] | None = None


def find_form(
    own: Form[_Call],
    call: SharedCall,
    dialects: Iterable[Dialect],
    request: Request,
    body: Mapping[str, Any],
) -> Form[_Call]:
    """Return the form of a body on a shared route: the first that claims it, else the route's ``own``.

    Recorded: langroid posts ``content`` to ``/embeddings``, OpenAI's clients without ``/v1`` post ``input``
    there, and Emacs posts ``input`` to ``/embedding``; each wants the shape of its key.
    """
    offered: Iterable[Form[_Call] | None] = (getattr(dialect, call) for dialect in dialects)
    return next((form for form in offered if form and form.claims and form.claims(request, body)), own)
