"""What every command has in common: examples that parse, and JSON where it prints data."""

from __future__ import annotations

import re

import click
import pytest

from llamafile_mgr.cli import run
from tests.support.commands import all_commands, find_commands, parse_command

COMMANDS = dict(all_commands())
#: Commands that give no data of their own: a program's output, a script for a shell, or groups.
WITHOUT_JSON = {"exec", "completion"}


def examples(command: click.Command) -> list[str]:
    _, found, block = (command.help or "").partition("Examples:\n")
    return [line.strip() for line in block.splitlines() if line.strip()] if found else []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_parses(name: str) -> None:
    lines = examples(COMMANDS[name])
    assert lines, f"{name} has no examples"
    called = []
    for line in lines:
        calls = find_commands(re.sub(r"\s+\(.*\)$", "", line))
        assert calls, line
        for arguments in calls:
            try:
                parse_command(arguments)
            except click.ClickException as error:
                raise AssertionError(f"{line}: {error.format_message()}") from error
        called += [" ".join(arguments) for arguments in calls]
    assert any(call == name or call.startswith(f"{name} ") for call in called)


def test_an_example_with_an_unknown_option_would_be_found() -> None:
    with pytest.raises(click.NoSuchOption):
        parse_command(["service", "install", "--no-such"])
    with pytest.raises(click.UsageError):
        parse_command(["lisst"])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_with_data_prints_json(name: str) -> None:
    command = COMMANDS[name]
    has = any("--json" in parameter.opts for parameter in command.params)
    assert has != (isinstance(command, click.Group) or name in WITHOUT_JSON)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_its_words(name: str) -> None:
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["help"], ["--help"]),
        (["help", "pull"], ["pull", "--help"]),
        (["version"], ["-V"]),
        (["-V"], ["--version"]),
    ],
)
def test_help_and_version_as_commands(
    typed: list[str], meant: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(typed) == 0
    printed = capsys.readouterr().out
    assert printed
    assert run(meant) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("option", [["--config", "x.toml"], ["--debug"]])
def test_an_option_of_all_commands_behind_one_is_told_its_place(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["list", *option]) == 2
    assert "belongs before the command" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_no_option_takes_a_number_that_is_none(name: str) -> None:
    for parameter in COMMANDS[name].params:
        if isinstance(parameter.type, (click.FloatRange, click.types.FloatParamType)):
            for text in ("nan", "inf"):
                with pytest.raises(click.BadParameter):
                    parameter.type(text, parameter, None)
