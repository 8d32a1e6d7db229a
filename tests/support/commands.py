"""Command lines of ours that stand in texts: found, and parsed by the real parser without being run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click

from llamafile_mgr.cli import COMMANDS, main_group

__all__ = ["all_commands", "find_commands", "parse_command"]

PROGRAM = "llamafile-mgr"


def find_commands(line: str) -> list[list[str]]:
    """Return the arguments of every call of our program in a line for a shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    calls: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("();<>|&"):
            calls.append([])
        elif word == PROGRAM and (not calls[-1] or calls[-1] == ["sudo"]):
            calls[-1] = [PROGRAM]
        else:
            calls[-1].append(word)
    return [call[1:] for call in calls if call[:1] == [PROGRAM]]


def parse_command(arguments: list[str]) -> None:
    """Parse a command line as the program does; its callbacks do not run. Raises click's errors."""
    context = main_group.make_context(PROGRAM, list(arguments))
    command: click.Command = main_group
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None, arguments
        assert name is not None
        command = found
        context = command.make_context(name, list(rest), parent=context)


def all_commands() -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its words, those of groups too."""
    context = click.Context(main_group)
    for name in COMMANDS:
        command = main_group.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            for part in command.list_commands(context):
                inner = command.get_command(context, part)
                assert inner is not None
                yield f"{name} {part}", inner
