"""llama.cpp's own program: the wheel's server behind a program of its name, and a real build if there is one.

What the first prints for ``--version``, ``--help`` and ``--list-devices`` was recorded from the second, and
it refuses the flags that are not in that help, as the second does.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from llamafile_mgr.engines.families import Family, family_rules
from tests.support.engine_builds import CURRENT, find_engine

__all__ = ["HELP", "VERSION", "find_native", "write_llama_server"]

_ROOT = Path(__file__).parent.parent.parent
HELP = Path(__file__).parent / "captures" / "llama-server-help.txt"
VERSION = "version: 0.5.0-dev (build 1, commit 0c1e570)\nbuilt with GNU 12.2.0 for Linux x86_64\n"
DEVICES = "Available devices:\n  (none)\n"
_SCRIPT = """\
#!{python}
import sys
sys.path.insert(0, {root!r})
from tests.support import llama_programs
llama_programs.run(sys.argv[1:], {words!r}, {version!r}, {help!r}, {devices!r})
"""


def find_native() -> Path | None:
    """Return a ``llama-server`` that was compiled on this machine, None where nobody did."""
    folder = find_engine(CURRENT)
    return folder / "llama-server" if folder is not None else None


def write_llama_server(
    folder: Path,
    *,
    name: str = "llama-server",
    words: tuple[str, ...] = (),
    version: str = VERSION,
    help_file: Path = HELP,
    devices: str = DEVICES,
) -> Path:
    """Write a program that is ``llama-server`` to who asks; ``words`` must stand behind its name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(
        _SCRIPT.format(
            python=sys.executable,
            root=str(_ROOT),
            words=words,
            version=version,
            help=str(help_file),
            devices=devices,
        ),
        encoding="utf-8",
    )
    path.chmod(0o755)
    return path


def run(arguments: list[str], words: tuple[str, ...], version: str, help_file: str, devices: str) -> None:
    """Answer as the program does, or become the wheel's server."""
    if tuple(arguments[: len(words)]) != words:
        sys.exit(f"error: unknown command '{arguments[0] if arguments else ''}'")
    arguments = arguments[len(words) :]
    text = Path(help_file).read_text(encoding="utf-8")
    if "--version" in arguments:
        sys.stderr.write(version)
    elif "--help" in arguments:
        sys.stdout.write(text)
    elif "--list-devices" in arguments:
        sys.stdout.write(devices)
    else:
        known = family_rules(Family.LLAMA_CPP).read_flags(text)
        for before, word in zip(["", *arguments], arguments, strict=False):
            if word.startswith("-") and f"{before} *" not in known and word not in known:
                sys.exit(f"error: invalid argument: {word}")
        become_wheel(arguments)


def become_wheel(arguments: list[str]) -> None:
    """Run the wheel's server in this process; it has no GPU and no flag to leave GPUs aside."""
    at = arguments.index("--device") if "--device" in arguments else None
    if at is not None:
        arguments = arguments[:at] + arguments[at + 2 :]
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    command = [sys.executable, "-m", "llamafile_mgr.engines.embedded", *arguments]
    os.execve(command[0], command, environment)


def main() -> None:
    """Record the help of the native build anew."""
    native = find_native()
    if native is None:
        sys.exit("there is no native build: python -m tests.support.engine_builds current")
    import subprocess

    shown = subprocess.run([native, "--help"], capture_output=True, text=True, check=True)
    HELP.write_text(shown.stdout, encoding="utf-8")


if __name__ == "__main__":
    main()
