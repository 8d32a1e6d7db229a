"""Embedding as a step of a Ray Data pipeline, for who has such pipelines already.

Ray Data reads, moves, retries and writes; here is only what stands on a node. What it has finished when a
driver is killed is for its own checkpoints to say: a job that must resume is one for ``run_on_ray``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from llamafile_mgr.bulk.admission import Admission, NodeFacts
from llamafile_mgr.bulk.nodes import node_source, predict_space
from llamafile_mgr.bulk.ray.cluster import find_nodes, import_ray, pin
from llamafile_mgr.bulk.ray.jobs import STOP_SECONDS, Connect, NodeWorker
from llamafile_mgr.bulk.references import Reference
from llamafile_mgr.bulk.tables import make_columns
from llamafile_mgr.bulk.text_records import Failure, Fragment, make_record
from llamafile_mgr.bulk.vector_sources import EmbedSettings
from llamafile_mgr.config_reading import load_config
from llamafile_mgr.errors import Error, NotReadyError, UsageError
from llamafile_mgr.launching.file_choice import stored_name
from llamafile_mgr.paths import resolve_paths

_T = TypeVar("_T")


def embed_dataset(
    dataset: Any,
    model: str | Connect,
    *,
    text: str = "text",
    settings: EmbedSettings | None = None,
    vector_space: str | None = None,
    nodes: int | None = None,
    cpus: float = 1.0,
    gpus: int = 0,
    exact: bool = False,
    rows: int = 256,
    batch: int = 32,
    concurrency: int = 4,
) -> Any:
    """Return a ``ray.data.Dataset`` whose rows have vectors of their texts. Like all of its kind it is lazy.

    New columns, in the place of any with these names: ``embedding`` (a list of float32, null where there is
    none), ``vector_space``, ``error`` (why there is none) and ``truncated`` (how the text was cut).

    Ray spreads one actor per node over them. Each has a set of supervised engines, planned for its machine,
    and pulls the model when it is not there. One with another vector space, or other golden vectors, ends the
    pipeline with the reason.

    Args:
        dataset: whose column ``text`` holds texts; the other columns stay.
        model: as every node knows it, or what gives a node its source of vectors.
        settings: what is asked for every text.
        vector_space: which one all nodes must have; None takes that of the model as it lies here, else the
            first node's.
        nodes: how many nodes embed; None takes all that now have what is asked for.
        cpus, gpus: what Ray sets aside on each; engines see those GPUs and no others. Reading and writing
            need processors beside these: a pipeline without any stands still.
        exact: equal texts get equal bytes on GPUs too.
        rows: of a call of Ray Data's. batch: texts of a request. concurrency: requests at once.

    Raises:
        UsageError: Ray or its data part is not installed, or a number makes no sense.
        NotReadyError: no node has the processors and GPUs that are asked for.
    """
    if min(rows, batch, concurrency) < 1 or gpus < 0 or (nodes is not None and nodes < 1):
        raise UsageError("nodes, rows, batch and concurrency must be at least 1, gpus at least 0")
    ray = import_ray()
    settings = settings or EmbedSettings()
    reference = Reference()
    if isinstance(model, str):
        paths = resolve_paths()
        predicted, reference = predict_space(model, load_config(paths.config_file), paths)
        vector_space = vector_space or predicted
        connect: Connect = functools.partial(
            node_source, model, settings, file=stored_name(model, paths), exact=exact
        )
    else:
        connect = model
    nodes = nodes or len(find_nodes(ray, cpus, gpus))
    if not nodes:
        raise NotReadyError(
            f"no node has {cpus:g} processors and {gpus} GPUs", hint="nodes=N waits for so many to come"
        )
    here = ray.get_runtime_context().get_node_id()
    terms = ray.remote(_Terms).options(num_cpus=0, scheduling_strategy=pin(here, soft=True))
    return dataset.map_batches(
        _NodeEmbedder,
        batch_format="pyarrow",
        batch_size=rows,
        compute=ray.data.ActorPoolStrategy(size=nodes),
        num_cpus=cpus,
        num_gpus=gpus or None,
        fn_constructor_args=(terms.remote(vector_space, reference), connect, text, batch, concurrency, gpus),
    )


class _Terms:
    """The pipeline's one vector space: an actor that nodes ask whether they may take part."""

    def __init__(self, vector_space: str | None, reference: Reference) -> None:
        self._admission = Admission(vector_space, reference)

    def texts(self) -> tuple[str, ...]:
        """Return what a node must embed."""
        return self._admission.reference.texts

    def admit(self, facts: NodeFacts) -> str | None:
        """Return why a node may not take part; an error's class need not survive the way."""
        try:
            self._admission.admit(facts)
        except Error as error:
            return error.describe()
        return None


class _NodeEmbedder:
    """What Ray Data runs on a node: its engines, on an event loop of their own thread."""

    def __init__(
        self, terms: Any, connect: Connect, text: str, batch: int, concurrency: int, gpus: int
    ) -> None:
        self._text = text
        self._worker = NodeWorker(connect, batch, concurrency, gpus)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="engines", daemon=True).start()
        try:
            self._facts = self._run(self._start(terms))
        except RuntimeError:
            self._end()
            raise

    async def _start(self, terms: Any) -> NodeFacts | Failure:
        facts = await self._worker.start(await terms.texts.remote())
        reason = await terms.admit.remote(facts) if isinstance(facts, NodeFacts) else None
        if reason is not None:
            return Failure("not-ready", f"{socket.gethostname()} cannot take part: {reason}")
        return facts

    def __call__(self, table: Any) -> Any:
        """Return the table with our columns."""
        if self._text not in table.column_names:
            raise RuntimeError(f"there is no column {self._text!r} among {', '.join(table.column_names)}")
        records = tuple(
            make_record(row, None, text, f"row {row}")
            for row, text in enumerate(table[self._text].to_pylist())
        )
        part = self._run(self._worker.embed(Fragment(0, records)))
        width = self._facts.dimensions or self._facts.probes.shape[1]
        for name, column in make_columns(part, width, self._facts.vector_space).items():
            if name in table.column_names:
                table = table.drop_columns([name])
            table = table.append_column(name, column)
        return table

    def _run(self, work: Coroutine[Any, Any, _T | Failure]) -> _T:
        result = asyncio.run_coroutine_threadsafe(work, self._loop).result()
        if isinstance(result, Failure):
            raise RuntimeError(result.message)
        return result

    def _end(self) -> None:
        if self._loop.is_running():
            with contextlib.suppress(Error, TimeoutError):
                asyncio.run_coroutine_threadsafe(self._worker.stop(), self._loop).result(STOP_SECONDS)
            self._loop.call_soon_threadsafe(self._loop.stop)

    def __del__(self) -> None:
        """End the engines: Ray Data drops this object when it needs it no more."""
        self._end()
