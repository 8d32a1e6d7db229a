"""Running pulls from a command: arguments, signals, and what to say when one ends the work early."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from llamafile_mgr.catalog import load_catalog
from llamafile_mgr.cli.interrupts import run_until_signal
from llamafile_mgr.cli.output import format_bytes, print_json, print_line, print_rows
from llamafile_mgr.cli.progress import Display
from llamafile_mgr.config import DownloadConfig, ModelConfig
from llamafile_mgr.downloader import Preview, PullOptions, PullTarget, preview, pull, repair, target_of
from llamafile_mgr.downloader.pull_events import Published
from llamafile_mgr.errors import NotFoundError, UsageError
from llamafile_mgr.launching.side_files import side_sources
from llamafile_mgr.store import Range, Store, StoredArtifact
from llamafile_mgr.store.importing import import_file
from llamafile_mgr.store.layout import check_digest, check_name
from llamafile_mgr.store.lockfile import LockedArtifact, locked, read_lock, write_lock

_T = TypeVar("_T")
Job = tuple[PullTarget | Path, PullOptions]


def targets_of(names: Sequence[str], as_name: str | None, sha256: str | None) -> list[PullTarget | Path]:
    """Return what the arguments of ``pull`` mean; a path is a file of this computer.

    Raises:
        UsageError: no name, or ``--name`` and ``--sha256`` with several.
        NotFoundError: a name that the catalog does not have.
    """
    if not names:
        from llamafile_mgr.cli.guidance import how_to_pull

        raise UsageError("pull what?", hint=how_to_pull())
    if len(names) > 1 and (as_name or sha256):
        raise UsageError("--name and --sha256 are for one file", hint="pull one file at a time with them")
    targets: list[PullTarget | Path] = []
    for name in names:
        if _is_path(name):
            if as_name or sha256:
                raise UsageError("--name and --sha256 of a file: use llamafile-mgr import")
            targets.append(Path(os.path.expanduser(name)))
            continue
        target = target_of(name, load_catalog(), name=as_name and check_name(as_name))
        if sha256:
            target = replace(target, sha256=check_digest(sha256.lower()), converted_sha256=None)
        targets.append(target)
    return targets


def side_targets(names: Sequence[str], settings: Mapping[str, ModelConfig]) -> list[PullTarget]:
    """Return the files that the settings of these models name by their sources.

    Raises:
        UsageError: a source that cannot mean anything.
    """
    sources = {
        name: text
        for model in names
        if model in settings
        for name, text in side_sources(model, settings[model]).items()
    }
    return [target_of(text, load_catalog(), name=check_name(name)) for name, text in sources.items()]


def _is_path(name: str) -> bool:
    separators = [separator for separator in (os.sep, os.altsep) if separator]
    return "://" not in name and (
        name.startswith(("./", "../", "/", "~"))
        or (any(s in name for s in separators) and Path(name).is_file())
    )


def locked_jobs(path: Path, names: Sequence[str], restart: bool) -> list[Job]:
    """Return the work that a lock file asks for: everything in it, or the ``names``.

    Raises:
        NotFoundError: there is no such file, or it does not have one of the names.
        InvalidFileError: it makes no sense.
    """
    pins = read_lock(path)
    chosen: list[LockedArtifact] = []
    for name in names or tuple(pins):
        found = [pin for pin in pins.values() if name == pin.name or pin.name.startswith(f"{name}:")]
        if not found:
            raise NotFoundError(f"{path} does not pin {name}", hint=f"llamafile-mgr pull --lock {name}")
        chosen += found
    return [
        (
            _locked_target(pin),
            PullOptions(restart=restart, revision=pin.revision if pin.source.startswith("hf:") else None),
        )
        for pin in chosen
    ]


def _locked_target(pin: LockedArtifact) -> PullTarget:
    target = PullTarget(name=pin.name, source=pin.source, kind=pin.kind)
    with contextlib.suppress(NotFoundError):
        target = target_of(pin.name, load_catalog())
    known = (target.sha256, target.conversion) == (pin.sha256, pin.conversion)
    return replace(
        target,
        source=pin.source,
        kind=pin.kind,
        size=pin.size,
        sha256=pin.sha256,
        conversion=pin.conversion,
        converted_sha256=target.converted_sha256 if known else None,
    )


def update_lock(path: Path, entries: Sequence[StoredArtifact]) -> None:
    """Pin ``entries`` in the lock file at ``path``; what else it pins stays."""
    pins: dict[str, LockedArtifact] = {}
    with contextlib.suppress(NotFoundError):
        pins = read_lock(path)
    pins.update({entry.name: locked(entry) for entry in entries})
    write_lock(path, pins.values())


def print_previews(
    targets: Sequence[PullTarget | Path], store: Store, config: DownloadConfig, *, as_json: bool
) -> None:
    """Say what pulling would do; nothing is fetched, asked or written.

    Raises:
        NotFoundError: a file of this computer is not there.
    """
    seen = [_preview_of(target, store, config) for target in targets]
    if as_json:
        print_json(seen)
        return
    for number, one in enumerate(seen):
        if number:
            print_line()
        print_rows(_preview_rows(one))


def _preview_of(target: PullTarget | Path, store: Store, config: DownloadConfig) -> Preview:
    if isinstance(target, PullTarget):
        return preview(target, store, config)
    try:
        size = target.stat().st_size
    except OSError as error:
        raise NotFoundError(f"cannot read {target}: {error.strerror}") from error
    return Preview(
        name=target.name,
        source=str(target),
        url=target.absolute().as_uri(),
        size=size,
        exact=True,
        sha256=None,
        licence=None,
        arrived=0,
        path=store.layout.root / "blobs",
        present=False,
    )


def _preview_rows(one: Preview) -> Iterator[tuple[str, str]]:
    yield "Name", one.name
    yield "Source", one.source
    yield "Address", one.url
    about = "" if one.exact or one.size is None else "about "
    yield "Size", "only the hub knows it" if one.size is None else about + format_bytes(one.size)
    yield "SHA-256", one.sha256 or "not known beforehand: the hub is asked, and what arrives is recorded"
    yield "Licence", one.licence or "not known"
    yield "Into", str(one.path)
    if one.present:
        yield "State", "in the store already"
    else:
        yield "State", f"{format_bytes(one.arrived)} are here" if one.arrived else "not here yet"


def pull_all(
    work: Sequence[Job], store: Store, config: DownloadConfig, display: Display
) -> list[StoredArtifact]:
    """Pull one after the other; Ctrl-C and SIGTERM leave what has arrived, and say so."""

    async def pull_one(job: Job) -> StoredArtifact:
        target, options = job
        if isinstance(target, PullTarget):
            return await pull(target, store, config, display, options=options)
        entry, _ = await asyncio.to_thread(import_file, target, store, load_catalog())
        display(Published(entry.name, entry.digest, entry.size, entry.trust.value, str(entry.path), 0))
        return entry

    async def pull_in_turn() -> list[StoredArtifact]:
        return [await pull_one(job) for job in work]

    return _run(pull_in_turn(), display)


def repair_file(
    entry: StoredArtifact,
    damage: tuple[Range, ...] | None,
    store: Store,
    config: DownloadConfig,
    display: Display,
) -> None:
    """Fetch what is damaged of one file, interruptible as ``pull_all`` is."""
    _run(repair(entry, damage, store, config, display), display)


def _run(work: Coroutine[Any, Any, _T], display: Display) -> _T:
    def describe_kept() -> str:
        display.close()
        return (
            f"interrupted; {format_bytes(display.kept)} of this file are kept: "
            "run the same command again and it goes on from there"
        )

    return run_until_signal(work, describe_kept)
