"""What stands in the way of a llamafile's own program: the loader that its shell head unpacks, and mounts.

A llamafile that is run by ``sh`` starts ``$TMPDIR/.ape-1.10`` (``$HOME`` without a TMPDIR), which it
unpacks from itself when it is not there. Run on a true one: a loader that a power cut left empty ends with
code 0 and prints nothing, every time, and one on a mount with noexec with 127. Engines are given a TMPDIR
of ours, so that a broken loader in it is ours to remove; the next start unpacks another.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from llamafile_mgr.machine.launch import may_execute
from llamafile_mgr.supervisor.diagnosis import Diagnosis

#: What stands there while it is unpacked has the unpacking shell's number behind it.
_LOADER = re.compile(r"\.ape-\d+\.\d+")
#: ELF, and both orders and widths of Mach-O.
_PROGRAMS = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\xca\xfe\xba\xbe")


def clear_way(program: Sequence[str], environment: Mapping[str, str]) -> Diagnosis | None:
    """Remove loaders that cannot work, and return what stood or stands in the way; None where nothing does.

    ``program``: the argv in front of the flags. ``environment``: the engine's. Blocks on the disk.
    """
    home = environment.get("TMPDIR") or environment.get("HOME")
    broken = list(_broken_loaders(Path(home))) if home else []
    for loader in broken:
        try:
            loader.unlink(missing_ok=True)
        except OSError as error:
            return Diagnosis(f"{_describe(loader)}, and cannot be removed: {error.strerror}", permanent=True)
    if broken:
        return Diagnosis(f"{_describe(broken[0])}; it was removed, and the next start unpacks it again")
    folders = [Path(home)] if home else []
    folders += [Path(word).parent for word in program if os.path.isabs(word)]
    for folder in folders:
        if may_execute(folder) is False:
            return Diagnosis(
                f"{folder} is on a mount with noexec, where neither llamafiles nor their loader may run",
                "set LLAMAFILE_MGR_HOME to a directory on another mount; `llamafile-mgr doctor` shows them",
                permanent=True,
            )
    return None


def _describe(loader: Path) -> str:
    return f"the loader that llamafiles unpack was empty or damaged, as a power cut leaves it ({loader})"


def _broken_loaders(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.glob(".ape-*")):
        if _LOADER.fullmatch(path.name) is None:
            continue
        try:
            with path.open("rb") as stream:
                head = stream.read(4)
        except OSError:
            continue
        if head not in _PROGRAMS:
            yield path
