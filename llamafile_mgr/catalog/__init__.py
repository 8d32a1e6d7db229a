"""What can be pulled: models, their artifacts and the bare runtimes, from ``models.toml``."""

from __future__ import annotations

from llamafile_mgr.catalog.catalog_entries import Artifact, ArtifactKind, Catalog, Model, Pooling, Role
from llamafile_mgr.catalog.golden import load_golden
from llamafile_mgr.catalog.loading import load_catalog

__all__ = [
    "Artifact",
    "ArtifactKind",
    "Catalog",
    "Model",
    "Pooling",
    "Role",
    "load_catalog",
    "load_golden",
]
