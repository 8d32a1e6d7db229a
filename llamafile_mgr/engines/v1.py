"""llamafile up to 0.9.3 with ``--server``: the engine of the three embedding llamafiles of the post.

Flags and shapes: llamafile 0.8.4 and 0.9.3, ``llama.cpp/server/server.cpp``; their upstream twin, llama.cpp's
server of May 2024, runs in the tests. There is no
``--pooling`` and no ``-ub``; any ``-b`` shrinks the batch to 512; more than one slot nulls embeddings.
"""

from __future__ import annotations

import re
from typing import ClassVar

from llamafile_mgr.catalog import Role
from llamafile_mgr.engines.family import EngineFamily
from llamafile_mgr.engines.known_bad import OLD_LLAMAFILE_ROWS, KnownBad, embeds
from llamafile_mgr.engines.launch_settings import LaunchSettings, given, gpu_flags, name_flags, thread_flags
from llamafile_mgr.engines.messages import EngineReply, EngineRequest, EngineVectors, json_request
from llamafile_mgr.errors import EngineError

__all__ = ["V1"]


class V1(EngineFamily):
    """Rules of the classic server.

    It serves a list one text after another, and one of a single text has another shape. It answers
    ``/health`` from 0.6.2 on; the port stays closed while the model loads.
    """

    releases = ((0, 0, 0), (0, 10, 0))
    #: Releases up to 0.9 carry the sources of their GPU code.
    member_mark = re.compile(r"(?:llamafile|llama\.cpp)/.*\.(?:cu|m|metal)")
    known_bad = (
        *OLD_LLAMAFILE_ROWS,
        KnownBad(
            "embeddings refused",
            "its engine {version} refuses embeddings",
            embeds,
            first=(0, 8, 13),
            last=(0, 9, 3),
        ),
        KnownBad("embeddings wrong", "its engine {version} gives wrong vectors", embeds, last=(0, 8, 1)),
        KnownBad(
            "automatic end of sequence",
            "its engine {version} aborts on models that ask for an automatic end of sequence",
            lambda c: c.ends_sequences,
            first=(0, 8, 1),
            last=(0, 9, 3),
        ),
    )
    flag_notes: ClassVar = {
        **EngineFamily.flag_notes,
        "-np": "more than one slot gives null or swapped embeddings in engines before 0.10",
        "-b": "can only shrink the batch here (to 512 at most): longer texts then give null embeddings",
    }
    loads_gpu_modules = False
    no_batch_why = "passing a batch could only shrink it in this engine"
    #: It cannot be told a batch and aborts on a BERT text above this.
    fixed_batch = 512
    one_slot = True
    vector_space = "v1"
    ends_sequences = False
    cuts_full_context = True
    counts_special_tokens = False
    missing_routes = frozenset({"/v1/completions", "/v1/responses"})
    #: It waits in the same queue as the work (run on llama.cpp's server of May 2024; 0.8.4 and 0.9.3 have the
    #: same code).
    health_while_computing = False

    def arguments(self, settings: LaunchSettings) -> tuple[str, ...]:
        """Return the flags after the program's name."""
        embedding = settings.role is Role.EMBED
        return (
            *("--server", "--nobrowser", "--host", settings.host, "--port", str(settings.port)),
            *given("-m", settings.model),
            *("-c", str(settings.context), *thread_flags(settings)),
            *(("--embedding", "-np", "1") if embedding else ("-np", str(settings.slots))),
            *gpu_flags(settings),
            *name_flags(settings),
        )

    def read_vectors(self, reply: EngineReply, count: int) -> EngineVectors:
        """Return the vector.

        Raises:
            EngineError: no vector, or the fixed 503 of 0.8.13 to 0.9.3, which never ends.
        """
        if reply.status == 503 and reply.content_type.startswith("text/plain"):
            raise EngineError(
                "this engine never answers embeddings",
                cause="llamafile 0.8.13 to 0.9.3 refuse them in --server with a 503 that looks like 'busy'",
                hint="run the weights on a llamafile runtime of 0.10 or later",
            )
        return super().read_vectors(reply, count)

    def tokenize(self, text: str, *, special: bool = True, pieces: bool = False) -> EngineRequest:
        """Return the request for the ids, which are those without special tokens whatever is asked for."""
        return json_request("/tokenize", {"content": text})
