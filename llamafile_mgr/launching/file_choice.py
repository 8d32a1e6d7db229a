"""Which of a model's files a pull takes that names the model alone. Blocks on the disk."""

from __future__ import annotations

from dataclasses import dataclass

from llamafile_mgr.catalog import Artifact, Catalog, Model
from llamafile_mgr.config import EnginesConfig
from llamafile_mgr.errors import ConfigError, IntegrityError, NotFoundError
from llamafile_mgr.launching.local_plans import find_site
from llamafile_mgr.paths import Paths
from llamafile_mgr.planner.file_types import FasterFile, fastest_file, file_types
from llamafile_mgr.planner.prospects import Prospect, Site
from llamafile_mgr.store import Store, StoredArtifact


@dataclass(frozen=True, slots=True)
class FileChoice:
    """The whole ``name`` of the file to pull, and ``why`` where there is something to tell."""

    name: str
    why: str | None = None


def choose_file(name: str, catalog: Catalog, paths: Paths, engines: EnginesConfig) -> FileChoice:
    """Return the file that ``name`` means to a pull on this machine.

    Of a model whose files differ in their type alone it is the one that is here already, since another one's
    vectors do not fit an index that was made with it; else the fastest with the engine that would run it. Of
    all others it is the recommended one, and what names a file means that file.
    """
    model = catalog.models.get(name)
    if model is None or len(types := file_types(model)) < 2:
        return FileChoice(name)
    here = _find(model.id, Store(paths.store))
    try:
        site = find_site(catalog, paths, engines=engines)
    except ConfigError:  # an engine of the settings that is none is told by whatever runs engines
        site = None
    if here is not None and any(each.name == here.artifact for each in types):
        artifact = model.artifact(here.artifact)
        return FileChoice(here.name, _tell_faster(model, artifact, site, here.name))
    first = model.artifacts[0]
    prospect = _plan(model, first, site)
    faster = _fastest(prospect, site)
    if prospect is None or faster is None:
        return FileChoice(f"{model.id}:{first.name}")
    chosen, engine = faster.artifact, prospect.plan.family.value
    why = (
        f"{chosen.quantisation} is about {faster.gain:.1f} times as fast as {first.quantisation} with the "
        f"{engine} engine here; the other file: llamafile-mgr pull {model.id}:{first.name}"
    )
    return FileChoice(f"{model.id}:{chosen.name}", why)


def stored_name(model: str, paths: Paths) -> str | None:
    """Return the whole name of the file that a model's name means here, None where the store has none."""
    entry = _find(model, Store(paths.store))
    return entry.name if entry is not None else None


def _tell_faster(model: Model, artifact: Artifact, site: Site | None, here: str) -> str | None:
    faster = _fastest(_plan(model, artifact, site), site)
    if faster is None:
        return None
    other = f"{model.id}:{faster.artifact.name}"
    return (
        f"{here} is here; {faster.artifact.quantisation} is about {faster.gain:.1f} times as fast with the "
        f"engine here, with other vectors: llamafile-mgr pull {other}, then serve {other} and index again"
    )


def _find(name: str, store: Store) -> StoredArtifact | None:
    try:
        return store.find(name, damaged_too=True)
    except (NotFoundError, IntegrityError):
        return None


def _plan(model: Model, artifact: Artifact, site: Site | None) -> Prospect | None:
    planned = site.plan((model, artifact)) if site is not None else ""
    return planned[0] if not isinstance(planned, str) else None


def _fastest(prospect: Prospect | None, site: Site | None) -> FasterFile | None:
    if site is None or prospect is None or prospect.plan.device != "cpu":
        return None
    plan = prospect.plan
    return fastest_file(prospect.model, prospect.artifact.quantisation, plan.family, site.machine.cpu)
