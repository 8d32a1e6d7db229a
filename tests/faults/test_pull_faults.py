"""Every way in which a server can fail us: the file is byte-identical or absent, and why is said."""

from __future__ import annotations

import gzip
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from llamafile_mgr.catalog import ArtifactKind
from llamafile_mgr.config import DownloadConfig
from llamafile_mgr.downloader import PullOptions, PullTarget, pull
from llamafile_mgr.downloader.pull_events import Advanced, Event
from llamafile_mgr.errors import (
    DownloadError,
    Error,
    IntegrityError,
    InvalidFileError,
    NotFoundError,
)
from llamafile_mgr.store import Store
from tests.faults.hub import Fault, Hub, Reply, Request, content, running_hub

MIB = 1024 * 1024
BIG = 10 * MIB + 77  # three ranges
DATA = content(BIG)
OTHER = content(BIG, seed=2)
Change = Callable[[Reply, int], Reply]


def data_requests(change: Change, *, times: int | None = None, skip: int = 0, role: str = "cdn") -> Fault:
    """Return a fault that changes the answers to requests for bytes, some or all of them."""
    seen = 0

    def fault(request: Request, reply: Reply) -> Reply:
        nonlocal seen
        if request.role != role or request.probe:
            return reply
        seen += 1
        number = seen - 1 - skip
        if number < 0 or (times is not None and number >= times):
            return reply
        return change(reply, number)

    return fault


def probes(change: Change, *, times: int | None = None, role: str = "hub") -> Fault:
    """Return a fault that changes the answers to the first question about a file."""
    seen = 0

    def fault(request: Request, reply: Reply) -> Reply:
        nonlocal seen
        if request.role != role or not request.probe:
            return reply
        seen += 1
        return reply if times is not None and seen > times else change(reply, seen - 1)

    return fault


def status(code: int, **headers: str) -> Change:
    """Answer with a status and nothing else."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda reply, number: Reply(code, named, b"no")


def header(name: str, value: str | None) -> Change:
    """Set a header, or leave it out."""

    def change(reply: Reply, number: int) -> Reply:
        headers = {key: text for key, text in reply.headers.items() if key != name}
        return replace(reply, headers=headers if value is None else {**headers, name: value})

    return change


def cut(after: int, *, reset: bool = False) -> Change:
    """Close the connection in the middle of the body."""
    return lambda reply, number: replace(reply, cut_after=after, reset=reset)


def stall(after: int) -> Change:
    """Fall silent in the middle of the body."""
    return lambda reply, number: replace(reply, stall_after=after)


def drip(rate: int) -> Change:
    """Send so many bytes a second."""
    return lambda reply, number: replace(reply, rate=rate)


def flip(reply: Reply, number: int) -> Reply:
    """Change one bit in the middle."""
    body = bytearray(reply.body)
    body[len(body) // 2] ^= 1
    return replace(reply, body=bytes(body))


def gzipped(reply: Reply, number: int) -> Reply:
    """Compress although asked not to."""
    headers = {key: text for key, text in reply.headers.items() if key != "Content-Length"}
    return Reply(reply.status, {**headers, "Content-Encoding": "gzip"}, gzip.compress(reply.body[:4096], 1))


def whole_instead(reply: Reply, number: int) -> Reply:
    """Ignore the range."""
    return Reply(200, {"ETag": f'"v1-{BIG}"'}, DATA)


def longer(reply: Reply, number: int) -> Reply:
    """Send more than the range, in chunks."""
    return replace(reply, body=reply.body + b"surplus" * 1000, chunked=True)


def shorter(reply: Reply, number: int) -> Reply:
    """Send less than the range, with a proper end."""
    return replace(reply, body=reply.body[: len(reply.body) // 2], chunked=True)


def announced_longer(reply: Reply, number: int) -> Reply:
    """Announce and send more than the range."""
    return replace(reply, body=reply.body + b"surplus")


def capped(reply: Reply, number: int) -> Reply:
    """Send a smaller range than asked for, and say so."""
    body = reply.body[: 700 * 1024]
    span, _, total = reply.headers["Content-Range"].removeprefix("bytes ").partition("/")
    start = int(span.partition("-")[0])
    headers = {**reply.headers, "Content-Range": f"bytes {start}-{start + len(body) - 1}/{total}"}
    return replace(reply, headers=headers, body=body)


def chained(*faults: Fault) -> Fault:
    """Apply several faults."""

    def fault(request: Request, reply: Reply) -> Reply:
        for one in faults:
            reply = one(request, reply)
        return reply

    return fault


@dataclass(frozen=True)
class Case:
    """One row: what goes wrong and how it must end. ``source`` is of the hub (with a digest) or plain.

    ``error``: what is raised, None when the file must arrive. ``says``: a word of the error.
    ``restart``: the next pull needs to be told to start over.
    """

    name: str
    fault: Fault
    error: type[Error] | None = None
    says: str = ""
    plain: bool = False
    restart: bool = False
    setup: Callable[[Hub], None] = lambda hub: None
    pin: str | None = None
    pinned_size: int | None = None
    config: dict[str, object] = field(default_factory=dict)


def no_ranges(hub: Hub) -> None:
    hub.ranges = False


def no_digests(hub: Hub) -> None:
    hub.digests = False


ANY = data_requests
CASES = [
    # --- connections that break -------------------------------------------------------------------
    Case("drop after some bytes", ANY(cut(300_000), times=3)),
    Case("reset after some bytes", ANY(cut(300_000, reset=True), times=3)),
    Case("drop before the first byte", ANY(cut(0), times=3)),
    Case("drop after every 200 kB, for ever", ANY(cut(200_000))),
    Case("drop before the first byte, for ever", ANY(cut(0)), DownloadError, "broke off"),
    Case("stall in the middle", ANY(stall(300_000), times=2)),
    Case("stall before the first byte", ANY(stall(0), times=1)),
    Case("stall for ever", ANY(stall(0)), DownloadError, "silent"),
    Case("slow drip", ANY(drip(2_000), times=2), config={"minimum_speed": 20_000}),
    Case("slow drip, for ever", ANY(drip(2_000)), DownloadError, "slow", config={"minimum_speed": 20_000}),
    Case("connection closed after every answer", ANY(header("Connection", "close"))),
    Case("garbage instead of HTTP", ANY(header("Bad Name\r\n", "x"), times=2)),
    # --- answers that lie -------------------------------------------------------------------------
    Case("200 for a range", ANY(whole_instead)),
    Case("200 for a range, once", ANY(whole_instead, times=1, skip=1)),
    Case("no ranges at all", ANY(lambda reply, number: reply), setup=no_ranges),
    Case("no ranges, and drops", ANY(cut(3 * MIB), times=2), setup=no_ranges),
    Case(
        "no ranges, no version, no digest, and drops",
        chained(
            ANY(cut(3 * MIB), times=2, role="hub"),
            ANY(header("ETag", None), role="hub"),
            probes(header("ETag", None)),
        ),
        setup=no_ranges,
        plain=True,
    ),
    Case("Content-Range starts elsewhere", ANY(header("Content-Range", f"bytes 5-99/{BIG}"), times=2)),
    Case(
        "Content-Range starts elsewhere, for ever",
        ANY(header("Content-Range", f"bytes 5-99/{BIG}")),
        DownloadError,
        "instead of",
    ),
    Case("Content-Range of another size", ANY(header("Content-Range", "bytes 0-99/100"), times=2)),
    Case(
        "Content-Range of another size, for ever",
        ANY(header("Content-Range", "bytes 0-99/100")),
        DownloadError,
        "100 bytes",
    ),
    Case("Content-Range is nonsense", ANY(header("Content-Range", "bytes banana"), times=2)),
    Case("Content-Range is missing", ANY(header("Content-Range", None), times=2)),
    Case("a smaller range than asked for", ANY(capped)),
    Case("short body, correct header", ANY(header("Content-Length", "9999999"), times=2)),
    Case("short body with a proper end", ANY(shorter, times=2)),
    Case("long body", ANY(longer)),
    Case("long body, announced", ANY(announced_longer, times=2)),
    Case("long body, announced, for ever", ANY(announced_longer), DownloadError, "announced"),
    Case("gzip, once", ANY(gzipped, times=1)),
    Case("gzip, for ever", ANY(gzipped), DownloadError, "gzip"),
    Case(
        "gzip from the first question on",
        probes(header("Content-Encoding", "gzip"), role="cdn"),
        DownloadError,
        "compressed",
    ),
    Case("chunks instead of a length", ANY(lambda reply, number: replace(reply, chunked=True))),
    Case(
        "no length, no digest: a cut could not be seen",
        chained(
            ANY(lambda reply, number: replace(reply, unframed=True), role="hub"),
            probes(lambda reply, number: replace(reply, unframed=True)),
        ),
        DownloadError,
        "how long",
        setup=no_ranges,
        plain=True,
    ),
    # --- files that change ------------------------------------------------------------------------
    Case(
        "another ETag midway, no digest",
        ANY(header("ETag", '"v2"'), skip=1, role="hub"),
        DownloadError,
        "v2",
        plain=True,
    ),
    Case(
        "another ETag midway, and a hub that stands by its digest",
        chained(ANY(header("ETag", '"mirror"'), skip=1), probes(header("ETag", '"mirror"'), role="cdn")),
    ),
    Case(
        "another ETag at every answer",
        ANY(lambda reply, n: header("ETag", f'"{n}"')(reply, n)),
        DownloadError,
        "version",
    ),
    Case("a corrupted byte", ANY(flip, times=1), IntegrityError, "wrong digest", restart=True),
    Case(
        "a corrupted byte in one stream",
        ANY(flip, times=1),
        IntegrityError,
        "wrong digest",
        restart=True,
        setup=no_ranges,
    ),
    Case(
        "the hub has another digest than the pin",
        ANY(lambda reply, number: reply),
        IntegrityError,
        "nothing was fetched",
        pin="0" * 64,
    ),
    Case(
        "the hub has another size than the pin",
        ANY(lambda reply, number: reply),
        IntegrityError,
        "nothing was fetched",
        pinned_size=BIG + 1,
    ),
    Case(
        "the CDN has another size than the hub",
        probes(header("X-Linked-Size", "17")),
        IntegrityError,
        "promises 17",
    ),
    # --- refusals ---------------------------------------------------------------------------------
    Case("the signed address expires", ANY(status(403), times=4, skip=1)),
    Case("the signed address is always expired", ANY(status(403)), DownloadError, "403"),
    Case("404 from the CDN, once", ANY(status(404), times=1)),
    Case("a redirect in the middle", ANY(status(302, Location="/elsewhere"), times=1)),
    Case("429 with Retry-After", ANY(status(429, Retry_After="0"), times=3)),
    Case("429 with a date", ANY(status(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"), times=2)),
    Case("429 with an hour to wait", ANY(status(429, Retry_After="3600")), DownloadError, "3600"),
    Case("503 with Retry-After", ANY(status(503, Retry_After="0"), times=3)),
    Case("a burst of 500", ANY(status(500), times=3)),
    Case("a burst of 502", ANY(status(502), times=3)),
    Case("a burst of 504", ANY(status(504), times=3)),
    Case("500 for ever", ANY(status(500)), DownloadError, "500"),
    Case("408", ANY(status(408), times=2)),
    Case("425", ANY(status(425), times=2)),
    Case("416, once", ANY(status(416), times=1)),
    Case("416, for ever", ANY(status(416)), DownloadError, "fewer bytes"),
    Case("410 from a plain server", ANY(status(410), role="hub"), DownloadError, "410", plain=True),
    # --- the first question -----------------------------------------------------------------------
    Case("the hub is busy at first", probes(status(503), times=3)),
    Case("the hub is down", probes(status(500)), DownloadError, "500"),
    Case("no such file", probes(status(404)), NotFoundError, "there is no"),
    Case("a gated file", probes(status(401)), DownloadError, "not open to everyone"),
    Case("a teapot", probes(status(418)), DownloadError, "418"),
    Case(
        "a redirect loop",
        probes(status(302, Location="/org/repo/resolve/main/model.llamafile")),
        DownloadError,
        "circles",
    ),
    Case(
        "a redirect to plain http",
        probes(status(302, Location="http://example.com/model")),
        DownloadError,
        "refused",
    ),
    Case(
        "a redirect to another scheme",
        probes(status(302, Location="file:///etc/passwd")),
        DownloadError,
        "refused",
    ),
    Case(
        "a redirect into a private network",
        probes(status(302, Location="https://10.0.0.1/model")),
        DownloadError,
        "refused",
    ),
    Case(
        "a redirect to the cloud's metadata",
        probes(status(302, Location="https://169.254.169.254/latest")),
        DownloadError,
        "refused",
    ),
    Case("a redirect to nowhere", probes(status(302)), DownloadError, "nowhere"),
    Case(
        "a redirect to a closed port",
        probes(status(302, Location="http://localhost:9/model")),
        DownloadError,
        "no connection",
    ),
    Case("a digest header that is none", probes(header("X-Linked-Etag", '"not-a-digest"'))),
    Case("a weak ETag", chained(ANY(header("ETag", 'W/"w"')), probes(header("ETag", 'W/"w"'), role="cdn"))),
]


def test_the_table_is_as_long_as_promised() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 40


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_fault(case: Case, tmp_path: Path) -> None:
    async with running_hub() as hub:
        hub.add("model.llamafile", DATA)
        case.setup(hub)
        hub.fault = case.fault
        config = replace(
            DownloadConfig(
                hf_endpoint=hub.url, retries=4, retry_seconds=0.01, stall_seconds=0.5, minimum_speed=1
            ),
            **case.config,  # type: ignore[arg-type]
        )
        source = f"{hub.url}/plain/model.llamafile" if case.plain else "hf:org/repo/model.llamafile"
        target = PullTarget("model", source, ArtifactKind.LLAMAFILE, sha256=case.pin, size=case.pinned_size)
        store = Store(tmp_path)
        events: list[Event] = []
        if case.error is None:
            await pull(target, store, config, events.append, environ={})
        else:
            with pytest.raises(case.error) as caught:
                await pull(target, store, config, events.append, environ={})
            assert case.says in caught.value.describe()
            assert_absent(store)
            # The trouble is over: the same command must now bring the file.
            hub.fault = lambda request, reply: reply
            target = replace(target, sha256=None, size=None)
            if case.restart:
                with pytest.raises(IntegrityError, match="earlier download"):
                    await pull(target, store, config, events.append, environ={})
            options = PullOptions(restart=case.restart)
            await pull(
                target, store, replace(config, minimum_speed=1), events.append, environ={}, options=options
            )
        assert store.find("model").path.read_bytes() == DATA
        assert stat.S_IMODE(store.find("model").path.stat().st_mode) == 0o500
        assert not list((store.root / "parts").iterdir())
        assert not list((store.root / "temporary").iterdir())
        if case.error is None:
            done = [event.done for event in events if isinstance(event, Advanced)]
            assert done == sorted(done)


def assert_absent(store: Store) -> None:
    """Assert that nothing is published, and that nothing on the disk can be executed."""
    with pytest.raises(NotFoundError):
        store.find("model")
    for path in store.root.rglob("*"):
        if path.is_file():
            assert not stat.S_IMODE(path.stat().st_mode) & 0o111, path
            assert not os.access(path, os.X_OK), path


async def test_a_web_page_is_not_taken_for_a_model(tmp_path: Path) -> None:
    async with running_hub() as hub:
        hub.add("model", b"<!DOCTYPE html><html>log in here</html>")
        config = DownloadConfig(retry_seconds=0.01)
        with pytest.raises(InvalidFileError, match="neither") as caught:
            await pull(
                PullTarget("model", f"{hub.url}/plain/model"), Store(tmp_path), config, print, environ={}
            )
        assert caught.value.cause == "it is a web page"
        assert_absent(Store(tmp_path))


async def test_a_token_never_leaves_its_hub(tmp_path: Path) -> None:
    async with running_hub() as hub:
        hub.add("model.llamafile", DATA)
        config = DownloadConfig(hf_endpoint=hub.url)
        target = PullTarget("model", "hf:org/repo/model.llamafile", ArtifactKind.LLAMAFILE)
        await pull(target, Store(tmp_path), config, print, environ={"HF_TOKEN": "secret"})
        by_role = {request.role: request.headers.get("authorization") for request in hub.requests}
        assert by_role == {"hub": "Bearer secret", "cdn": None}
