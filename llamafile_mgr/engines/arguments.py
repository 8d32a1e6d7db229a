"""The ``.args`` member of a llamafile: two historic syntaxes, read and written.

``LINES`` (engines up to 0.8.16, Cosmopolitan's ``LoadZipArgs``): one argument per line, ``\\n`` in it is
a newline, ``...`` means "the caller's arguments go here" as the last line only. ``SHELL`` (from 0.8.17,
``cosmo_args``): white space separates, quotes group, ``#`` starts a comment, ``$VAR`` is replaced from
the environment, ``...`` may stand anywhere. Without ``...`` the caller's arguments follow at the end;
Cosmopolitan before 2024-01-15 dropped the embedded ones instead as soon as there was one of the caller's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from llamafile_mgr.errors import UsageError

ARGUMENTS_MEMBER = ".args"
MAX_ARGUMENT_BYTES = 256 << 10
PLACEHOLDER = "..."

_SPACE = " \t\r\n\f\v"
_ESCAPES = {"a": "\a", "b": "\b", "t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r", "e": "\x1b"}
#: What both syntaxes read in the same way when it stands on a line of its own.
_PLAIN = re.compile(r"""[^\s'"$\\#][^\s'"$\\]*""")
#: NUL, and what is no Unicode.
_NO_TEXT = re.compile(r"[\0\ud800-\udfff]")
_VARIABLE = re.compile(r"[A-Za-z0-9_]+")
_OCTAL = re.compile(r"[0-9]{1,3}")
_HEX = re.compile(r"[0-9A-Fa-f]{1,2}")


class ArgumentSyntax(StrEnum):
    """How an engine reads its ``.args``."""

    LINES = "lines"
    SHELL = "shell"


@dataclass(frozen=True, slots=True)
class EmbeddedArguments:
    """The arguments that a llamafile brings along.

    ``arguments``: what the engine puts in front of the caller's arguments; ``$VAR`` stays as written.
    ``after``: what it puts behind them (only where ``...`` does not come last). ``variables``: names
    that the engine replaces from its environment. ``syntax``: None when the engine's version is unknown
    and both readings agree.
    """

    raw: str
    syntax: ArgumentSyntax | None
    arguments: tuple[str, ...]
    after: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()


def parse_arguments(raw: str, syntax: ArgumentSyntax | None) -> EmbeddedArguments:
    """Read the text of an ``.args`` member; every text is valid in either syntax.

    With ``syntax`` None both readings are compared; where they differ, ``LINES`` is taken if every line
    is one argument of it that starts like a flag or follows one, else ``SHELL``.
    """
    if syntax is ArgumentSyntax.LINES:
        return _parse_lines(raw)
    if syntax is ArgumentSyntax.SHELL:
        return _parse_shell(raw)
    lines, shell = _parse_lines(raw), _parse_shell(raw)
    if lines.arguments == shell.arguments and not shell.after and not shell.variables:
        return EmbeddedArguments(raw, None, lines.arguments)
    # A flag and its value on one line is something that only the newer syntax can mean.
    packed = any(re.match(r"-\S+\s+\S", line) or line.lstrip().startswith("#") for line in lines.arguments)
    return shell if packed or len(lines.arguments) <= 1 else lines


def _parse_lines(raw: str) -> EmbeddedArguments:
    lines = [line for line in re.split(r"[\r\n]+", raw) if line]
    if lines and lines[-1] == PLACEHOLDER:
        lines.pop()
    return EmbeddedArguments(raw, ArgumentSyntax.LINES, tuple(line.replace("\\n", "\n") for line in lines))


def _parse_shell(raw: str) -> EmbeddedArguments:
    scanner = _ShellScanner(raw)
    words = list(scanner.words())
    split = next((i for i, word in enumerate(words) if word is None), len(words))
    return EmbeddedArguments(
        raw,
        ArgumentSyntax.SHELL,
        arguments=tuple(word for word in words[:split] if word is not None),
        after=tuple(word for word in words[split:] if word is not None),
        variables=tuple(dict.fromkeys(scanner.variables)),
    )


class _ShellScanner:
    """``cosmo_args``'s grammar, with variables left as written."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self.variables: list[str] = []

    def words(self) -> Iterator[str | None]:
        """Yield the arguments; None stands for ``...``."""
        while self._skip_blank():
            if self._take_placeholder():
                yield None
                continue
            word, quoted = self._word()
            # The engine drops an empty argument at the very end of the text.
            if word or (quoted and self._at < len(self._text)):
                yield word

    def _skip_blank(self) -> bool:
        text = self._text
        while self._at < len(text):
            if text[self._at] == "#":
                end = text.find("\n", self._at)
                self._at = len(text) if end < 0 else end
            elif text[self._at] not in _SPACE:
                return True
            else:
                self._at += 1
        return False

    def _take_placeholder(self) -> bool:
        end = self._at + len(PLACEHOLDER)
        if self._text.startswith(PLACEHOLDER, self._at) and self._text[end : end + 1] in (*_SPACE, ""):
            self._at = end
            return True
        return False

    def _word(self) -> tuple[str, bool]:
        parts: list[str] = []
        quoted = False
        while self._at < len(self._text) and self._text[self._at] not in _SPACE:
            char = self._text[self._at]
            self._at += 1
            if char == "'":
                quoted = True
                parts.append(self._single())
            elif char == '"':
                quoted = True
                parts.append(self._double())
            elif char == "$":
                parts.append(self._dollar())
            elif char == "\\":
                parts.append(self._backslash())
            else:
                parts.append(char)
        return "".join(parts), quoted

    def _single(self) -> str:
        end = self._text.find("'", self._at)
        end = len(self._text) if end < 0 else end
        value = self._text[self._at : end]
        self._at = end + 1
        return value

    def _double(self) -> str:
        parts: list[str] = []
        while self._at < len(self._text):
            char = self._text[self._at]
            self._at += 1
            if char == '"':
                break
            if char == "$":
                parts.append(self._dollar())
            elif char == "\\":
                parts.append(self._quoted_backslash())
            else:
                parts.append(char)
        return "".join(parts)

    def _dollar(self) -> str:
        if self._text.startswith("{", self._at):
            end = self._text.find("}", self._at)
            if end < 0:
                value = "$" + self._text[self._at :]
                self._at = len(self._text)
                return value
            self.variables.append(self._text[self._at + 1 : end])
            self._at = end + 1
            return f"${{{self.variables[-1]}}}"
        found = _VARIABLE.match(self._text, self._at)
        if found is None:
            return "$"
        self.variables.append(found.group())
        self._at = found.end()
        return f"${found.group()}"

    def _backslash(self) -> str:
        char = self._text[self._at : self._at + 1]
        self._at += 1
        if char == "\r" and self._text.startswith("\n", self._at):
            self._at += 1
            char = "\n"
        if char == "\n":
            while self._text[self._at : self._at + 1] in tuple(_SPACE):
                self._at += 1
            return ""
        return _ESCAPES.get(char, char)

    def _quoted_backslash(self) -> str:
        octal = _OCTAL.match(self._text, self._at)
        if octal is not None:
            self._at = octal.end()
            value = 0
            for digit in octal.group():
                value = value * 8 + int(digit)
            return chr(value & 0xFF)
        char = self._text[self._at : self._at + 1]
        self._at += 1
        if char == "x":
            digits = _HEX.match(self._text, self._at)
            if digits is None:
                return "x"
            self._at = digits.end()
            return chr(int(digits.group(), 16))
        if char == "\r" and self._text.startswith("\n", self._at):
            self._at += 1
            return ""
        return "" if char == "\n" else _ESCAPES.get(char, char)


def format_arguments(arguments: Sequence[str], syntax: ArgumentSyntax | None) -> str:
    """Return the text of an ``.args`` member that gives exactly ``arguments``, then the caller's.

    With ``syntax`` None the text means the same in both.

    Raises:
        UsageError: an argument cannot be written in this syntax.
    """
    lines = [_format_one(argument, syntax) for argument in arguments]
    return "".join(f"{line}\n" for line in [*lines, PLACEHOLDER])


def _format_one(argument: str, syntax: ArgumentSyntax | None) -> str:
    if _NO_TEXT.search(argument):
        raise UsageError(f"the argument {argument!r} is no text")
    if _PLAIN.fullmatch(argument) and argument != PLACEHOLDER:
        return argument
    if syntax is ArgumentSyntax.SHELL:
        return "'" + argument.replace("'", "'\\''") + "'"
    if syntax is None:
        raise UsageError(
            f"the argument {argument!r} cannot be embedded",
            cause="the version of this runtime is unknown, and versions differ in how they read it",
            hint="leave it out, or use a runtime of a known version",
        )
    if not argument or "\r" in argument or "\\n" in argument or argument == PLACEHOLDER:
        raise UsageError(
            f"the argument {argument!r} cannot be embedded",
            cause="engines before 0.8.17 read one argument per line and know no quotes",
        )
    return argument.replace("\n", "\\n")
