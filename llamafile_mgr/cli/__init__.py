"""The command line: parse, call, print. No decisions.

Commands live in modules of their own that are imported only when their command runs, and what
only some of them need is imported where they need it, so that ``--help`` and ``status`` stay fast.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import signal
import sys
from typing import TYPE_CHECKING

import click

from llamafile_mgr import __version__
from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.output import drop_output, print_error
from llamafile_mgr.errors import DiskFullError, Error, InternalError, StoreError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["main_group", "run"]

#: Command -> (module, one-line help). The module holds a click command called ``command``.
COMMANDS: dict[str, tuple[str, str]] = {
    "pull": ("pull", "Fetch models and runtimes into the store."),
    "list": ("list", "List what is in the store."),
    "rm": ("rm", "Remove names from the store."),
    "prune": ("prune", "Give back the room of what is not needed."),
    "verify": ("verify", "Find damaged files and mend them."),
    "import": ("import_", "Take a file of this computer into the store."),
    "kit": ("kit", "Carry models to a machine without internet."),
    "serve": ("serve", "Run models behind the local proxy."),
    "exec": ("exec", "Run a command that needs a served model."),
    "status": ("status", "Show what the running serve does."),
    "ps": ("ps", "List the engines of the running serve."),
    "logs": ("logs", "Print what a model's engines print."),
    "load": ("load", "Start the engines of a model."),
    "unload": ("unload", "End the engines of a model until the next call."),
    "restart": ("restart", "Replace a model's engines without a failed call."),
    "stop": ("stop", "Stop the running serve."),
    "service": ("service", "Keep serve running as a service of the system."),
    "show": ("show", "Say what is in a llamafile, a GGUF or a catalog entry."),
    "pack": ("pack", "Make a llamafile of a runtime and weights."),
    "recommend": ("recommend", "Choose models for this machine and this use, and say why."),
    "plan": ("plan", "Say how models would be started here or elsewhere, and why."),
    "tune": ("tune", "Measure how a model runs fastest on this machine."),
    "embed": ("embed", "Turn the texts of a file into vectors."),
    "bench": ("bench", "Measure how fast a model embeds on this machine."),
    "cache": ("cache", "Show or clear the vectors that are kept of known texts."),
    "completion": ("completion", "Print what makes a shell complete commands and models."),
    "doctor": ("doctor", "Check this machine: what is wrong, why it matters, how to mend it."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is asked for, and not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the command names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = importlib.import_module(f"llamafile_mgr.cli.{entry[0]}").command
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take what people type before they know: ``help [COMMAND]`` and ``version``."""
        if args[:1] == ["help"]:
            args = [*args[1:], "--help"]
        elif args == ["version"]:
            args = ["--version"]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve a command; for an unknown one name the nearest."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"no such command: {args[0]}" + (f"; did you mean {near[0]}?" if near else ""))
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete command names from the table, without importing any of them, and options."""
        from click.shell_completion import CompletionItem

        named = [
            CompletionItem(name, help=text)
            for name, (_, text) in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*named, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command list from the table, without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(
    __version__, "-V", "--version", prog_name="llamafile-mgr", message="%(prog)s %(version)s"
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False),
    help="Read settings from this TOML file.",
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")
@click.pass_context
def main_group(ctx: click.Context, config_file: str | None) -> None:
    """Run embedding and generation llamafiles on your own hardware and forget about them.

    \b
    Examples:
      llamafile-mgr pull mxbai-embed-large-v1
      llamafile-mgr serve --embed mxbai-embed-large-v1
      curl http://127.0.0.1:8080/v1/embeddings -d '{"input": "hello"}'
    """
    ctx.obj = Context(config_file)


def _prepare_streams() -> None:
    """Let output that was closed go nowhere, and escape what the encoding of standard output lacks."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # its descriptor is free, and must not become that of another file
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for the whole run
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _translate(error: Exception) -> Error:
    """Return our error for any other; the system's of writing standard output name no file."""
    if isinstance(error, Error):
        return error
    if not isinstance(error, OSError):
        return InternalError(
            f"unexpected {type(error).__name__}: {error}",
            hint="run again with --debug and report what it prints",
        )
    about = f" to {error.filename}" if error.filename else ""
    said = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(f"cannot write{about}: {said}", hint="make room and run the same command again")
    return StoreError(
        f"cannot read or write{about}: {said}", hint="if that is no surprise, mend it; else run with --debug"
    )


def run(args: list[str] | None = None) -> int:
    """Run one command and return its exit code; every error becomes a message and a code here."""
    debug = "--debug" in (sys.argv[1:] if args is None else args) or bool(
        os.environ.get("LLAMAFILE_MGR_DEBUG")
    )
    _prepare_streams()
    output = sys.stdout
    try:
        result = main_group.main(args=args, prog_name="llamafile-mgr", standalone_mode=False)
    except click.exceptions.Abort:
        sys.stderr.write("interrupted\n")
        return 128 + signal.SIGINT
    except click.ClickException as error:
        error.show()
        if isinstance(error, click.NoSuchOption) and error.option_name in ("--config", "--debug"):
            click.echo(f"{error.option_name} belongs before the command.", err=True)
        return error.exit_code
    except (BrokenPipeError, SystemExit) as error:
        # Where the reader of its output went away, click exchanges the stream and ends the program.
        if isinstance(error, SystemExit) and sys.stdout is output:
            raise
        drop_output()
        return 128 + signal.SIGPIPE
    except Exception as error:  # the last boundary: no traceback reaches a user who did not ask
        if debug:
            import traceback

            traceback.print_exc()
        translated = _translate(error)
        print_error(translated)
        if isinstance(error, OSError):
            drop_output()
        return translated.exit_code
    return result if isinstance(result, int) else 0
