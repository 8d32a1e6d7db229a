"""Names of models on the command line: options that take them, what they ask for, and their completion."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from llamafile_mgr.errors import Error

if TYPE_CHECKING:
    from llamafile_mgr.cli.context import Context
    from llamafile_mgr.config import ServeConfig
    from llamafile_mgr.launching.wanted import ToldRoles, WantedModels

R = TypeVar("R")

#: What a path looks like before it is complete.
_PATH_STARTS = (".", "/", "~")


def role_options(verb: str) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Add an option for each role that a model may have; the command gets all of them as ``roles``.

    ``verb``: what is done with the models.
    """

    def add(command: Callable[..., R]) -> Callable[..., R]:
        @functools.wraps(command)
        def gather(*arguments: Any, **named: Any) -> R:
            from llamafile_mgr.catalog import Role

            # An option that is not given leaves its role to the settings.
            roles = {role: named.pop(role.value) or None for role in Role}
            return command(*arguments, roles=roles, **named)

        for role, calls in (("rerank", "reranking"), ("generate", "generation"), ("embed", "embedding")):
            gather = click.option(
                f"--{role}",
                multiple=True,
                metavar="MODEL",
                shell_complete=complete_models,
                help=f"{verb} this model for {calls} calls; may be repeated.  [default: serve.{role}]",
            )(gather)
        return gather

    return add


def engine_option(command: Callable[..., R]) -> Callable[..., R]:
    """Add the option for programs that run models; the command gets them as ``engine``, None without any."""
    return click.option(
        "--engine",
        multiple=True,
        metavar="PROGRAM",
        callback=lambda ctx, param, value: tuple(map(_anchor_program, value)) or None,
        shell_complete=complete_file,
        help="Run models with this llama-server or llama, a path or a name; may be repeated."
        "  [default: engines.programs]",
    )(command)


def _anchor_program(name: str) -> str:
    """Return a path that means the same from every directory, and the name of a program as it is."""
    return os.path.abspath(os.path.expanduser(name)) if os.path.dirname(name) else name


def read_models(
    context: Context,
    settings: ServeConfig,
    command: str,
    roles: ToldRoles,
    models: Sequence[str] = (),
    rest: str = "",
) -> WantedModels:
    """Return the models that ``llamafile-mgr COMMAND`` was asked for; ``rest`` follows them there.

    Raises:
        UsageError: none, or one for two roles.
    """
    from llamafile_mgr.launching.wanted import read_wanted

    wanted = read_wanted(settings, models, roles)
    if not wanted.models:
        from llamafile_mgr.cli.guidance import unnamed_model

        raise unnamed_model(context.paths, f"llamafile-mgr {command}", rest)
    return wanted


def complete_models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete what may be served: names of the store first, then the catalog's, and files."""
    if incomplete.startswith(_PATH_STARTS) or "/" in incomplete:
        return complete_file(ctx, param, incomplete)
    found = _matching([*_of_store(incomplete), *_guarded(_catalogued)], incomplete)
    return found or complete_file(ctx, param, incomplete)


def complete_stored(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete names of the store."""
    return _matching(_of_store(incomplete), incomplete)


def complete_pullable(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete names of the catalog, with those of single artifacts once a colon is there."""
    return _matching(_guarded(_artifacts if ":" in incomplete else _catalogued), incomplete)


def complete_file(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Leave it to the shell to complete a path."""
    return [CompletionItem(incomplete, type="file")]


def _of_store(incomplete: str) -> list[tuple[str, str]]:
    """Return names of models; those of single artifacts once a colon is there."""
    found = _guarded(_stored)
    return found if ":" in incomplete else [(name.partition(":")[0], text) for name, text in found]


def _matching(found: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    named: dict[str, str] = {}
    for name, text in found:
        if name.startswith(incomplete):
            named.setdefault(name, text)
    return [CompletionItem(name, help=text) for name, text in named.items()]


def _guarded(source: Callable[[], Iterator[tuple[str, str]]]) -> list[tuple[str, str]]:
    try:
        return list(source())
    except Error:
        return []  # a shell has no place for messages


def _stored() -> Iterator[tuple[str, str]]:
    from llamafile_mgr.paths import resolve_paths
    from llamafile_mgr.store import Store

    for entry in Store(resolve_paths().store).entries():
        yield entry.name, "in the store"


def _catalogued() -> Iterator[tuple[str, str]]:
    from llamafile_mgr.catalog import load_catalog

    catalog = load_catalog()
    for model in catalog.models.values():
        yield model.id, f"{model.role.value} model, {model.licence or 'licence unknown'}"
    for name in catalog.runtimes:
        yield name, "runtime"


def _artifacts() -> Iterator[tuple[str, str]]:
    from llamafile_mgr.catalog import load_catalog

    for model in load_catalog().models.values():
        for artifact in model.artifacts:
            yield f"{model.id}:{artifact.name}", artifact.kind.value
