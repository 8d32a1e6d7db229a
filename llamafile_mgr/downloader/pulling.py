"""From a name to a verified file in the store: the one way in for everything that is fetched."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import httpx

from llamafile_mgr.catalog import ArtifactKind
from llamafile_mgr.config import DownloadConfig
from llamafile_mgr.downloader.client import HubAccess, make_client
from llamafile_mgr.downloader.hub_sources import Hub, PullTarget, parse_source
from llamafile_mgr.downloader.huggingface import cached_file, hub_is_offline
from llamafile_mgr.downloader.promises import check_promises, check_space, prepare_part
from llamafile_mgr.downloader.pull_events import (
    Advanced,
    Checking,
    Converting,
    Following,
    Noticed,
    Present,
    Progress,
    Published,
    Resolved,
    Retrying,
)
from llamafile_mgr.downloader.resolving import Resolution, Resolver
from llamafile_mgr.downloader.transfer import Transfer
from llamafile_mgr.errors import IntegrityError, NotFoundError, OfflineError
from llamafile_mgr.files import clone_or_copy, store_errors, temporary_name
from llamafile_mgr.store import (
    BlockHashes,
    NameRecord,
    Part,
    PartInfo,
    Range,
    Store,
    StoredArtifact,
    Trust,
    part_key,
    peek,
)
from llamafile_mgr.store.block_hashes import hash_file
from llamafile_mgr.store.kinds import kind_of_file
from llamafile_mgr.store.parts import remove_part
from llamafile_mgr.tasks import run_to_end
from llamafile_mgr.web_access import check_token


@dataclass(frozen=True, slots=True)
class PullOptions:
    """``update``: ask the hub even when the name is here. ``restart``: drop what an earlier attempt
    left. ``revision``, where a lock file promises one: the hub must be at this commit. ``damage``:
    the file is here, put aside, and only these ranges of it are bad. ``trust``: what to record in
    place of what the target's digest amounts to."""

    update: bool = False
    restart: bool = False
    revision: str | None = None
    damage: tuple[Range, ...] | None = None
    trust: Trust | None = None


async def pull(
    target: PullTarget,
    store: Store,
    config: DownloadConfig,
    progress: Progress,
    *,
    options: PullOptions | None = None,
    environ: Mapping[str, str] | None = None,
) -> StoredArtifact:
    """Fetch ``target``, check it, and return it from the store; nothing is fetched twice.

    Cancelling keeps what has arrived. ``environ`` replaces the process environment.

    Raises:
        NotFoundError, DownloadError, OfflineError: it cannot be had.
        IntegrityError: what the hub has, or sent, is not what was promised.
        DiskFullError, StoreError: it cannot be kept.
        InvalidFileError: a file of unknown kind is no llamafile and no GGUF.
    """
    env = os.environ if environ is None else environ
    job = _Pull(target, store, effective(config, env), progress, options or PullOptions(), env)
    return await job.run()


def effective(config: DownloadConfig, environ: Mapping[str, str]) -> DownloadConfig:
    """Return the settings with the variables of Hugging Face's tools, where ours say nothing."""
    endpoint = environ.get("HF_ENDPOINT")
    if endpoint and config.hf_endpoint == DownloadConfig().hf_endpoint:
        config = replace(config, hf_endpoint=endpoint)
    return config


@dataclass(eq=False)
class _Pull:
    """One run of ``pull``; the methods are its steps, in order."""

    _target: PullTarget
    _store: Store
    _config: DownloadConfig
    _progress: Progress
    _options: PullOptions
    _environ: Mapping[str, str]
    _best: int = 0

    def __post_init__(self) -> None:
        config, environ = self._config, self._environ
        self._source = parse_source(self._target.source, config)
        self._access = HubAccess(
            config.hf_endpoint, check_token(environ.get("HF_TOKEN", ""), "HF_TOKEN") or None
        )
        self._started_at = datetime.now(UTC)
        self._offline = config.offline or (self._source.hub is Hub.HUGGING_FACE and hub_is_offline(environ))

    async def run(self) -> StoredArtifact:
        here = await run_to_end(self._find_here)
        if here is not None:
            self._progress(Present(self._target.name, here.digest, here.size))
            return here
        self._store.prepare()
        if self._store.locks.notice:
            self._notice(self._store.locks.notice)
        made = await run_to_end(self._make_here)
        if made is not None:
            return made
        cached = await run_to_end(self._take_cached, self._target.sha256)
        if cached is not None:
            return cached
        if self._offline:
            raise OfflineError(
                f"{self._target.name} is not in the store and fetching is switched off",
                cause="offline, by setting or HF_HUB_OFFLINE",
                hint=f"go online and run: llamafile-mgr pull {self._target.name}",
            )
        async with make_client(self._config) as client:
            resolver = Resolver(client, self._config, self._access, self._retrying)
            resolution = await resolver.resolve(self._source, self._target)
            self._check_revision(resolution)
            return await self._obtain(client, resolver, resolution)

    # --- what is here already --------------------------------------------------------------------

    def _find_here(self) -> StoredArtifact | None:
        """Return the file when it is here, under this name or another."""
        target = self._target
        if not self._options.update:
            with contextlib.suppress(NotFoundError, IntegrityError):
                entry = self._store.find(target.name)
                if target.is_met_by(entry) and self._options.revision in (None, entry.revision):
                    return entry
        if target.sha256 is None:
            return None
        return self._adopt(target.sha256, None)

    def _adopt(self, digest: str, resolution: Resolution | None) -> StoredArtifact | None:
        """Let our name point at a blob that is here under another one."""
        entry = self._store.by_digest(digest, self._target.conversion)
        if entry is None:
            return None
        record = self._record(entry.digest, entry.size, entry.kind, resolution)
        record = replace(
            record,
            trust=entry.trust if resolution is None and not self._target.sha256 else record.trust,
            source_digest=entry.source_digest,
            source_size=entry.source_size,
            verified_at=entry.verified_at,
        )
        return self._store.name(record)

    def _make_here(self) -> StoredArtifact | None:
        """Make the file of another that is here and was converted of the same source, without fetching it."""
        from llamafile_mgr.llamafile.conversion import made_of

        target = self._target
        before = made_of(target.conversion) if target.conversion is not None else None
        if before is None or target.sha256 is None or self._options.update:
            return None
        other = self._store.by_digest(target.sha256, before)
        if other is None or other.source_digest is None or other.source_size is None:
            return None
        with contextlib.ExitStack() as stack:
            try:
                path = stack.enter_context(self._store.hold(other.digest, "pull"))
            except NotFoundError:
                return None  # it was removed this moment
            self._notice(f"made of {other.name}, which is here")
            entry = self._convert(path, other.source_digest, other.source_size, None)
        self._published(entry, 0)
        return entry

    def _take_cached(self, digest: str | None, resolution: Resolution | None = None) -> StoredArtifact | None:
        """Take the file from the Hugging Face cache when its bytes are the right ones."""
        if self._target.conversion is not None or (
            digest is None and resolution is None and not self._offline
        ):
            return None
        found = cached_file(self._source, digest, self._environ)
        if found is None:
            return None
        path, claimed = found
        temporary = temporary_name(self._store.layout.temporary)
        try:
            with store_errors(temporary):
                how = clone_or_copy(path, temporary)
            hashes = hash_file(temporary)
            if hashes.sha256 != claimed:
                self._notice(f"{path} in the Hugging Face cache is damaged; it is not used")
                return None
            kind = self._target.kind or kind_of_file(temporary, self._target.name)
            record = self._record(hashes.sha256, hashes.size, kind, resolution)
            if self._target.sha256 is None and resolution is None:
                record = replace(record, trust=Trust.HUB)
            self._notice(f"taken from the Hugging Face cache ({how})")
            entry = self._store.publish(temporary, hashes, record)
            self._published(entry, 0)
            return entry
        finally:
            temporary.unlink(missing_ok=True)

    def _check_revision(self, resolution: Resolution) -> None:
        wanted = self._options.revision
        if wanted is not None and resolution.revision != wanted:
            raise IntegrityError(
                f"{self._target.name} is locked to revision {wanted}, the hub is at {resolution.revision}",
                hint="lock it anew with llamafile-mgr pull --lock if you want what the hub has now",
            )

    # --- fetching --------------------------------------------------------------------------------

    async def _obtain(
        self, client: httpx.AsyncClient, resolver: Resolver, resolution: Resolution
    ) -> StoredArtifact:
        target = self._target
        if resolution.sha256 is not None:
            here = self._adopt(resolution.sha256, resolution)
            if here is not None:
                self._progress(Present(target.name, here.digest, here.size))
                return here
            here = await run_to_end(self._take_cached, resolution.sha256, resolution)
            if here is not None:
                return here
        info = PartInfo(target.name, target.source, resolution.size, resolution.sha256, resolution.validator)
        key = part_key(info)
        waited = False

        def follow(_: float) -> None:
            nonlocal waited
            if not waited:
                self._notice("another process fetches this file; waiting for it")
            waited = True
            seen = peek(self._store.layout.part(key))
            if seen is not None:
                self._progress(Following(target.name, seen[1], seen[0].size))

        async with self._store.locks.held_by_task(self._store.layout.lock(key), follow):
            if waited and (here := self._fetched_by_another(resolution)) is not None:
                self._progress(Present(target.name, here.digest, here.size))
                return here
            return await self._fetch(client, resolver, resolution, info, key)

    def _fetched_by_another(self, resolution: Resolution) -> StoredArtifact | None:
        if resolution.sha256 is not None:
            return self._adopt(resolution.sha256, resolution)
        for entry in self._store.entries():
            fresh = entry.verified_at >= self._started_at.replace(microsecond=0)
            if fresh and entry.source == self._target.source and not entry.damaged:
                return self._adopt(entry.digest, resolution)
        return None

    async def _fetch(
        self,
        client: httpx.AsyncClient,
        resolver: Resolver,
        resolution: Resolution,
        info: PartInfo,
        key: str,
    ) -> StoredArtifact:
        target = self._target
        if self._options.damage is not None and resolution.sha256 is not None:
            self._store.salvage(resolution.sha256, replace(info, validator=None), self._options.damage)
        part = Part(self._store.layout.part(key), info)
        try:
            prepare_part(part, info, restart=self._options.restart)
            self._progress(
                Resolved(
                    target.name,
                    resolution.source_url,
                    resolution.size,
                    resolution.sha256,
                    resolution.trust.value,
                    part.have,
                )
            )
            check_space(part, resolution.size, self._store.root)
            transfer = Transfer(
                client,
                self._config,
                self._access,
                resolution,
                part,
                resolve_again=lambda: resolver.resolve(self._source, target),
                advanced=lambda done, jobs: self._advanced(done, resolution.size, jobs),
                retrying=self._retrying,
                noticed=self._notice,
            )
            hashes = await transfer.run()
            self._progress(Checking(target.name, hashes.size))
            check_promises(part, hashes, transfer.resolution)
        finally:
            part.close()
            if not part.have and resolution.size != 0:
                remove_part(part.directory)
        entry = await run_to_end(self._publish, part, hashes, resolution)
        remove_part(part.directory)
        self._published(entry, transfer.transferred)
        return entry

    # --- publishing ------------------------------------------------------------------------------

    def _publish(self, part: Part, hashes: BlockHashes, resolution: Resolution) -> StoredArtifact:
        if self._target.conversion is not None:
            return self._convert(part.data, hashes.sha256, hashes.size, resolution)
        kind = self._target.kind or kind_of_file(part.data, self._target.name)
        return self._store.publish(
            part.data, hashes, self._record(hashes.sha256, hashes.size, kind, resolution)
        )

    def _convert(
        self, file: Path, source_digest: str, source_size: int, resolution: Resolution | None
    ) -> StoredArtifact:
        """Publish the GGUF that is made of a verified file, which arrived, or was made of what arrived.

        Raises:
            IntegrityError: it is not the one that the catalog pins.
        """
        from llamafile_mgr.llamafile.conversion import convert
        from llamafile_mgr.llamafile.requantising import describe_tools

        target = self._target
        conversion = target.conversion or ""
        self._progress(Converting(target.name, conversion))
        temporary = temporary_name(self._store.layout.temporary)
        try:
            convert(conversion, file, temporary)
            made = hash_file(temporary)
            if target.converted_sha256 not in (None, made.sha256):
                raise IntegrityError(
                    f"what was made of {target.source} is not the file that the catalog pins",
                    cause=f"it is {made.sha256}, the pin is {target.converted_sha256}; {describe_tools()}",
                    hint="install the versions that llamafile-mgr is tested with: pip install 'gguf<0.20'",
                )
            record = replace(
                self._record(made.sha256, made.size, ArtifactKind.WEIGHTS, resolution),
                source_digest=source_digest,
                source_size=source_size,
            )
            return self._store.publish(temporary, made, record)
        finally:
            temporary.unlink(missing_ok=True)

    def _record(
        self, digest: str, size: int, kind: ArtifactKind, resolution: Resolution | None
    ) -> NameRecord:
        target = self._target
        trust = resolution.trust if resolution else Trust.PINNED
        return NameRecord(
            name=target.name,
            digest=digest,
            size=size,
            kind=kind,
            trust=self._options.trust or trust,
            source=target.source,
            verified_at=datetime.now(UTC).replace(microsecond=0),
            url=resolution.source_url if resolution else None,
            revision=resolution.revision if resolution else None,
            model_id=target.model_id,
            artifact=target.artifact,
            role=target.role,
            licence=target.licence,
            engine_version=target.engine_version,
            conversion=target.conversion,
        )

    # --- telling ---------------------------------------------------------------------------------

    def _advanced(self, done: int, size: int | None, connections: int) -> None:
        self._best = max(self._best, done)
        self._progress(Advanced(self._target.name, self._best, size, connections))

    def _retrying(self, reason: str, seconds: float) -> None:
        self._progress(Retrying(self._target.name, reason, seconds))

    def _notice(self, text: str) -> None:
        self._progress(Noticed(self._target.name, text))

    def _published(self, entry: StoredArtifact, transferred: int) -> None:
        self._progress(
            Published(
                self._target.name, entry.digest, entry.size, entry.trust.value, str(entry.path), transferred
            )
        )
