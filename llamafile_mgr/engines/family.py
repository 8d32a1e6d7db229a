"""What an engine family is: every fact about one kind of engine program, and how it is told and asked.

Each family is one object in one file of this room, and its row in ``families.py`` is the only other place
that names it. The values here are those of a llamafile that is known for nothing special.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from llamafile_mgr.catalog import Pooling, Role
from llamafile_mgr.engines.known_bad import Candidate, KnownBad, Version
from llamafile_mgr.engines.launch_settings import LaunchSettings
from llamafile_mgr.engines.messages import EngineReply, EngineRequest, EngineVectors, json_request
from llamafile_mgr.engines.replies import read_json, stack_vectors
from llamafile_mgr.engines.toolbox import InstalledProgram, Toolbox
from llamafile_mgr.errors import EngineError

__all__ = ["EngineFamily"]

MIB = 1 << 20


class EngineFamily(ABC):
    """One kind of engine program; pure, without sockets."""

    # --- what tells it ---------------------------------------------------------------------------
    #: llamafile releases whose ``--server`` is this engine: the first, and the first that is not any more.
    releases: tuple[Version, Version | None] | None = None
    #: llamafile releases that also carry it, for the roles that are asked of it: the first and the last.
    also_in: tuple[Version, Version] | None = None
    also_for: frozenset[Role] = frozenset()
    #: Bytes in the head of a file that starts it, and names of ZIP members that only its releases have.
    head_mark: bytes | None = None
    member_mark: re.Pattern[str] | None = None

    #: Programs of the system that start it, each with the words behind its name.
    program_names: tuple[tuple[str, ...], ...] = ()

    # --- how it starts ---------------------------------------------------------------------------
    #: Whether the file that holds it is the program that runs.
    is_in_file: bool = True
    #: Whether a bare runtime of it is given other files' weights.
    runs_other_weights: bool = False
    #: Whether it finds the weights inside a llamafile that is given with ``-m``.
    reads_llamafiles: bool = True
    #: Why it is taken out of the file that holds it.
    own_why: str = "the file's own engine can do it"
    #: What to do where nothing that is installed runs a model.
    install_hint: str | None = None
    #: A runtime of this package's own, to pack weights onto.
    made_runtime: bytes | None = None
    known_bad: tuple[KnownBad, ...] = ()

    # --- its ``.args`` ---------------------------------------------------------------------------
    #: Whether ``.args`` of a file of unknown release are read as a shell reads words.
    reads_shell_words: bool = False
    #: What stands in front of the name of weights in the file.
    weights_prefix: str = ""
    #: Flags of other families that it refuses to start with.
    refused_flags: frozenset[str] = frozenset()
    #: Flag -> what is wrong with it here, where its value deserves a warning.
    flag_notes: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"-ngl": "asks for a GPU; where none is found these engines warn and run on the CPU"}
    )

    # --- memory and GPUs -------------------------------------------------------------------------
    #: The engine without a model and the requests that it holds, and what it holds of embedding requests.
    base_bytes: int = 64 * MIB
    request_bytes: int = 0
    uses_gpus: bool = True
    #: What stays free on a GPU.
    gpu_margin: int = 512 * MIB
    #: Whether its GPU code lies in libraries that it brings, and not in itself.
    loads_gpu_modules: bool = True
    #: Whether it fits the layers to the GPU's memory itself.
    fits_layers: bool = False

    # --- sizes -----------------------------------------------------------------------------------
    #: Why no physical batch is passed, None where it is, and the largest that an encoder's text may fill.
    no_batch_why: str | None = None
    fixed_batch: int | None = None
    #: More than one slot divides the context and nulls embeddings.
    one_slot: bool = False
    takes_flash_attention: bool = False
    #: Whether it computes flash attention on the processor too.
    flash_attention_on_cpu: bool = False
    #: Whether it keeps finished conversations in memory, up to 8 GiB unless told otherwise.
    keeps_conversations: bool = False

    # --- texts and vectors -----------------------------------------------------------------------
    #: Families of one name give vectors of one space.
    vector_space: str
    #: How many texts one embedding request may carry.
    max_texts: int = 1
    #: Whether it ends texts with the end of sequence where the file asks for it.
    ends_sequences: bool = True
    #: Whether a text that fills its context is cut.
    cuts_full_context: bool = False
    #: Whether ``/tokenize`` counts special tokens, and whether it tells the texts of ids.
    counts_special_tokens: bool = True
    tells_token_texts: bool = False

    # --- HTTP ------------------------------------------------------------------------------------
    #: Whether ``--port 0`` makes the engine take a free port and print it.
    picks_port: bool = False
    #: Routes of the newest servers that it does not have.
    missing_routes: frozenset[str] = frozenset()
    #: Whether the health route answers while texts are computed, and not only once they are.
    health_while_computing: bool = True

    def serves_in(self, version: Version) -> bool:
        """Tell whether ``--server`` of this llamafile release starts this family."""
        if self.releases is None:
            return False
        first, end = self.releases
        return first <= version and (end is None or version < end)

    def find_known_bad(self, candidate: Candidate) -> KnownBad | None:
        """Return the first row that fits, those that fail before those that are slow; None for a good one."""
        rows = [row for row in self.known_bad if row.fits(candidate)]
        return min(rows, key=lambda row: row.slow, default=None)

    def installed_programs(self, toolbox: Toolbox) -> tuple[InstalledProgram, ...]:
        """Return the engines of this family that are no files in the store, the preferred one first."""
        names = {" ".join(words) for words in self.program_names}
        return tuple(program for program in toolbox.programs if program.name in names)

    def read_version(self, text: str) -> str | None:
        """Return the version that a program of the system prints, None for one of no such family."""
        return None

    def read_flags(self, text: str) -> frozenset[str]:
        """Return what the help of such a program lists, as ``LaunchSettings.known_flags`` holds it."""
        return frozenset()

    def read_devices(self, text: str) -> tuple[str, ...]:
        """Return the GPUs that such a program lists, a line for each."""
        return ()

    def find_lack(self, program: InstalledProgram, role: Role, pooling: Pooling | None) -> str | None:
        """Return why a program of the system cannot serve this role, None when it can."""
        return None

    def environment(self, toolbox: Toolbox) -> dict[str, str]:
        """Return the variables that this family needs beside those of every engine."""
        return {}

    @abstractmethod
    def arguments(self, settings: LaunchSettings) -> tuple[str, ...]:
        """Return the flags after the program's name."""

    def health(self) -> EngineRequest:
        """Return the cheapest request that an engine answers once its model is loaded."""
        return EngineRequest("GET", "/health")

    def embed(self, texts: Sequence[str]) -> EngineRequest:
        """Return the request for the vectors of at most ``max_texts`` texts."""
        return json_request("/embedding", {"content": texts[0]})

    def read_vectors(self, reply: EngineReply, count: int) -> EngineVectors:
        """Return the vectors of a reply to ``embed``; the body ``null`` is a failure under HTTP 200.

        Raises:
            EngineError: anything but ``count`` vectors of one width, or one of a text that was cut.
        """
        body = read_json(reply)
        if not isinstance(body, dict):
            raise EngineError("the engine answered 200 without a vector")
        used, provided = body.get("tokens_used"), body.get("tokens_provided")
        if isinstance(used, int) and isinstance(provided, int) and used < provided:
            raise EngineError(f"the engine read {used} of the text's {provided} tokens")
        vectors = stack_vectors([body.get("embedding")], count)
        return EngineVectors(vectors, used if isinstance(used, int) else None)

    def tokenize(self, text: str, *, special: bool = True, pieces: bool = False) -> EngineRequest:
        """Return the request for the tokens of ``text``, with special ones and their texts where it can."""
        body: dict[str, Any] = {"content": text, "add_special": special}
        return json_request("/tokenize", {**body, "with_pieces": True} if pieces else body)

    def count_tokens(self, reply: EngineReply) -> int:
        """Return how many tokens a reply to ``tokenize`` tells, ids or texts. Raises EngineError."""
        body = read_json(reply)
        tokens = body.get("tokens") if isinstance(body, dict) else None
        if not isinstance(tokens, list):
            raise EngineError("the engine's reply has no token list")
        return len(tokens)

    def generation_body(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the body of a generation as this family reads it."""
        return body
