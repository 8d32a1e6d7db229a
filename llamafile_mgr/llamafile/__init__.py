"""What is in a file: llamafiles, runtimes and GGUFs, read without running them, and written."""

from __future__ import annotations

from llamafile_mgr.engines.arguments import ArgumentSyntax, EmbeddedArguments, parse_arguments
from llamafile_mgr.engines.families import Family, family_of_version, parse_version
from llamafile_mgr.llamafile.effects import ArgumentEffect, explain_arguments
from llamafile_mgr.llamafile.encoderfile import EncoderfileFacts, read_encoderfile
from llamafile_mgr.llamafile.gguf_facts import GgufFacts
from llamafile_mgr.llamafile.inspection import FileFacts, FileKind, Weights, inspect_file
from llamafile_mgr.llamafile.packing import PackResult, pack

__all__ = [
    "ArgumentEffect",
    "ArgumentSyntax",
    "EmbeddedArguments",
    "EncoderfileFacts",
    "Family",
    "FileFacts",
    "FileKind",
    "GgufFacts",
    "PackResult",
    "Weights",
    "explain_arguments",
    "family_of_version",
    "inspect_file",
    "pack",
    "parse_arguments",
    "parse_version",
    "read_encoderfile",
]
