"""``embed``: texts of a file into vectors of a file."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.model_names import complete_file, complete_models
from llamafile_mgr.cli.numbers import FiniteRange
from llamafile_mgr.cli.output import print_json

if TYPE_CHECKING:
    from llamafile_mgr.bulk import BulkJob, JobReport
    from llamafile_mgr.bulk.checkpoints import FinishedFragment
    from llamafile_mgr.bulk.ray import RayCluster
    from llamafile_mgr.cli.embed_sources import SourceOverrides

_INEXACT = (
    "its engines compute several texts together, or some are of other machines: the last bits of vectors "
    "may differ from run to run (--exact gives equal bytes)"
)


@click.command("embed")
@click.argument("files", nargs=-1, metavar="[FILE...|-]", shell_complete=complete_file)
@click.option(
    "-t", "--text", "texts", multiple=True, metavar="TEXT", help="Embed this text; may be repeated."
)
@click.option(
    "-m",
    "--model",
    metavar="MODEL",
    shell_complete=complete_models,
    help="The embedding model.  [default: the one that is served]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write a .jsonl, .npy or .parquet file, or a folder of Parquet files when it has no suffix; "
    "standard output gets JSON lines.",
)
@click.option("--url", metavar="URL", help="Ask the llamafile-mgr that serves here.")
@click.option("--api-key", envvar="OPENAI_API_KEY", metavar="KEY", help="For --url.  [env: OPENAI_API_KEY]")
@click.option("--own", is_flag=True, help="Start engines for this job alone, also when a serve runs.")
@click.option("--exact", is_flag=True, help="Start engines that give equal texts equal bytes, slow on a GPU.")
@click.option(
    "--ray",
    "ray_address",
    is_flag=False,
    flag_value="local",
    metavar="[ADDRESS]",
    help="Share the job among the nodes of a Ray cluster: HOST:PORT, auto or local.",
)
@click.option("--ray-cpus", type=FiniteRange(0.01), default=1.0, help="Processors to claim per node.")
@click.option("--ray-gpus", type=click.IntRange(0), help="GPUs to claim per node.  [default: all it has]")
@click.option("--tune", is_flag=True, help="Let nodes that never did measure their fastest settings first.")
@click.option("--input-type", type=click.Choice(["query", "document", "none"]), help="Which prompt to add.")
@click.option(
    "--truncate",
    type=click.Choice(["error", "right", "left", "chunk"]),
    default="error",
    show_default=True,
    help="What happens to texts that are too long.",
)
@click.option(
    "--dimensions", type=click.IntRange(min=1), help="Cut vectors, if the model was trained for it."
)
@click.option("--task", metavar="TEXT", help="For models whose prompt names a task.")
@click.option(
    "--cache", is_flag=True, help="Use serve's cache of known texts; the last bits may then differ."
)
@click.option(
    "--input-format",
    type=click.Choice(["txt", "jsonl", "csv", "tsv", "parquet"]),
    help="What FILE holds, when its name does not say so.",
)
@click.option("--text-column", metavar="NAME", help="[default: text, content, body, document, passage, ...]")
@click.option("--id-column", metavar="NAME", help="[default: id, _id, doc_id, else the line's number]")
@click.option(
    "--batch", type=click.IntRange(1, 4096), default=32, show_default=True, help="Texts per request."
)
@click.option(
    "--concurrency", type=click.IntRange(1, 256), default=4, show_default=True, help="Requests at once."
)
@click.option(
    "--keep-every",
    "fragment",
    type=click.IntRange(1, 100_000),
    help="Texts after which what is done is kept.  [default: 128, of a folder 1024]",
)
@click.option("--overwrite", is_flag=True, help="Replace an output that is there.")
@click.option("--restart", is_flag=True, help="Forget what an interrupted run has done.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON; needs --output.")
@click.pass_obj
def command(
    context: Context,
    files: tuple[str, ...],
    texts: tuple[str, ...],
    model: str | None,
    output: Path | None,
    url: str | None,
    api_key: str | None,
    own: bool,
    exact: bool,
    ray_address: str | None,
    ray_cpus: float,
    ray_gpus: int | None,
    tune: bool,
    input_type: str | None,
    truncate: str,
    dimensions: int | None,
    task: str | None,
    cache: bool,
    input_format: str | None,
    text_column: str | None,
    id_column: str | None,
    batch: int,
    concurrency: int,
    fragment: int | None,
    overwrite: bool,
    restart: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Embed the texts of FILEs (.txt: one a line, .jsonl, .csv, .tsv, .parquet), of standard input or --text.
    A FILE may be a folder (all such files below it), a pattern in quotes such as 'corpus/*.jsonl', or a URL
    such as s3://bucket/corpus/*.parquet, when fsspec (extra ray) and its s3fs are installed. With several,
    texts without an id are named FILE:NUMBER.

    An output without a suffix is a folder: it gets a Parquet file for every --keep-every texts of one FILE,
    as soon as they are done, and _meta.json at the end. Ids are texts there.

    A running serve that has the model is asked; otherwise engines are started for the job. With --output an
    interrupted job goes on where it stopped when the same command is run again. Its output has the same bytes
    as that of a job that was never interrupted, when the engines compute one text at a time: engines started
    for the job do, on a GPU with --exact; a serve does with `slots = 1`; remotes of the settings do not, and
    take no part with --exact. --json says so as "exact".

    --ray shares a job with --output among the nodes of a Ray cluster, which have llamafile-mgr installed too:
    each plans for its own machine and pulls the model when it does not have it. What a lost node had goes to
    the others; nodes with other vectors leave the job. Nodes use what `tune` has measured on them, and --tune
    lets them measure once. Write --ray=ADDRESS, or --ray behind FILE.

    Texts that fail do not end the job: the output names them, and the exit code is 18. When the input, the
    settings or the vector space changed since the job was begun, the exit code is 17.

    \b
    Examples:
      llamafile-mgr embed --model mxbai-embed-large-v1 corpus.jsonl -o vectors.npy --input-type document
      llamafile-mgr embed --model all-minilm-l6-v2 --text "hello world"
      llamafile-mgr embed --ray=10.0.0.1:6379 -m mxbai-embed-large-v1 s3://bucket/corpus/ -o vectors/
      cut -f2 questions.tsv | llamafile-mgr embed --url http://gpu-box:8080 - -o questions.parquet
    """
    from llamafile_mgr.bulk import BulkJob, EmbedSettings, InputForm, TextInput
    from llamafile_mgr.bulk.inputs import find_inputs
    from llamafile_mgr.cli.embed_sources import SourceOverrides
    from llamafile_mgr.embedding.requests import InputType, Truncation
    from llamafile_mgr.errors import UsageError

    cluster = None
    if ray_address is not None:
        from llamafile_mgr.bulk.ray import RayCluster, check_address

        cluster = RayCluster(check_address(ray_address), ray_cpus, ray_gpus)
    if tune and cluster is None:
        raise UsageError("--tune is for the nodes of --ray", hint="on this machine: llamafile-mgr tune MODEL")
    if bool(texts) == bool(files):
        raise UsageError("embed what?", hint="name files, - for standard input, or --text")
    if as_json and output is None:
        raise UsageError("--json needs --output", hint="without it the vectors themselves are JSON lines")
    settings = EmbedSettings(
        InputType(input_type) if input_type else None, Truncation(truncate), dimensions, task, cache
    )
    like = TextInput(
        form=InputForm(input_format) if input_format else None,
        text_column=text_column,
        id_column=id_column,
    )
    source = find_inputs(files, like, output) if files else TextInput(texts=texts)
    sizes = (batch, concurrency, fragment or _keep_every(output))
    job = BulkJob(source, output, settings, *sizes, overwrite, restart)
    overrides = SourceOverrides(model, url, api_key, own or exact, exact)
    if cluster is None:
        report = _run(context, job, overrides, quiet)
    else:
        report = _run_on_ray(context, job, overrides, cluster, tune, quiet)
    _finish(report, output, as_json)


def _keep_every(output: Path | None) -> int:
    """Return how many texts are kept together: in a folder they make a file, and many small ones are slow."""
    from llamafile_mgr.bulk.writers import OutputForm, output_form

    return 1024 if output is not None and output_form(output) is OutputForm.FOLDER else 128


def _run(context: Context, job: BulkJob, overrides: SourceOverrides, quiet: bool) -> JobReport:
    from llamafile_mgr.bulk.job import check_job, run_job, stream_job
    from llamafile_mgr.cli.embed_sources import connect
    from llamafile_mgr.cli.interrupts import run_until_signal
    from llamafile_mgr.cli.progress import TextDisplay

    check_job(job)
    again = "run the same command again and it goes on from there"
    kept = f"interrupted; {again if job.output else 'nothing is kept without --output'}"
    with TextDisplay(quiet=quiet) as display:
        source = connect(context, overrides, job.settings, display.say)

        async def work() -> JobReport:
            async with source as vectors:
                display.say(f"embedding with {vectors.model}, vector space {vectors.vector_space}")
                if not vectors.exact and job.output is not None:
                    display.say(_INEXACT)
                if job.output is None:
                    return await stream_job(
                        job, vectors, partial(_write_lines, vectors.vector_space), display
                    )
                return await run_job(job, vectors, display)

        report = run_until_signal(work(), lambda: kept)
        if job.output is not None:
            display.finish(report, job.output)
        return report


def _run_on_ray(
    context: Context, job: BulkJob, overrides: SourceOverrides, cluster: RayCluster, tune: bool, quiet: bool
) -> JobReport:
    from llamafile_mgr.benchmarking.tune_runs import tune_once
    from llamafile_mgr.bulk.job import check_job
    from llamafile_mgr.bulk.nodes import node_source, predict_space
    from llamafile_mgr.bulk.ray import run_on_ray
    from llamafile_mgr.cli.embed_sources import name_model
    from llamafile_mgr.cli.interrupts import run_until_signal
    from llamafile_mgr.cli.progress import TextDisplay
    from llamafile_mgr.errors import UsageError
    from llamafile_mgr.launching.file_choice import stored_name

    if job.output is None or overrides.url is not None:
        raise UsageError("--ray needs --output, and does not go with --url")
    check_job(job)
    model = name_model(context, overrides.model)
    space, golden = predict_space(model, context.load_config(), context.paths)
    kept = "interrupted; run the same command again and it goes on from there"
    # Ray prints pages about every lost node to standard output, with no switch to stop it.
    with (
        TextDisplay(quiet=quiet) as display,
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        first = tune_once if tune else None
        file = stored_name(model, context.paths)
        connect = partial(node_source, model, job.settings, file=file, exact=overrides.exact, tune=first)
        work = run_on_ray(
            job,
            cluster,
            connect,
            vector_space=space,
            reference=golden,
            observe=display,
            say=display.say,
        )
        report = run_until_signal(work, lambda: kept)
        display.finish(report, job.output)
        return report


def _write_lines(vector_space: str, part: FinishedFragment) -> None:
    from llamafile_mgr.bulk.writers import render_lines

    sys.stdout.buffer.writelines(render_lines(part, vector_space))
    sys.stdout.buffer.flush()


def _finish(report: JobReport, output: Path | None, as_json: bool) -> None:
    from llamafile_mgr.errors import IncompleteError

    if as_json:
        print_json({"output": str(output), **dataclasses.asdict(report)})
    if report.failed:
        raise IncompleteError(
            f"{report.failed} of {report.texts} texts have no vector",
            hint=f"{output or 'the output'} says of each why",
        )
