"""The dialects that are served, in the order in which they are asked whose body came to a shared route."""

from __future__ import annotations

from llamafile_mgr.proxy.dialects.cohere import COHERE
from llamafile_mgr.proxy.dialects.dialect import Dialect
from llamafile_mgr.proxy.dialects.llamafile import LLAMAFILE
from llamafile_mgr.proxy.dialects.ollama import OLLAMA
from llamafile_mgr.proxy.dialects.openai import OPENAI
from llamafile_mgr.proxy.dialects.tei import TEI

DIALECTS: tuple[Dialect, ...] = (COHERE, TEI, LLAMAFILE, OPENAI, OLLAMA)
