"""How long a bulk job takes on so many nodes, and what it costs. Pure: everything measured comes in.

The model: nodes compute fragments independently and share nothing but the driver, which reads the input,
keeps finished fragments and writes the output. Reading, computing and keeping overlap; starting and writing
do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llamafile_mgr import __version__
from llamafile_mgr.errors import UsageError

SCHEMA = "llamafile-mgr/bench-scale/1"
HEADERS = ("NODES", "TEXTS/S", "HOURS", "COST", "LIMITED BY", "NODES BUSY")
ASSUMPTIONS = (
    "every node is as fast as the engines measured here",
    "texts are as long as those measured: docstrings of Python's standard library",
    "reading, computing and keeping overlap; starting nodes and writing the output do not",
    "one driver reads the input and keeps the vectors, on a disk as fast as the one measured here",
    "the network carries texts and vectors faster than the driver's disk does",
    "a node has its next fragment at hand before it is done with one",
    "the last fragments keep some nodes waiting: work is shared in whole fragments",
    "no node is lost; a lost one costs its share of the rate and up to its fragments under way again",
    "nodes are paid for from their start until the output is written; the driver is not counted",
)


@dataclass(frozen=True, slots=True)
class ScaleRates:
    """What was measured, in texts a second: one node's engines, and the driver's reading, keeping, writing.

    ``start_seconds``: until a node is ready. ``fragment``, ``batch``, ``concurrency``: as in ``Job``.
    """

    node: float
    read: float
    keep: float
    write: float
    start_seconds: float
    fragment: int
    batch: int
    concurrency: int

    def __post_init__(self) -> None:
        if min(self.node, self.read, self.keep, self.write) <= 0 or self.start_seconds < 0:
            raise UsageError("a rate of a scaling model must be more than 0")
        if min(self.fragment, self.batch, self.concurrency) < 1:
            raise UsageError("sizes of a scaling model must be at least 1")


@dataclass(frozen=True, slots=True)
class Prediction:
    """A job on ``nodes`` nodes. ``rate``: texts a second of the whole job. ``cost``: None without a price.

    ``limit``: ``nodes``, ``reading`` or ``keeping``. ``busy``: the share of the job that a node computes.
    """

    nodes: int
    seconds: float
    rate: float
    cost: float | None
    limit: str
    busy: float


def predict(rates: ScaleRates, texts: int, nodes: int, price_per_hour: float | None = None) -> Prediction:
    """Return how a job of ``texts`` goes on ``nodes`` nodes that cost ``price_per_hour`` each.

    Raises:
        UsageError: there are no texts, or no nodes.
    """
    if texts < 1 or nodes < 1:
        raise UsageError("a job needs a text and a node at least")
    computing = _share(texts, nodes, rates.fragment) / rates.node
    stages = {"nodes": computing, "reading": texts / rates.read, "keeping": texts / rates.keep}
    limit = max(stages, key=lambda name: stages[name])
    seconds = rates.start_seconds + stages[limit] + texts / rates.write
    cost = None if price_per_hour is None else nodes * price_per_hour * seconds / 3600
    busy = texts / rates.node / nodes / seconds
    return Prediction(nodes, seconds, texts / seconds, cost, limit, busy)


def _share(texts: int, nodes: int, fragment: int) -> int:
    """Return the texts of the node that has the most: the last fragment may be smaller than the others."""
    whole, rest = divmod(texts, fragment)
    rounds, over = divmod(whole, nodes)
    if over:
        return (rounds + 1) * fragment
    return rounds * fragment + rest


def scale_json(
    model: str, rates: ScaleRates, texts: int, predictions: Sequence[Prediction]
) -> dict[str, Any]:
    """Return all of it: schema ``llamafile-mgr/bench-scale/1``, rates in texts a second."""
    return {
        "schema": SCHEMA,
        "version": __version__,
        "model": model,
        "texts": texts,
        "measured": {
            "node": round(rates.node, 2),
            "read": round(rates.read, 1),
            "keep": round(rates.keep, 1),
            "write": round(rates.write, 1),
            "start_seconds": round(rates.start_seconds, 2),
            "keep_every": rates.fragment,
            "batch": rates.batch,
            "concurrency": rates.concurrency,
        },
        "predictions": [
            {
                "nodes": each.nodes,
                "texts_per_second": round(each.rate, 2),
                "seconds": round(each.seconds, 1),
                "cost": None if each.cost is None else round(each.cost, 4),
                "limit": each.limit,
                "busy": round(each.busy, 4),
            }
            for each in predictions
        ],
        "assumptions": list(ASSUMPTIONS),
    }


def scale_rows(predictions: Sequence[Prediction]) -> list[tuple[str, ...]]:
    """Return a row per prediction, under ``HEADERS``."""
    return [
        (
            str(each.nodes),
            f"{each.rate:.1f}",
            f"{each.seconds / 3600:.2f}",
            "-" if each.cost is None else f"{each.cost:.2f}",
            each.limit,
            f"{100 * each.busy:.0f} %",
        )
        for each in predictions
    ]
