"""What an engine family is: every fact about one kind of engine program, and how it is told and asked.

Each family is one object in one file of this room, and its row in ``families.py`` is the only other place
that names it. The values here are those of a llamafile that is known for nothing special.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from llamafile_mgr.catalog import Pooling, Role
from llamafile_mgr.engine_settings import is_quantised
from llamafile_mgr.engines.arguments import EmbeddedArguments
from llamafile_mgr.engines.engine_args import (
    ExtraArgument,
    ExtraFlag,
    drop_flags,
    find_unlisted,
    read_engine_args,
    take_flags,
)
from llamafile_mgr.engines.engine_features import KEYS, Features
from llamafile_mgr.engines.engine_reports import LogWords
from llamafile_mgr.engines.known_bad import Candidate, KnownBad, Version
from llamafile_mgr.engines.launch_settings import LaunchSettings
from llamafile_mgr.engines.messages import EngineReply, EngineRequest, EngineVectors, json_request
from llamafile_mgr.engines.overruling import find_overruling
from llamafile_mgr.engines.replies import read_json, stack_vectors
from llamafile_mgr.engines.toolbox import InstalledProgram, Toolbox
from llamafile_mgr.errors import EngineError, PlanError
from llamafile_mgr.machine.hardware import Cpu

MIB = 1 << 20
#: Settings that leave nothing to the engine, to learn which flags a family sets.
_EVERYTHING = LaunchSettings(
    Role.EMBED,
    port=1,
    context=1,
    threads=1,
    batch_threads=1,
    batch=1,
    pooling=Pooling.MEAN,
    gpu="auto",
    gpu_layers=1,
    flash_attention=True,
    prompt_cache_mib=1,
    model=Path("model"),
    alias="model",
    api_key_file=Path("key"),
)


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

    #: What of our protection it lacks, where that is something.
    unprotected: str | None = None

    # --- its ``.args`` ---------------------------------------------------------------------------
    #: Whether ``.args`` of a file of unknown release are read as a shell reads words.
    reads_shell_words: bool = False
    #: What stands in front of the name of weights in the file.
    weights_prefix: str = ""
    #: Whether ours stand behind all of the file's, also those that the file puts behind its caller's.
    ours_last: bool = False
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
    #: Whether its buffers hold results over the whole vocabulary for every token of a batch of a prompt.
    reserves_logits: bool = True
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
    #: Whether prompts may have threads of their own number (``-tb``).
    takes_batch_threads: bool = False
    #: Whether it computes flash attention on the processor too.
    flash_attention_on_cpu: bool = False
    #: Whether it keeps finished conversations in memory, up to 8 GiB unless told otherwise.
    keeps_conversations: bool = False

    # --- what it tells of itself -----------------------------------------------------------------
    #: Words of May 2024: ``llama.cpp`` and ``examples/server/server.cpp`` of llama-cpp-python 0.2.68, lines
    #: that engines of 2026 still print; on causes llamafile 0.9.3, ``llamafile/gpu.c``, and ``ggml`` itself.
    log_words: LogWords = LogWords(
        weights=re.compile(r"load_tensors:\s+(\S+)(?: model)? buffer size =\s*(\d{1,9}(?:\.\d{1,4})?) MiB"),
        layers=re.compile(r"offloaded (\d{1,5})/(\d{1,5}) layers to GPU"),
        slots=re.compile(r"\bn_slots\"?\s*[=:]\s*(\d{1,9})"),
        context=re.compile(r"\bn_ctx_slot\"?\s*[=:]\s*(\d{1,9})"),
        batch=re.compile(r"\bn_ubatch\s*=\s*(\d{1,9})"),
        causes=(
            (re.compile(r"no GPUs were found"), "the engine found no GPU, and computes on the processor"),
            (re.compile(r"ggml_\w+: failed to initialize (\w+): (.+)"), "{0} did not start: {1}"),
        ),
    )
    # --- what settings may ask for ---------------------------------------------------------------
    #: Field of ``Features`` -> the flag that carries it; what does not stand here it cannot do.
    feature_flags: ClassVar[Mapping[str, str]] = MappingProxyType({})
    #: Field of ``Features`` -> why it cannot do it, where that is worth saying.
    feature_notes: ClassVar[Mapping[str, str]] = MappingProxyType({})
    #: Types that its key/value cache can have.
    cache_types: frozenset[str] = frozenset()

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

    def repacked_types(self, cpu: Cpu) -> frozenset[str]:
        """Return the types of tensors of which it keeps a copy in a layout that suits this processor."""
        return frozenset()

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

    def repacks(self, quantisation: str | None, cpu: Cpu) -> bool | None:
        """Return False where weights of a type must stay as they are in the file on this processor, None
        where that is left to the engine."""
        return None

    def type_speed(self, quantisation: str, cpu: Cpu) -> float | None:
        """Return how fast it computes weights of a type on this processor, as a part of the fastest type's
        speed; None where that was not measured."""
        return None

    @abstractmethod
    def arguments(self, settings: LaunchSettings) -> tuple[str, ...]:
        """Return the flags after the program's name."""

    @property
    def extra_flags(self) -> Mapping[str, ExtraFlag]:
        """Return what ``engine_args`` may hold, by every spelling."""
        return MappingProxyType({})

    def command_flags(self, settings: LaunchSettings) -> tuple[str, ...]:
        """Return all flags: what settings ask for stands last, and in the place of the same flag of ours."""
        return (*drop_flags(self.arguments(settings), self._asked_names(settings)), *settings.asked)

    def refuse_embedded(self, embedded: EmbeddedArguments) -> str | None:
        """Return why it cannot be started from a file with these arguments, None when it can: they would undo
        what protects it, or make the plan untrue."""
        ours = {word for word in self.arguments(_EVERYTHING) if word.startswith("-")}
        return find_overruling(embedded, self.extra_flags, ours, ours_last=self.ours_last)

    def replaced_flags(self, settings: LaunchSettings) -> tuple[str, ...]:
        """Return the flags of ours, with their values, in whose place settings ask for others."""
        return take_flags(self.arguments(settings), self._asked_names(settings))

    def _asked_names(self, settings: LaunchSettings) -> frozenset[str]:
        known = self.extra_flags if settings.asked else {}
        flags = (known.get(word) for word in settings.asked)
        return frozenset(name for flag in flags if flag is not None for name in flag.names)

    def _read_extra(self, engine_args: Sequence[str]) -> tuple[ExtraArgument, ...]:
        return read_engine_args(engine_args, self.extra_flags) if engine_args else ()

    def refuse_asked(
        self, features: Features, engine_args: Sequence[str], known: frozenset[str] | None = None
    ) -> str | None:
        """Return why this family cannot do what settings ask for, None when it can.

        ``known``: as ``LaunchSettings.known_flags``.
        """
        for name, value in features.asked().items():
            if name not in self.feature_flags:
                key = KEYS.get(name, name)
                return f"it has no {key}" + (
                    f": {self.feature_notes[key]}" if key in self.feature_notes else ""
                )
            if name.startswith("cache_type") and value not in self.cache_types:
                return f"its key/value cache cannot be {value}"
            if name == "cache_type_v" and is_quantised(str(value)) and not self.takes_flash_attention:
                return f"values of the type {value} need flash attention, which it is not told of"
        try:
            words = self.asked_flags(features, engine_args)
        except PlanError as error:
            return ": ".join(filter(None, (error.message, error.cause)))
        unlisted = find_unlisted(words, known) if known is not None else None
        return None if unlisted is None else f"its build has no {unlisted}"

    def asked_flags(self, features: Features, engine_args: Sequence[str]) -> tuple[str, ...]:
        """Return the words for what settings ask for, which ``refuse_asked`` let pass."""
        extra = self._read_extra(engine_args)
        return (*self.feature_words(features), *(word for each in extra for word in each.words))

    def vector_arguments(self, engine_args: Sequence[str]) -> tuple[str, ...]:
        """Return the words of those flags that change vectors."""
        extra = self._read_extra(engine_args)
        return tuple(word for each in extra if each.flag.shapes_vectors for word in each.words)

    def feature_words(self, features: Features) -> tuple[str, ...]:
        """Return the flags of ``features`` with their values."""
        pairs = ((self.feature_flags[name], value) for name, value in features.asked().items())
        return tuple(word for flag, value in pairs for word in (flag, _as_word(value)))

    def health(self) -> EngineRequest:
        """Return the cheapest request that an engine answers once its model is loaded."""
        return EngineRequest("GET", "/health")

    def properties(self) -> EngineRequest | None:
        """Return the request that tells how it was started, None where there is none."""
        return EngineRequest("GET", "/props")

    def read_properties(self, reply: EngineReply) -> tuple[int | None, int | None]:
        """Return the tokens of a slot and the slots that a reply to ``properties`` tells, None for what it
        does not."""
        body = read_json(reply)
        settings = body.get("default_generation_settings") if isinstance(body, dict) else None
        context = settings.get("n_ctx") if isinstance(settings, dict) else None
        slots = body.get("total_slots") if isinstance(body, dict) else None
        return _positive(context), _positive(slots)

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
        return len(self.read_tokens(reply))

    def read_tokens(self, reply: EngineReply) -> list[object]:
        """Return the tokens of a reply to ``tokenize``, ids or texts. Raises EngineError."""
        body = read_json(reply)
        tokens = body.get("tokens") if isinstance(body, dict) else None
        if not isinstance(tokens, list):
            raise EngineError("the engine's reply has no token list")
        return tokens

    def generation_body(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the body of a generation as this family reads it."""
        return body


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _as_word(value: object) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)
