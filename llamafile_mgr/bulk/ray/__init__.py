"""Many machines through Ray: whole jobs that survive interruption, and a step of a Ray Data pipeline."""

from __future__ import annotations

from llamafile_mgr.bulk.ray.cluster import RayCluster, check_address
from llamafile_mgr.bulk.ray.datasets import embed_dataset
from llamafile_mgr.bulk.ray.jobs import Connect, run_on_ray

__all__ = ["Connect", "RayCluster", "check_address", "embed_dataset", "run_on_ray"]
