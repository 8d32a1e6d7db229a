"""``cache``: what the exact cache of embeddings holds, and emptying it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.output import format_bytes, format_table, print_json, print_line

if TYPE_CHECKING:
    from llamafile_mgr.embedding.vector_cache import CacheFacts, VectorCache

__all__ = ["command"]


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
    cache, limit = _open(context)
    facts = cache.facts()
    cache.close()
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
    cache, _ = _open(context)
    facts = cache.clear()
    cache.close()
    if as_json:
        print_json({"cleared": _describe(facts)})
    else:
        print_line(f"cleared {facts.entries} vectors, {format_bytes(facts.bytes)}")


def _open(context: Context) -> tuple[VectorCache, int]:
    from llamafile_mgr.embedding.vector_cache import VectorCache, cache_file

    limit = context.load_config().serve.cache_bytes
    return VectorCache(cache_file(context.paths), limit), limit


def _describe(facts: CacheFacts) -> dict[str, Any]:
    return {
        "path": str(facts.path),
        "entries": facts.entries,
        "bytes": facts.bytes,
        "vector_spaces": dict(facts.spaces),
    }
