"""``serve``: run models behind the local proxy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.model_names import complete_models, engine_option, read_models, role_options
from llamafile_mgr.cli.output import drop_output, print_json_line, print_line

if TYPE_CHECKING:
    from llamafile_mgr.config import Config
    from llamafile_mgr.launching.wanted import ToldRoles
    from llamafile_mgr.planner.plans import Plan
    from llamafile_mgr.proxy.serving import Announcements
    from llamafile_mgr.supervisor.snapshots import PoolSnapshot

P = ParamSpec("P")


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...", shell_complete=complete_models)
@role_options("Serve")
@engine_option
@click.option("--host", metavar="ADDRESS", help="Listen here; loopback only.  [default: 127.0.0.1 and ::1]")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Listen on this port, 0 for any.  [default: 8080]"
)
@click.option("--no-cache", is_flag=True, help="Neither keep vectors of texts nor use those kept before.")
@click.option("--json", "as_json", is_flag=True, help="Print events as JSON lines.")
@click.option("--verbose", is_flag=True, help="Log every step to standard error.")
@click.option("--leased", metavar="KEY", hidden=True, help="Go into the background for users with leases.")
@click.pass_obj
def command(
    context: Context,
    models: tuple[str, ...],
    roles: ToldRoles,
    engine: tuple[str, ...] | None,
    host: str | None,
    port: int | None,
    no_cache: bool,
    as_json: bool,
    verbose: bool,
    leased: str | None,
) -> int:
    """Start engines for MODELs and one proxy in front of them, and keep them running.

    MODEL is a name from `llamafile-mgr list` or the path of a llamafile or GGUF. It may need no role: the
    catalog or the file tells whether it embeds, generates or reranks. The first model of a role is its
    default. Calls that arrive while a model loads wait.

    \b
    Examples:
      llamafile-mgr serve --embed mxbai-embed-large-v1
      llamafile-mgr serve --embed all-minilm-l6-v2 --generate ./Qwen3.5-2B-Q8_0.llamafile
      llamafile-mgr serve --embed mxbai-embed-large-v1 --rerank ./bge-reranker-v2-m3-Q8_0.gguf
      llamafile-mgr serve all-minilm-l6-v2 --engine ~/llama.cpp/build/bin/llama-server
      llamafile-mgr serve all-minilm-l6-v2 --port 0 --no-cache --json
    """
    from llamafile_mgr.endpoints.detaching import detach, starter_is_gone

    if leased is not None:
        detach()  # before threads and loops exist, which do not survive it
    from llamafile_mgr.catalog import Role
    from llamafile_mgr.endpoints.sharing_terms import for_users
    from llamafile_mgr.errors import Error
    from llamafile_mgr.launching.local_plans import make_plans
    from llamafile_mgr.launching.unmatched import unmatched_settings
    from llamafile_mgr.proxy.leases import LeaseTerms
    from llamafile_mgr.proxy.serving import serve
    from llamafile_mgr.supervisor.asking import tell_error

    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    flags: dict[str, object] = {"serve.host": host, "serve.port": port, "engines.programs": engine}
    flags["serve.cache_bytes"] = 0 if no_cache else None
    # What is named here takes the place of the settings' models, whatever becomes of these.
    flags |= {f"serve.{role.value}": () if models else roles.get(role) for role in Role}

    def read() -> Config:
        config = context.load_config(flags)
        return for_users(config) if leased is not None else config

    wanted = read_models(context, read().serve, "serve", roles, models)

    def plan(config: Config) -> Sequence[Plan]:
        plans = make_plans(wanted, config, context.paths)
        told = [f"{each.name}: {warning}" for each in plans for warning in each.warnings]
        for text in (*told, *unmatched_settings(config, plans, context.paths)):
            logging.getLogger("llamafile_mgr.serve").warning("%s", text)
        return plans

    terms = LeaseTerms(leased, starter_is_gone) if leased is not None else None
    try:
        return serve(read, plan, context.paths, _announcements(as_json), terms)
    except Error as error:
        if as_json:
            print_json_line({"event": "failed", **tell_error(error)})
        raise


def _announcements(as_json: bool) -> Announcements:
    from llamafile_mgr.proxy.serving import Announcements

    if as_json:
        return Announcements(
            listening=_said(lambda url: print_json_line({"event": "listening", "url": url})),
            ready=_said(lambda url, pools: print_json_line(_ready_event(url, pools))),
            stopping=_said(lambda: print_json_line({"event": "stopping"})),
        )
    return Announcements(
        listening=_said(lambda url: print_line(f"listening on {url}, starting engines (Ctrl-C stops)")),
        ready=_said(_print_ready),
        stopping=_said(lambda: print_line("stopping")),
    )


def _said(announce: Callable[P, None]) -> Callable[P, None]:
    """Go on without a word where nobody reads: a closed terminal must not cut the calls of others."""

    def say(*arguments: P.args, **named: P.kwargs) -> None:
        try:
            announce(*arguments, **named)
        except OSError:
            drop_output()

    return say


def _ready_event(url: str, pools: Sequence[PoolSnapshot]) -> dict[str, Any]:
    """Return the event: ``models`` has the first model of each role, ``served`` all of them."""
    from llamafile_mgr.proxy.leases import find_defaults

    served = [{"model": pool.model, "role": pool.role, "ready": pool.ready} for pool in pools]
    return {"event": "ready", "url": url, "models": find_defaults(pools), "served": served}


def _print_ready(url: str, pools: Sequence[PoolSnapshot]) -> None:
    for pool in pools:
        state = "ready" if pool.ready else "starts at its first call"
        print_line(f"{state}: {pool.model} ({pool.role})")
    print_line(f"OpenAI clients: base URL {url}/v1 · llamafile clients: {url}")
