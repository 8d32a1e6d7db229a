"""``completion``: what makes a shell complete commands, options and models."""

from __future__ import annotations

import sys

import click
from click.shell_completion import get_completion_class

from llamafile_mgr.errors import InternalError

_PROGRAM, _VARIABLE = "llamafile-mgr", "_LLAMAFILE_MGR_COMPLETE"


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell; it asks this program for names of commands, options and models.

    \b
    Examples:
      llamafile-mgr completion bash >> ~/.bashrc
      llamafile-mgr completion zsh >> ~/.zshrc
      llamafile-mgr completion fish > ~/.config/fish/completions/llamafile-mgr.fish
      source <(llamafile-mgr completion bash)
    """
    cls = get_completion_class(shell)
    if cls is None:
        raise InternalError(f"no completion for {shell}")
    sys.stdout.write(cls(ctx.find_root().command, {}, _PROGRAM, _VARIABLE).source())
