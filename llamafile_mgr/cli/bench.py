"""``bench``: how fast a model embeds on this machine."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.model_names import complete_models
from llamafile_mgr.cli.numbers import FiniteRange
from llamafile_mgr.cli.output import count_of, format_table, print_json, print_line

if TYPE_CHECKING:
    from llamafile_mgr.benchmarking.measuring import BenchTarget, Cell
    from llamafile_mgr.benchmarking.reports import BenchReport
    from llamafile_mgr.bulk.scaling import ScaleRates

_MOST, _TEXTS = 1024, 600


def _read_numbers(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Return a list such as ``1,8,32`` as numbers."""
    words = [word.strip() for word in value.split(",")]
    if not all(word.isascii() and word.isdigit() and 1 <= int(word) <= _MOST for word in words):
        raise click.BadParameter(f"{value!r} is no list of numbers from 1 to {_MOST}, such as 1,8,32")
    return tuple(dict.fromkeys(int(word) for word in words))


@click.command("bench")
@click.argument("model", metavar="MODEL", shell_complete=complete_models)
@click.option(
    "--batch",
    "batches",
    default="1,8,32",
    show_default=True,
    callback=_read_numbers,
    help="Texts per request.",
)
@click.option(
    "--concurrency",
    "concurrencies",
    default="1,4,8",
    show_default=True,
    callback=_read_numbers,
    help="Requests at once.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 50),
    default=3,
    show_default=True,
    help="Rounds, of which the median counts.",
)
@click.option(
    "--seconds",
    type=FiniteRange(0.05, 600),
    default=2.0,
    show_default=True,
    help="How long each measurement begins requests.",
)
@click.option("--direct", is_flag=True, help="Measure the same engines without the proxy too.")
@click.option("--url", metavar="URL", help="Measure the llamafile-mgr that serves here.")
@click.option("--api-key", envvar="OPENAI_API_KEY", metavar="KEY", help="For --url.  [env: OPENAI_API_KEY]")
@click.option(
    "--chart",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the results to this .svg or .png file.",
)
@click.option("--scale", is_flag=True, help="Predict jobs of `embed --ray` on many such machines.")
@click.option(
    "--nodes",
    default="1,2,4,8,16",
    show_default=True,
    callback=_read_numbers,
    help="For --scale: how many machines.",
)
@click.option(
    "--texts",
    type=click.IntRange(1),
    default=1_000_000,
    show_default=True,
    help="For --scale: the texts of a job.",
)
@click.option("--price-per-hour", type=FiniteRange(0), help="For --scale: what a machine costs.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON (schema llamafile-mgr/bench/1, or bench-scale/1)."
)
@click.pass_obj
def command(
    context: Context,
    model: str,
    batches: tuple[int, ...],
    concurrencies: tuple[int, ...],
    rounds: int,
    seconds: float,
    direct: bool,
    url: str | None,
    api_key: str | None,
    chart: Path | None,
    scale: bool,
    nodes: tuple[int, ...],
    texts: int,
    price_per_hour: float | None,
    as_json: bool,
) -> None:
    """Measure texts a second and the latency of requests for MODEL, over batch x concurrency.

    A running serve with this model is asked over HTTP, else one is started; its cache is left aside. The
    texts are docstrings of Python's standard library, of mixed length. Rounds are interleaved, so that other
    work on the machine falls on all cells alike; still, stop it first.

    With --scale engines of this machine alone are measured once, at the largest batch and concurrency, as
    well as the disk; how many texts a second so many machines do is calculated, with all that is assumed.

    \b
    The JSON has for each target, batch and concurrency:
      texts_per_second (median of the rounds), slowest, fastest, p50_ms, p95_ms, requests

    \b
    Examples:
      llamafile-mgr bench all-minilm-l6-v2
      llamafile-mgr bench mxbai-embed-large-v1 --direct --chart speed.svg
      llamafile-mgr bench all-minilm-l6-v2 --batch 1,64 --concurrency 1,64 --rounds 5 --json
      llamafile-mgr bench all-minilm-l6-v2 --scale --nodes 1,8,64 --texts 100000000 --price-per-hour 0.34
    """
    from llamafile_mgr.benchmarking.charts import check_chart, write_chart
    from llamafile_mgr.benchmarking.measuring import Cell
    from llamafile_mgr.benchmarking.reports import HEADERS, report_json, table_rows
    from llamafile_mgr.benchmarking.targets import direct_engines
    from llamafile_mgr.bulk.engines import plan_embedder
    from llamafile_mgr.cli.interrupts import run_until_signal
    from llamafile_mgr.errors import UsageError

    if scale:
        if direct or url is not None or chart is not None:
            raise UsageError("--scale measures engines of its own: not with --direct, --url or --chart")
        _scale(
            context, model, max(batches), max(concurrencies), seconds, nodes, texts, price_per_hour, as_json
        )
        return
    if chart is not None:
        check_chart(chart)
    cells = [Cell(batch, concurrency) for batch in batches for concurrency in concurrencies]
    targets = [_open_proxy(context, model, url, api_key)]
    if direct:
        plan = plan_embedder(model, context.load_config(), context.paths)
        targets.append(direct_engines(plan, context.paths))
    work = _measure(targets, model, cells, rounds, seconds)
    report = run_until_signal(work, lambda: "interrupted; nothing is kept")
    if chart is not None:
        write_chart(report, chart)
    if as_json:
        print_json(report_json(report))
        return
    print_line(f"{report.model}: median of {count_of(rounds, 'round')} of {seconds:g} s")
    print_line(format_table(HEADERS, table_rows(report.results)))


def _scale(
    context: Context,
    model: str,
    batch: int,
    concurrency: int,
    seconds: float,
    nodes: tuple[int, ...],
    texts: int,
    price: float | None,
    as_json: bool,
) -> None:
    from llamafile_mgr.bulk.scaling import ASSUMPTIONS, HEADERS, predict, scale_json, scale_rows
    from llamafile_mgr.cli.interrupts import run_until_signal

    work = _measure_scale(context, model, batch, concurrency, seconds)
    rates = run_until_signal(work, lambda: "interrupted; nothing is kept")
    predictions = [predict(rates, texts, count, price) for count in nodes]
    if as_json:
        print_json(scale_json(model, rates, texts, predictions))
        return
    print_line(
        f"{model}: {rates.node:.1f} texts/s by this machine, ready after {rates.start_seconds:.1f} s; "
        f"the disk reads {rates.read:.0f}, keeps {rates.keep:.0f} and writes {rates.write:.0f} texts/s"
    )
    print_line(
        f"{texts} texts, {rates.batch} a request, {rates.concurrency} at once, kept by {rates.fragment}:"
    )
    print_line(format_table(HEADERS, scale_rows(predictions)))
    print_line("assumed:\n" + "\n".join(f"  {each}" for each in ASSUMPTIONS))


async def _measure_scale(
    context: Context, model: str, batch: int, concurrency: int, seconds: float
) -> ScaleRates:
    import asyncio
    import time

    from llamafile_mgr.benchmarking.texts import read_docstrings
    from llamafile_mgr.bulk import BulkJob, EmbedSettings, TextInput
    from llamafile_mgr.bulk.engines import plan_embedder
    from llamafile_mgr.bulk.rates import measure_rates
    from llamafile_mgr.cli.embed_sources import SourceOverrides, connect

    if plan_embedder(model, context.load_config(), context.paths).remotes:
        click.echo(f"{model}: its remotes take no part, since one machine is measured", err=True)
    texts = await asyncio.to_thread(read_docstrings, _TEXTS)
    sizes = BulkJob(TextInput(), batch=batch, concurrency=concurrency)
    began = time.monotonic()
    async with connect(context, SourceOverrides(model, own=True, remotes=False), EmbedSettings()) as source:
        started = time.monotonic() - began
        return await measure_rates(source, texts, sizes, seconds=seconds, start_seconds=started)


async def _measure(
    targets: Sequence[AbstractAsyncContextManager[BenchTarget]],
    model: str,
    cells: list[Cell],
    rounds: int,
    seconds: float,
) -> BenchReport:
    import asyncio

    from llamafile_mgr.benchmarking.measuring import measure
    from llamafile_mgr.benchmarking.reports import BenchReport
    from llamafile_mgr.benchmarking.texts import read_docstrings

    total = len(cells) * rounds * len(targets)
    numbers = itertools.count(1)

    def show(target: str, cell: Cell, number: int) -> None:
        where = f"batch {cell.batch}, concurrency {cell.concurrency}, round {number}"
        click.echo(f"{next(numbers)} of {total}: {target}, {where}", err=True)

    async with contextlib.AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(target) for target in targets]
        texts = await asyncio.to_thread(read_docstrings, _TEXTS)
        results = await measure(opened, cells, texts, rounds=rounds, seconds=seconds, observe=show)
    return BenchReport(model, rounds, seconds, len(texts), tuple(results))


@contextlib.asynccontextmanager
async def _open_proxy(
    context: Context, model: str, url: str | None, api_key: str | None
) -> AsyncIterator[BenchTarget]:
    """Ask the proxy at ``url``, for None one of this machine, which is started where none runs."""
    from llamafile_mgr.benchmarking.targets import proxy_at
    from llamafile_mgr.bulk.engines import plan_embedder
    from llamafile_mgr.endpoints.endpoint import aendpoint

    if url is not None:
        async with proxy_at(url, model, api_key) as target:
            yield target
        return
    name = plan_embedder(model, context.load_config(), context.paths).name
    async with (
        aendpoint(embed=model, generate=(), rerank=(), config_file=context.config_file) as endpoint,
        proxy_at(endpoint.url, name, endpoint.api_key) as target,
    ):
        yield target
