"""Blobs in use: a record per process, which a dead process does not keep."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from llamafile_mgr.files import store_errors, temporary_name, write_atomically
from llamafile_mgr.processes import Holder, is_alive, myself


def add_hold(directory: Path, purpose: str) -> Path:
    """Note that this process uses the blob of ``directory``; return the record to drop later."""
    with store_errors(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = temporary_name(directory).with_suffix(".json")
        write_atomically(path, json.dumps(myself(purpose).json()).encode())
    return path


def drop_hold(path: Path) -> None:
    """Remove a record of use."""
    with contextlib.suppress(OSError):
        path.unlink()


def living_holders(directory: Path) -> list[Holder]:
    """Return who uses the blob now; records of dead processes are removed on the way."""
    holders = []
    for path in sorted(directory.glob("[!.]*.json")):
        try:
            holder = Holder(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            continue
        except (ValueError, TypeError, RecursionError):
            drop_hold(path)
            continue
        if is_alive(holder):
            holders.append(holder)
        else:
            drop_hold(path)
    return holders
