"""What a scaling model needs measured: a source of vectors, and a disk's reading, keeping and writing."""

from __future__ import annotations

import asyncio
import itertools
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from pathlib import Path

import numpy as np

from llamafile_mgr.bulk.checkpoints import FinishedFragment, Parts
from llamafile_mgr.bulk.computing import compute_in_order, fragments_under_way
from llamafile_mgr.bulk.job import BulkJob
from llamafile_mgr.bulk.readers import TextInput, read_texts
from llamafile_mgr.bulk.scaling import ScaleRates
from llamafile_mgr.bulk.tables import OutputFacts
from llamafile_mgr.bulk.text_records import Fragment, TextRecord, split_fragments
from llamafile_mgr.bulk.vector_sources import VectorSource
from llamafile_mgr.bulk.writers import write_output
from llamafile_mgr.errors import NotReadyError

_ROWS = 20_000
_PARTS = 50


async def measure_rates(
    source: VectorSource, texts: Sequence[str], sizes: BulkJob, *, seconds: float, start_seconds: float
) -> ScaleRates:
    """Return what ``source`` and this machine's temporary folder do with ``texts``.

    ``sizes``: whose batch, concurrency and fragment count. ``seconds``: of embedding that count.

    Raises:
        NotReadyError: there are no texts.
        Error: the source failed.
    """
    node, width = await _measure_node(source, texts, sizes, seconds)
    read, keep, write = await asyncio.to_thread(_measure_disk, texts, sizes.fragment, width)
    return ScaleRates(node, read, keep, write, start_seconds, sizes.fragment, sizes.batch, sizes.concurrency)


async def _measure_node(
    source: VectorSource, texts: Sequence[str], sizes: BulkJob, seconds: float
) -> tuple[float, int]:
    """Return texts a second and the width of vectors; the first request warms up and does not count.

    Requests are pieces of their own here: waiting for whole fragments would take minutes on a slow machine.
    """
    endless = itertools.cycle([TextRecord(number, text) for number, text in enumerate(texts)])
    window = fragments_under_way(sizes.batch, sizes.concurrency, sizes.batch)
    fragments = split_fragments([endless], sizes.batch)
    began, done, width = 0.0, 0, 1
    work = compute_in_order(fragments, source, sizes.batch, sizes.concurrency, window)
    async with aclosing(work) as parts:
        async for part in parts:
            width = max(width, part.vectors.shape[1])
            if not began:
                began = time.monotonic()
                continue
            done += len(part.ids)
            if time.monotonic() - began >= seconds:
                return done / (time.monotonic() - began), width
    raise NotReadyError("nothing was embedded")


def _measure_disk(texts: Sequence[str], fragment: int, width: int) -> tuple[float, float, float]:
    """Return texts a second that are read from JSON lines, kept as parts, and written as one file."""
    with tempfile.TemporaryDirectory(prefix="llamafile-mgr-scale-") as name:
        folder = Path(name)
        path = folder / "in.jsonl"
        rows = itertools.islice(itertools.cycle(texts), _ROWS)
        path.write_text("".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(rows)))
        began = time.monotonic()
        for each in split_fragments([read_texts(TextInput(path))], fragment):
            _ = each.digest
        read = _ROWS / (time.monotonic() - began)
        parts, finished = Parts(folder / "parts"), list(_made(texts, fragment, width))
        count = len(finished) * fragment
        began = time.monotonic()
        for part in finished:
            parts.keeper.write(part)
        keep = count / (time.monotonic() - began)
        facts = OutputFacts("scale", "", texts=count, dimensions=width)
        began = time.monotonic()
        write_output(folder / "out.npy", lambda: parts.read_all(len(finished)), facts, parts.folder)
        return read, keep, count / (time.monotonic() - began)


def _made(texts: Sequence[str], fragment: int, width: int) -> Iterator[FinishedFragment]:
    vectors = np.random.default_rng(1).normal(size=(fragment, width)).astype(np.float32)
    for index in range(_PARTS):
        piece = Fragment(index, tuple(TextRecord(n, texts[n % len(texts)]) for n in range(fragment)))
        yield FinishedFragment(index, piece.digest, tuple(range(fragment)), vectors, {}, {})
