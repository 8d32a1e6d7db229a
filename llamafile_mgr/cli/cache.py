"""``cache``: what the exact cache of embeddings holds, and emptying it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.output import format_bytes, format_table, print_json, print_line, print_result

if TYPE_CHECKING:
    from llamafile_mgr.embedding.vector_cache import CacheFacts, VectorCache


@click.group("cache")
def command() -> None:
    """Show or clear the cache of embeddings.

    `serve` keeps the vectors of texts on this disk, so that an unchanged text is never embedded twice by
    the same model. No text is stored, only its digest. A vector space stands for everything that shapes a
    vector: entries of another model, prompt or engine generation are never used.

    \b
    Examples:
      llamafile-mgr cache stats
      llamafile-mgr cache clear
    """


@command.command("stats")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def stats(context: Context, as_json: bool) -> None:
    """Show how many vectors are kept, for which vector spaces, and what they take.

    \b
    Examples:
      llamafile-mgr cache stats
      llamafile-mgr cache stats --json
    """
    with _open(context) as cache:
        facts, limit = cache.facts(), cache.limit_bytes
    if as_json:
        print_json({**_describe(facts), "limit_bytes": limit})
        return
    bound = f"at most {format_bytes(limit)}" if limit else "off: serve.cache_bytes is 0"
    print_line(f"{facts.path}: {facts.entries} vectors, {format_bytes(facts.bytes)} ({bound})")
    if facts.spaces:
        print_line(format_table(("VECTOR SPACE", "VECTORS"), [(s, str(n)) for s, n in facts.spaces.items()]))


@command.command("clear")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def clear(context: Context, as_json: bool) -> None:
    """Drop every vector that is kept; a running `serve` goes on and fills it anew.

    \b
    Examples:
      llamafile-mgr cache clear
      llamafile-mgr cache clear --json
    """
    with _open(context) as cache:
        facts = cache.clear()
    text = f"cleared {facts.entries} vectors, {format_bytes(facts.bytes)}"
    print_result({"cleared": _describe(facts)}, text, as_json=as_json)


def _open(context: Context) -> closing[VectorCache]:
    from llamafile_mgr.embedding.vector_cache import VectorCache, cache_file

    return closing(VectorCache(cache_file(context.paths), context.load_config().serve.cache_bytes))


def _describe(facts: CacheFacts) -> dict[str, Any]:
    return {
        "path": facts.path,
        "entries": facts.entries,
        "bytes": facts.bytes,
        "vector_spaces": dict(facts.spaces),
    }
