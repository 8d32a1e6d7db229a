"""What is in a file: llamafiles, runtimes and GGUFs, read without running them, and written."""

from __future__ import annotations

from llamafile_mgr.engines.families import Family
from llamafile_mgr.llamafile.effects import ArgumentEffect, explain_arguments
from llamafile_mgr.llamafile.encoderfile import EncoderfileFacts, read_encoderfile
from llamafile_mgr.llamafile.gguf_facts import GgufFacts
from llamafile_mgr.llamafile.inspection import FileFacts, FileKind, Weights, inspect_file
from llamafile_mgr.llamafile.packing import pack

__all__ = [
    "ArgumentEffect",
    "EncoderfileFacts",
    "Family",
    "FileFacts",
    "FileKind",
    "GgufFacts",
    "Weights",
    "explain_arguments",
    "inspect_file",
    "pack",
    "read_encoderfile",
]
