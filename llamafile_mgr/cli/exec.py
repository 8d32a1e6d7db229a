"""``exec``: run a command that needs a served model."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.model_names import complete_file, read_models, role_options
from llamafile_mgr.cli.numbers import FiniteRange

if TYPE_CHECKING:
    from llamafile_mgr.launching.wanted import ToldRoles

#: What shells say of a command that is not there, or that may not be run.
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126


@click.command("exec", context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@role_options("Serve")
@click.option("--port", type=click.IntRange(1, 65535), help="Serve on this port.  [default: any]")
@click.option(
    "--keep",
    "keep_seconds",
    type=FiniteRange(0, 86400),
    default=0.0,
    metavar="SECONDS",
    help="Keep the server so long after its last user.  [default: 0]",
)
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
@click.argument(
    "argv",
    metavar="COMMAND [ARGUMENT]...",
    nargs=-1,
    required=True,
    type=click.UNPROCESSED,
    shell_complete=complete_file,
)
@click.pass_obj
def command(
    context: Context,
    roles: ToldRoles,
    port: int | None,
    keep_seconds: float,
    quiet: bool,
    argv: tuple[str, ...],
) -> int:
    """Serve models, run COMMAND once they are ready, and end the server with its last user.

    A running server that serves the models already is joined; two commands with the same models and settings
    share one. COMMAND takes this process's place, so signals and its exit code are its own. It finds in its
    environment OPENAI_BASE_URL, OPENAI_API_KEY, LLAMAFILE_URL, OLLAMA_HOST, and the first model of each role
    in LLAMAFILE_EMBED_MODEL, LLAMAFILE_GENERATE_MODEL and LLAMAFILE_RERANK_MODEL. A COMMAND that does not
    exist gives 127.

    \b
    Examples:
      llamafile-mgr exec --embed mxbai-embed-large-v1 -- python index.py
      llamafile-mgr exec --embed all-minilm-l6-v2 --generate ./Qwen3.5-2B-Q8_0.llamafile -- make answers
      llamafile-mgr exec --embed all-minilm-l6-v2 --keep 60 -- sh -c 'curl -s $LLAMAFILE_URL/v1/models'
    """
    from llamafile_mgr.endpoints.joining import join_or_start
    from llamafile_mgr.endpoints.sharing_terms import choose
    from llamafile_mgr.processes import myself

    if shutil.which(argv[0]) is None:
        return _refuse(argv[0])
    began = time.monotonic()
    report = (lambda _: None) if quiet else _report
    config = context.load_config()
    wanted = read_models(context, config.serve, "exec", roles, rest=" -- COMMAND")
    choice = choose(wanted, config, context.paths, port=port, config_file=context.config_file)
    lease = join_or_start(choice, report, process=myself("exec"), keep_seconds=keep_seconds)
    access = lease.access
    models = ", ".join(access.models.values())
    report(f"ready after {time.monotonic() - began:.1f} s: {models} at {access.url}")
    return _become(argv, access.environment(os.environ))


def _become(argv: tuple[str, ...], environment: Mapping[str, str]) -> int:
    """Turn into the command. The lease lasts as long as this process, whatever it has become."""
    sys.stdout.flush()
    sys.stderr.flush()
    # Python ignores these for itself, and what is ignored stays so in the next program.
    for name in ("SIGPIPE", "SIGXFSZ"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        os.execvpe(argv[0], argv, environment)  # noqa: S606 - the user's own command, by its argv
    except OSError:
        return _refuse(argv[0])


def _refuse(name: str) -> int:
    code, said = _NOT_FOUND, "command not found"
    if shutil.which(name, mode=os.F_OK) is not None:
        code, said = _NOT_EXECUTABLE, "cannot be executed"
    click.echo(f"llamafile-mgr exec: {name}: {said}", err=True)
    return code


def _report(line: str) -> None:
    click.echo(f"llamafile-mgr: {line}", err=True)
