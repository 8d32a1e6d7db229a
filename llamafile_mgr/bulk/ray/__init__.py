"""Many machines through Ray: whole jobs that survive interruption, and a step of a Ray Data pipeline."""

from __future__ import annotations

from llamafile_mgr.bulk.ray.cluster import RayCluster, check_address
from llamafile_mgr.bulk.ray.datasets import embed_dataset
from llamafile_mgr.bulk.ray.jobs import run_on_ray

__all__ = ["RayCluster", "check_address", "embed_dataset", "run_on_ray"]
