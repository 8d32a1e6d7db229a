"""For engines that read bare GGUF files alone: unpack the weights of a llamafile, then become the engine.

``python -m llamafile_mgr.engines.unpacking PROGRAM ARGUMENT...`` takes the GGUF out of the file behind
``-m``, once for each file, into the directory for temporary files, and runs the rest in its own place, so
that who started it sees one process.

Exit codes: those of the engine; 1 for a file without one GGUF, 126 and 127 for a program that cannot be run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from llamafile_mgr.engines.embedded import resolve_weights, weights_cache
from llamafile_mgr.errors import Error

_MODEL = "-m"


def main(arguments: Sequence[str]) -> int:
    """Become the engine; return an exit code where that cannot be."""
    command = list(arguments)
    if _MODEL not in command[1:-1]:
        return _refuse(f"there is no {_MODEL} FILE in the engine's command", 1)
    at = command.index(_MODEL) + 1
    try:
        command[at] = str(resolve_weights(command[at], weights_cache()))
        if os.name != "posix":  # where exec starts another process, who waits for this one waits for that one
            return subprocess.run(command, check=False).returncode
        os.execv(command[0], command)  # noqa: S606 - the engine of the plan, by its argv
    except Error as error:
        return _refuse(error.message, 1)
    except FileNotFoundError as error:
        return _refuse(f"{command[0]}: {error.strerror}", 127)
    except OSError as error:
        return _refuse(f"{command[0]}: {error.strerror}", 126)


def _refuse(text: str, code: int) -> int:
    sys.stderr.write(f"error: {text}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
