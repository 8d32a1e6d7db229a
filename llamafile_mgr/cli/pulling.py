"""Running pulls from a command: signals, and what to say when one ends the work early."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from dataclasses import replace

import click

from llamafile_mgr.catalog import load_catalog
from llamafile_mgr.cli.output import format_bytes
from llamafile_mgr.cli.progress import Display
from llamafile_mgr.config import DownloadConfig
from llamafile_mgr.downloader import PullOptions, Target, pull, target_of
from llamafile_mgr.errors import UsageError
from llamafile_mgr.store import Store, StoredArtifact
from llamafile_mgr.store.layout import check_digest, check_name

__all__ = ["pull_all", "targets_of"]


def targets_of(names: Sequence[str], as_name: str | None, sha256: str | None) -> list[Target]:
    """Return what the arguments of ``pull`` mean.

    Raises:
        UsageError: no name, or ``--name`` and ``--sha256`` with several.
        NotFoundError: a name that the catalog does not have.
    """
    if not names:
        raise UsageError("pull what?", hint="name a model: llamafile-mgr pull all-minilm-l6-v2")
    if len(names) > 1 and (as_name or sha256):
        raise UsageError("--name and --sha256 are for one file", hint="pull one file at a time with them")
    targets = [target_of(name, load_catalog(), name=as_name and check_name(as_name)) for name in names]
    if sha256:
        return [replace(targets[0], sha256=check_digest(sha256.lower()))]
    return targets


def pull_all(
    jobs: Sequence[tuple[Target, PullOptions]], store: Store, config: DownloadConfig, display: Display
) -> list[StoredArtifact]:
    """Pull one after the other; Ctrl-C and SIGTERM leave what has arrived, and say so."""
    try:
        return asyncio.run(_pull_all(jobs, store, config, display))
    except (KeyboardInterrupt, asyncio.CancelledError):
        display.close()
        click.echo(
            f"interrupted; {format_bytes(display.kept)} of this file are kept: "
            "run the same command again and it goes on from there",
            err=True,
        )
        raise click.exceptions.Abort from None


async def _pull_all(
    jobs: Sequence[tuple[Target, PullOptions]], store: Store, config: DownloadConfig, display: Display
) -> list[StoredArtifact]:
    task = asyncio.current_task()
    if task is not None:
        for number in (signal.SIGINT, signal.SIGTERM):
            # Windows has no such handlers; there asyncio turns Ctrl-C into a cancellation by itself.
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return [await pull(target, store, config, display, options=options) for target, options in jobs]
