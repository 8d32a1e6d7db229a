"""``python -m llamafile_mgr`` and the console script."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit with its code."""
    if sys.argv[1:] == ["--version"]:
        # Scripts ask for this in loops: answer before anything else is imported.
        from llamafile_mgr import __version__

        sys.stdout.write(f"llamafile-mgr {__version__}\n")
        return
    from llamafile_mgr.cli import run

    sys.exit(run())


if __name__ == "__main__":
    main()
