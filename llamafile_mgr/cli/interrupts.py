"""Running a coroutine so that Ctrl-C and SIGTERM end it tidily and with the right exit code."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click

_T = TypeVar("_T")


def run_until_signal(work: Coroutine[Any, Any, _T], describe_kept: Callable[[], str]) -> _T:
    """Run ``work`` to its end and return its result; a signal cancels it, and what is kept is said.

    Raises:
        click.exceptions.Abort: after Ctrl-C.
        click.exceptions.Exit: with 143 after SIGTERM.
    """
    received: list[signal.Signals] = []
    try:
        return asyncio.run(_watched(work, received))
    except (KeyboardInterrupt, asyncio.CancelledError):
        click.echo(describe_kept(), err=True)
        if signal.SIGTERM in received:
            raise click.exceptions.Exit(128 + signal.SIGTERM) from None
        raise click.exceptions.Abort from None


async def _watched(work: Coroutine[Any, Any, _T], received: list[signal.Signals]) -> _T:
    task = asyncio.current_task()

    def stop(number: signal.Signals) -> None:
        received.append(number)
        if task is not None:
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        # Windows has no such handlers; there asyncio turns Ctrl-C into a cancellation by itself.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
    return await work
