"""llamafile up to 0.9.3 with ``--server``: the engine of the three embedding llamafiles of the post.

Flags and shapes: llamafile 0.8.4 and 0.9.3, ``llama.cpp/server/server.cpp``; their upstream twin, llama.cpp's
server of May 2024, runs in the tests. There is no
``--pooling`` and no ``-ub``; any ``-b`` shrinks the batch to 512; more than one slot nulls embeddings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from llamafile_mgr.catalog import Role
from llamafile_mgr.engines.engine_args import ExtraFlag, parse_flag_table
from llamafile_mgr.engines.family import EngineFamily
from llamafile_mgr.engines.known_bad import OLD_LLAMAFILE_ROWS, KnownBad, embeds
from llamafile_mgr.engines.launch_settings import LaunchSettings, given, gpu_flags, name_flags, thread_flags
from llamafile_mgr.engines.messages import EngineReply, EngineRequest, EngineVectors, json_request
from llamafile_mgr.errors import EngineError

#: ``engine_args``, from the parser of llamafile 0.8.4 and of llama.cpp's server of May 2024.
_EXTRA_FLAGS = parse_flag_table("""
    -tb --threads-batch int
    -n --n-predict int
    -gan --grp-attn-n int
    -gaw --grp-attn-w int
    -dt --defrag-thold float
    -ngl --gpu-layers --n-gpu-layers int
    -sm --split-mode text
    -ts --tensor-split text
    -mg --main-gpu int
    -nkvo --no-kv-offload
    -cb --cont-batching
    -fa --flash-attn
    --mlock
    --no-mmap
    --numa text
    --override-kv text !
""")


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
        # Until June 2024 pieces of words were taken for special tokens and looked for in the text first:
        # 'hello world' became 'hello' and '##world', cosine 0.865 (run on the server of May 2024).
        KnownBad(
            "WordPiece",
            "its engine {version} cuts about 4 % of English texts into wrong tokens with BERT models",
            lambda c: embeds(c) and c.word_pieces,
        ),
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
    feature_flags: ClassVar = {
        "cache_type_k": "--cache-type-k",
        "cache_type_v": "--cache-type-v",
        "rope_scaling": "--rope-scaling",
        "rope_freq_base": "--rope-freq-base",
        "rope_freq_scale": "--rope-freq-scale",
        "yarn_ext_factor": "--yarn-ext-factor",
        "yarn_attn_factor": "--yarn-attn-factor",
        "yarn_beta_fast": "--yarn-beta-fast",
        "yarn_beta_slow": "--yarn-beta-slow",
        "chat_template": "--chat-template",
    }
    #: Seen on llama.cpp's server of May 2024: a GGUF adapter has a "bad file magic" to it, and a quantised
    #: value cache ends it with an assertion, since flash attention is off.
    feature_notes: ClassVar = {
        "mmproj": "its chat route takes no images",
        "lora": "it reads adapters of the format before GGUF alone",
    }
    cache_types = frozenset({"f32", "f16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"})
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
        slots = 1 if embedding else settings.slots
        return (
            *("--server", "--nobrowser", "--host", settings.host, "--port", str(settings.port)),
            *given("-m", settings.model),
            *("-c", str(settings.context * slots), *thread_flags(settings)),
            *(("--embedding",) if embedding else ()),
            *("-np", str(slots)),
            *gpu_flags(settings),
            *name_flags(settings),
        )

    @property
    def extra_flags(self) -> Mapping[str, ExtraFlag]:
        """Return what ``engine_args`` may hold."""
        return _EXTRA_FLAGS

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
