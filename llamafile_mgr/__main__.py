"""``python -m llamafile_mgr`` and the console script."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        # Commands that are ended tidy up as those that are interrupted do; some have handlers of their own.
        signal.signal(signal.SIGTERM, _terminate)
        sys.exit(_run())
    except KeyboardInterrupt:  # while modules are loaded; later ones are for ``run``
        sys.stderr.write("interrupted\n")
        sys.exit(130)


def _terminate(number: int, frame: object) -> None:
    sys.exit(128 + number)


def _run() -> int:
    if sys.argv[1:] == ["--version"]:
        # Scripts ask for this in loops: answer before anything else is imported.
        from llamafile_mgr import __version__

        try:
            sys.stdout.write(f"llamafile-mgr {__version__}\n")
            sys.stdout.flush()
            return 0
        except (OSError, AttributeError):
            pass  # a full disk, or no output at all: ``run`` meets it too, and can deal with it
    from llamafile_mgr.cli import run

    return run()


if __name__ == "__main__":
    main()
