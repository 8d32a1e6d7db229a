"""What a pull tells its caller while it runs. Values; how they look is the caller's choice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Resolved:
    """The file was found. ``have``: bytes that an earlier attempt left. ``trust``: of the digest."""

    name: str
    url: str
    size: int | None
    sha256: str | None
    trust: str
    have: int


@dataclass(frozen=True, slots=True)
class Advanced:
    """``done`` bytes of ``size`` are on this disk; ``done`` never falls within one pull."""

    name: str
    done: int
    size: int | None
    connections: int


@dataclass(frozen=True, slots=True)
class Following:
    """Another process fetches the same file; this is its progress."""

    name: str
    done: int
    size: int | None


@dataclass(frozen=True, slots=True)
class Retrying:
    """A request failed and is made again in ``seconds``."""

    name: str
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Checking:
    """All bytes are here; the digest is compared."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Converting:
    """The verified file is turned into a GGUF."""

    name: str
    conversion: str


@dataclass(frozen=True, slots=True)
class Noticed:
    """Something that the user should know, in one sentence."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Present:
    """Nothing had to be fetched."""

    name: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Published:
    """The verified file is in the store. ``transferred``: bytes that came over the network."""

    name: str
    digest: str
    size: int
    trust: str
    path: str
    transferred: int


Event = Resolved | Advanced | Following | Retrying | Checking | Converting | Noticed | Present | Published
Progress = Callable[[Event], None]


def event_json(event: Event) -> dict[str, object]:
    """Return an event as plain JSON values; ``event`` is its kind in lower case."""
    return {"event": type(event).__name__.lower(), **asdict(event)}
