"""Finding the ``serve`` that a command means, and asking it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.output import print_result
from llamafile_mgr.errors import Error, NotReadyError, UsageError

_STATUS_SECONDS = 5.0

port_option = click.option(
    "--port", type=click.IntRange(1, 65535), help="The port of the serve that is meant, when several run."
)


def ask_running(
    context: Context, port: int | None, command: dict[str, Any], *, seconds: float | None = 600.0
) -> Iterator[dict[str, Any]]:
    """Send one command to the running ``serve`` and yield its answers.

    Raises:
        NotReadyError: none runs, or none on this port.
        UsageError: several run and no port was given.
        Error: what the service answered.
    """
    from llamafile_mgr.supervisor.asking import find_sockets, send_command

    found = find_sockets(context.paths)
    if port is not None:
        found = [each for each in found if each[0] == port]
    if not found:
        from llamafile_mgr.cli.guidance import how_to_start

        where = f" on port {port}" if port is not None else ""
        raise NotReadyError(f"no serve is running{where}", hint=how_to_start(context.paths))
    if len(found) > 1:
        ports = ", ".join(str(each[0]) for each in found)
        raise UsageError(f"several serves are running, on ports {ports}", hint="say which with --port")
    return send_command(found[0][1], command, seconds=seconds)


def running_models(context: Context) -> list[dict[str, Any]]:
    """Return the models of every ``serve`` that runs and answers, as ``status`` tells of them."""
    from llamafile_mgr.supervisor.asking import find_sockets, send_command

    models: list[dict[str, Any]] = []
    for _, socket in find_sockets(context.paths):
        with contextlib.suppress(Error):
            models += next(send_command(socket, {"command": "status"}, seconds=_STATUS_SECONDS))["models"]
    return models


def change_model(
    context: Context,
    port: int | None,
    command: dict[str, Any],
    done: str,
    *,
    as_json: bool,
    seconds: float | None = 600.0,
) -> None:
    """Have the running ``serve`` do something to a model, and say so; raises as ``ask_running``."""
    for _ in ask_running(context, port, command, seconds=seconds):
        pass  # what it tells on the way is for other commands
    model = command["model"]
    print_result({"model": model, "done": done}, f"{model}: {done}", as_json=as_json)
