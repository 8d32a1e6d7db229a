"""Files in, vectors out: jobs that survive interruption and end with the same bytes."""

from __future__ import annotations

from llamafile_mgr.bulk.engines import own_engines, plan_alone
from llamafile_mgr.bulk.job import BulkJob, JobProgress, JobReport, embed_file
from llamafile_mgr.bulk.proxies import running_proxy
from llamafile_mgr.bulk.readers import InputForm, TextInput
from llamafile_mgr.bulk.vector_sources import EmbedSettings, VectorSource

__all__ = [
    "BulkJob",
    "EmbedSettings",
    "InputForm",
    "JobProgress",
    "JobReport",
    "TextInput",
    "VectorSource",
    "embed_file",
    "own_engines",
    "plan_alone",
    "running_proxy",
]
