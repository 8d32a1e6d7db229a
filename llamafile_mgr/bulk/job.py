"""A bulk job: texts in, vectors out, and every finished fragment kept until all are.

Nothing of a job depends on when it was interrupted: fragments are fixed pieces of the input, each is computed
by itself, and the output is made of all of them at the end. Memory holds a few fragments however long the
input is.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from llamafile_mgr.bulk.checkpoints import FinishedFragment, Parts, parts_folder
from llamafile_mgr.bulk.computing import compute_in_order, fragments_under_way
from llamafile_mgr.bulk.readers import InputForm, TextInput, count_texts, form_of, read_texts
from llamafile_mgr.bulk.remote_files import identify_url
from llamafile_mgr.bulk.tables import OutputFacts, TableFolder
from llamafile_mgr.bulk.text_records import Fragment, split_fragments
from llamafile_mgr.bulk.vector_sources import EmbedSettings, OneSpace, VectorSource
from llamafile_mgr.bulk.writers import OutputForm, output_form, write_output
from llamafile_mgr.errors import CheckpointError, NotFoundError, UsageError
from llamafile_mgr.files import store_errors


@dataclass(frozen=True, slots=True)
class BulkJob:
    """What to embed, how, and where to. ``source``: one input, or several that are read one after the other.

    ``batch``: texts of a request. ``concurrency``: requests under way.

    ``fragment``: texts that are kept together; about two of them are computed again after an interruption.
    ``overwrite``: replace an output that is there. ``restart``: forget what an earlier run has finished.
    """

    source: TextInput | tuple[TextInput, ...]
    output: Path | None = None
    settings: EmbedSettings = field(default_factory=EmbedSettings)
    batch: int = 32
    concurrency: int = 4
    fragment: int = 128
    overwrite: bool = False
    restart: bool = False

    def __post_init__(self) -> None:
        if self.batch < 1 or self.concurrency < 1 or self.fragment < 1:
            raise UsageError("batch, concurrency and fragment must be at least 1")
        if not self.inputs:
            raise UsageError("a job needs an input")

    @property
    def inputs(self) -> tuple[TextInput, ...]:
        """Return every input, in order."""
        return self.source if isinstance(self.source, tuple) else (self.source,)

    def read_fragments(self) -> Iterator[Fragment]:
        """Yield the inputs' fragments. Raises what ``read_texts`` does."""
        return split_fragments(map(read_texts, self.inputs), self.fragment)

    def count_texts(self) -> int | None:
        """Return about how many texts there are; None when an input does not tell. Blocks."""
        total = 0
        for source in self.inputs:
            count = count_texts(source)
            if count is None:
                return None
            total += count
        return total


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far a job is. ``done``: texts, of them ``kept`` from an earlier run. ``total``: about, if known."""

    done: int
    kept: int
    failed: int
    total: int | None


@dataclass(frozen=True, slots=True)
class JobReport:
    """What a job made. ``exact``: the same job would give the same bytes again. ``kept``: texts that an
    earlier run had finished."""

    model: str
    vector_space: str
    dimensions: int
    texts: int
    failed: int
    truncated: int
    kept: int
    exact: bool


#: Told at a job's start, with nothing done, and after every fragment.
Observe = Callable[[JobProgress], None]


class Computer(OneSpace, Protocol):
    """Computes the fragments of a job, all in one vector space."""

    def compute(self, fragments: Iterator[Fragment], folder: Path | None) -> AsyncIterator[FinishedFragment]:
        """Yield every fragment once, in any order. ``folder``: what must outlive an interruption goes here.

        Raises:
            CheckpointError: the vectors are of another space by now.
            Error: nothing is left that could compute them.
        """


def embed_file(
    job: BulkJob,
    connect: Callable[[], AbstractAsyncContextManager[VectorSource]],
    observe: Observe = lambda _: None,
) -> JobReport:
    """Run a job to its end, or go on with it; ``connect`` gives the source of vectors.

    Raises:
        UsageError: there is an output already, or a name does not say what a file holds.
        CheckpointError: the input, the settings or the vector space changed since the job was begun.
        NotFoundError, InvalidFileError: the input cannot be read.
        Error: the source failed as a whole. What is finished is kept.
    """

    async def run() -> JobReport:
        await asyncio.to_thread(check_job, job)
        async with connect() as source:
            return await run_job(job, source, observe)

    return asyncio.run(run())


def _check_input(source: TextInput) -> None:
    form, path = form_of(source), source.path
    if path is None:
        return
    if not path.exists():
        raise NotFoundError(f"there is no file {path}")
    if not path.is_file():
        raise UsageError(f"{path} is no file that can be read twice", hint="send it to standard input: -")
    if form in (InputForm.CSV, InputForm.TSV, InputForm.PARQUET):
        next(read_texts(source), None)


def check_job(job: BulkJob) -> None:
    """Refuse what can be refused before an engine starts; of a table the first rows are read.

    Raises:
        UsageError, NotFoundError: the job cannot mean anything, or its input is not there.
        InvalidFileError: the input is not what its name says, or has no column of texts.
    """
    for source in job.inputs:
        if source.texts is None:
            _check_input(source)
    if job.output is None:
        return
    form = output_form(job.output)
    if not job.output.parent.is_dir():
        raise NotFoundError(f"there is no directory {job.output.parent}")
    if form is OutputForm.FOLDER:
        there = TableFolder.check(job.output)
    elif job.output.is_dir():
        raise UsageError(f"{job.output} is a folder", hint="name a file, or a folder without a suffix")
    else:
        there = job.output.exists()
    begun = Parts(parts_folder(job.output)).read_job() is not None
    if there and not job.overwrite and not begun:
        raise UsageError(f"{job.output} is there already", hint="name another output, or say --overwrite")


async def run_job(job: BulkJob, source: VectorSource, observe: Observe = lambda _: None) -> JobReport:
    """Run a job with a source that is at hand; see ``embed_file``."""
    return await complete_job(job, _OneSource(source, job), observe)


async def complete_job(job: BulkJob, source: Computer, observe: Observe = lambda _: None) -> JobReport:
    """Run a job whose fragments ``source`` computes in whatever order; see ``embed_file``."""
    output = job.output
    if output is None:
        raise UsageError("a job that is kept needs an output")
    await asyncio.to_thread(check_job, job)
    total = await asyncio.to_thread(job.count_texts)
    folder = parts_folder(output)
    settings = _describe_settings(job.settings)
    facts = OutputFacts(
        source.model,
        source.vector_space,
        dimensions=source.dimensions or 0,
        input_type=settings["input_type"],
        truncation=settings["truncation"],
    )
    tables = TableFolder(output, facts) if output_form(output) is OutputForm.FOLDER else None
    parts = Parts(folder, tables)
    described = await asyncio.to_thread(_describe, job, source)
    with parts.opened(described, restart=job.restart):
        counts = _Counts(total, observe)
        async for part in source.compute(_skip_finished(job.read_fragments(), parts, counts), folder):
            await asyncio.to_thread(parts.keeper.write, part)
            counts.add(part, kept=False)
        width = counts.width if counts.width is not None else source.dimensions or 0
        facts = replace(facts, dimensions=width, texts=counts.texts, failed=counts.failed)
        if tables is not None:
            await asyncio.to_thread(tables.finish, facts)
        else:
            count = counts.fragments
            await asyncio.to_thread(write_output, output, lambda: parts.read_all(count), facts, folder)
        parts.remove()
    return counts.report(source, width)


def _skip_finished(fragments: Iterable[Fragment], parts: Parts, counts: _Counts) -> Iterator[Fragment]:
    for fragment in fragments:
        part = parts.keeper.read(fragment.index)
        if part is None:
            yield fragment
            continue
        if part.digest != fragment.digest:
            raise CheckpointError(
                f"the job in {parts.folder} cannot go on: its input changed",
                cause=f"texts of fragment {fragment.index} are not those that were embedded",
                hint="begin it anew with --restart",
            )
        counts.add(part, kept=True)


async def stream_job(
    job: BulkJob,
    source: VectorSource,
    write: Callable[[FinishedFragment], None],
    observe: Observe = lambda _: None,
) -> JobReport:
    """Give the fragments of a job to ``write`` in order as they are finished; nothing is kept."""
    total = await asyncio.to_thread(job.count_texts)
    counts = _Counts(total, observe)
    computer = _OneSource(source, job)
    async for part in computer.compute(job.read_fragments(), None):
        counts.add(part, kept=False)
        write(part)
    return counts.report(computer, counts.width or source.dimensions or 0)


class _OneSource:
    """A ``Computer`` of one source of vectors."""

    def __init__(self, source: VectorSource, job: BulkJob) -> None:
        self._source = source
        self._job = job
        self.model = source.model
        self.vector_space = source.vector_space
        self.dimensions = source.dimensions

    def compute(self, fragments: Iterator[Fragment], folder: Path | None) -> AsyncIterator[FinishedFragment]:
        """Yield the fragments in order."""
        job = self._job
        window = fragments_under_way(job.batch, job.concurrency, job.fragment)
        return compute_in_order(fragments, self._source, job.batch, job.concurrency, window)


class _Counts:
    """What a job has done so far; tells ``observe`` at the start and after every fragment."""

    def __init__(self, total: int | None, observe: Observe) -> None:
        self._total = total
        self._observe = observe
        self.texts = self.kept = self.failed = self.truncated = self.fragments = 0
        self.width: int | None = None
        self._exact = True
        observe(JobProgress(0, 0, 0, total))

    def add(self, part: FinishedFragment, *, kept: bool) -> None:
        """Count one fragment.

        Raises:
            CheckpointError: its vectors have another width than the others'.
        """
        width = part.vectors.shape[1] if len(part.failures) < len(part.ids) else self.width
        if self.width is not None and width != self.width:
            raise CheckpointError(f"vectors of {width} dimensions among vectors of {self.width}")
        self.width = width
        self.texts += len(part.ids)
        self.kept += len(part.ids) if kept else 0
        self.failed += len(part.failures)
        self.truncated += len(part.truncated)
        self.fragments += 1
        self._exact = self._exact and part.exact
        self._observe(JobProgress(self.texts, self.kept, self.failed, self._total))

    def report(self, source: Computer, width: int) -> JobReport:
        """Return the end's figures."""
        return JobReport(
            source.model,
            source.vector_space,
            width,
            self.texts,
            self.failed,
            self.truncated,
            self.kept,
            self._exact,
        )


def _describe(job: BulkJob, computer: Computer) -> dict[str, Any]:
    """Return what must be the same when a job goes on."""
    return {
        "input": [_identify(source) for source in job.inputs],
        "settings": _describe_settings(job.settings),
        "model": computer.model,
        "vector_space": computer.vector_space,
        "fragment": job.fragment,
    }


def _describe_settings(settings: EmbedSettings) -> dict[str, Any]:
    return {
        "input_type": settings.input_type.value if settings.input_type else None,
        "truncation": settings.truncation.value,
        "dimensions": settings.dimensions,
        "task": settings.task,
    }


def _identify(source: TextInput) -> dict[str, Any]:
    """Return what tells an input from another, and how it is read."""
    if source.texts is not None:
        return {"texts": list(source.texts)}
    return {
        "name": source.label,
        "form": form_of(source).value,
        "text_column": source.text_column,
        "id_column": source.id_column,
        **_identify_content(source),
    }


def _identify_content(source: TextInput) -> dict[str, Any]:
    """Return a file's digest, nothing for what cannot be read twice."""
    if source.url is not None:
        return {"url": source.url, **identify_url(source.url)}
    if source.path is None:
        return {}
    with store_errors(source.path), source.path.open("rb") as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16))
        return {"bytes": stream.tell(), "digest": digest.hexdigest()}
