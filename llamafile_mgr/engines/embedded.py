"""The embedded engine: llama.cpp's own HTTP server from the ``xllamacpp`` wheel, as a program.

``python -m llamafile_mgr.engines.embedded -m MODEL --port 0 ...`` takes the flags of llama.cpp's server
that we use (``FLAGS``); any other flag is an error, as it is there. It logs to standard error, prints
``listening on http://HOST:PORT`` when it serves, and ends on SIGINT and SIGTERM. MODEL is a GGUF or a
llamafile with one GGUF inside. ``--llamafile FILE`` (what a packed file's launcher passes) adds the file's
own ``.args`` in front and takes its GGUF when no ``-m`` is given.

Exit codes: 0 after a signal, 1 for a bad flag or a model that does not load, 2 when the extra
``embedded`` is missing.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llamafile_mgr.engine_settings import CACHE_TYPES
from llamafile_mgr.engines.arguments import (
    ARGUMENTS_MEMBER,
    MAX_ARGUMENT_BYTES,
    ArgumentSyntax,
    EmbeddedArguments,
    parse_arguments,
)
from llamafile_mgr.errors import Error, InvalidFileError, NotFoundError, UsageError
from llamafile_mgr.files import replacing
from llamafile_mgr.paths import ensure_private_dir


@dataclass(frozen=True, slots=True)
class EmbeddedOptions:
    """What the command line asked for. ``settings`` maps attributes of ``CommonParams`` to values."""

    model: str | None = None
    container: str | None = None
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _OptionFlag:
    """One flag: the ``CommonParams`` attribute it sets and how its text is read; no reader, no value."""

    attribute: str
    read: Callable[[str], object] | None = None
    constant: object = True


def _read_layers(text: str) -> object:
    return -1 if text in ("auto", "all") else int(text)


def _read_key_file(text: str) -> object:
    try:
        return [line.strip() for line in Path(text).read_text(encoding="ascii").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {text}: {error}") from error


def _read_text_file(text: str) -> object:
    try:
        return Path(text).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {text}: {error}") from error


def _read_adapters(text: str) -> object:
    pairs = (each.rpartition(":") for each in text.split(","))
    return [(path, float(scale)) for path, _, scale in pairs]


def _read_template_arguments(text: str) -> object:
    """Return a JSON object's values as JSON texts."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"{text!r} is no JSON object")
    return {key: json.dumps(each) for key, each in value.items()}


def _one_of(**words: object) -> Callable[[str], object]:
    def read(text: str) -> object:
        if text not in words:
            raise ValueError(f"{text!r} is not one of {', '.join(words)}")
        return words[text]

    return read


_FILES = {"-m": "model", "--model": "model", "--llamafile": "container"}
_IGNORED = "ignored"
_CACHE_TYPE = _one_of(**{name: name for name in CACHE_TYPES})
#: With a value of llama.cpp's word each, in the order of its enumeration.
_SPECULATION = {"none": 0, "draft-simple": 1, "ngram-simple": 6, "ngram-map-k": 7, "ngram-map-k4v": 8}
_SAMPLING = {
    "--temp": ("temp", float),
    "--temperature": ("temp", float),
    "-s": ("seed", int),
    "--seed": ("seed", int),
    "--top-k": ("top_k", int),
    "--top-p": ("top_p", float),
    "--min-p": ("min_p", float),
    "--typical": ("typ_p", float),
    "--typical-p": ("typ_p", float),
    "--mirostat": ("mirostat", int),
    "--mirostat-lr": ("mirostat_eta", float),
    "--mirostat-ent": ("mirostat_tau", float),
    "--xtc-probability": ("xtc_probability", float),
    "--xtc-threshold": ("xtc_threshold", float),
    "--repeat-last-n": ("penalty_last_n", int),
    "--repeat-penalty": ("penalty_repeat", float),
    "--presence-penalty": ("penalty_present", float),
    "--frequency-penalty": ("penalty_freq", float),
    "--dry-multiplier": ("dry_multiplier", float),
    "--dry-base": ("dry_base", float),
    "--dry-allowed-length": ("dry_allowed_length", int),
    "--samplers": ("samplers", str),
    "--dry-penalty-last-n": ("dry_penalty_last_n", int),
    "--dynatemp-range": ("dynatemp_range", float),
    "--dynatemp-exp": ("dynatemp_exponent", float),
    "--adaptive-target": ("adaptive_target", float),
    "--adaptive-decay": ("adaptive_decay", float),
    "--reasoning-budget": ("reasoning_budget_tokens", int),
    "--reasoning-budget-message": ("reasoning_budget_message", str),
}
_SPELLINGS: tuple[tuple[tuple[str, ...], _OptionFlag], ...] = (
    (("--server", "--nologo"), _OptionFlag(_IGNORED)),
    (("--host",), _OptionFlag("hostnames", lambda text: [text])),
    (("--port",), _OptionFlag("port", int)),
    # To rerank is to embed together with --pooling rank.
    (("--embedding", "--embeddings", "--rerank", "--reranking"), _OptionFlag("embedding")),
    (("--pooling",), _OptionFlag("pooling_type", _one_of(none=0, mean=1, cls=2, last=3, rank=4))),
    (("--embd-normalize",), _OptionFlag("embd_normalize", int)),
    (("-c", "--ctx-size"), _OptionFlag("n_ctx", int)),
    (("-b", "--batch-size"), _OptionFlag("n_batch", int)),
    (("-ub", "--ubatch-size"), _OptionFlag("n_ubatch", int)),
    (("-np", "--parallel"), _OptionFlag("n_parallel", int)),
    (("-t", "--threads"), _OptionFlag("cpuparams.n_threads", int)),
    (("-tb", "--threads-batch"), _OptionFlag("cpuparams_batch.n_threads", int)),
    (("--threads-http",), _OptionFlag("n_threads_http", int)),
    (("-ngl", "--n-gpu-layers"), _OptionFlag("n_gpu_layers", _read_layers)),
    (("--gpu",), _OptionFlag("n_gpu_layers", _one_of(auto=-1, disable=0, disabled=0))),
    (("-fa", "--flash-attn"), _OptionFlag("flash_attn_type", _one_of(auto=-1, off=0, on=1))),
    (("-ctk", "--cache-type-k"), _OptionFlag("cache_type_k", _CACHE_TYPE)),
    (("-ctv", "--cache-type-v"), _OptionFlag("cache_type_v", _CACHE_TYPE)),
    (("-kvu", "--kv-unified"), _OptionFlag("kv_unified")),
    (("-no-kvu", "--no-kv-unified"), _OptionFlag("kv_unified", None, False)),
    (("-cram", "--cache-ram"), _OptionFlag("cache_ram_mib", int)),
    (("--cache-idle-slots",), _OptionFlag("cache_idle_slots")),
    (("--no-cache-idle-slots",), _OptionFlag("cache_idle_slots", None, False)),
    (("--cache-prompt",), _OptionFlag("cache_prompt")),
    (("--no-cache-prompt",), _OptionFlag("cache_prompt", None, False)),
    (("--cache-reuse",), _OptionFlag("n_cache_reuse", int)),
    (("--context-shift",), _OptionFlag("ctx_shift")),
    (("--no-context-shift",), _OptionFlag("ctx_shift", None, False)),
    (("--ctx-checkpoints", "-ctxcp", "--swa-checkpoints"), _OptionFlag("n_ctx_checkpoints", int)),
    (("--checkpoint-min-step", "-cms"), _OptionFlag("checkpoint_min_step", int)),
    (("-sps", "--slot-prompt-similarity"), _OptionFlag("slot_prompt_similarity", float)),
    (("--swa-full",), _OptionFlag("swa_full")),
    (("--check-tensors",), _OptionFlag("check_tensors")),
    (("-n", "--predict", "--n-predict"), _OptionFlag("n_predict", int)),
    (("--keep",), _OptionFlag("n_keep", int)),
    (("-sp", "--special"), _OptionFlag("special")),
    (("--warmup",), _OptionFlag("warmup")),
    (("--poll",), _OptionFlag("cpuparams.poll", int)),
    (("--poll-batch",), _OptionFlag("cpuparams_batch.poll", int)),
    (("--mmproj", "-mm"), _OptionFlag("mmproj.path", str)),
    (("--mmproj-offload",), _OptionFlag("mmproj_use_gpu")),
    (("--no-mmproj-offload",), _OptionFlag("mmproj_use_gpu", None, False)),
    (("--image-min-tokens",), _OptionFlag("image_min_tokens", int)),
    (("--image-max-tokens",), _OptionFlag("image_max_tokens", int)),
    (("--mtmd-batch-max-tokens",), _OptionFlag("mtmd_batch_max_tokens", int)),
    (("--lora-scaled",), _OptionFlag("lora_adapters", _read_adapters)),
    (("--model-draft", "-md", "--spec-draft-model"), _OptionFlag("speculative.draft.mparams.path", str)),
    (("--spec-type",), _OptionFlag("speculative.types", _one_of(**_SPECULATION))),
    (("--spec-draft-n-max",), _OptionFlag("speculative.draft.n_max", int)),
    (("--spec-draft-n-min",), _OptionFlag("speculative.draft.n_min", int)),
    (("--spec-draft-p-min", "--draft-p-min"), _OptionFlag("speculative.draft.p_min", float)),
    (("--spec-draft-p-split", "--draft-p-split"), _OptionFlag("speculative.draft.p_split", float)),
    (("--rope-scaling",), _OptionFlag("rope_scaling_type", _one_of(none=0, linear=1, yarn=2))),
    (("--rope-freq-base",), _OptionFlag("rope_freq_base", float)),
    (("--rope-freq-scale",), _OptionFlag("rope_freq_scale", float)),
    (("--yarn-orig-ctx",), _OptionFlag("yarn_orig_ctx", int)),
    (("--yarn-ext-factor",), _OptionFlag("yarn_ext_factor", float)),
    (("--yarn-attn-factor",), _OptionFlag("yarn_attn_factor", float)),
    (("--yarn-beta-fast",), _OptionFlag("yarn_beta_fast", float)),
    (("--yarn-beta-slow",), _OptionFlag("yarn_beta_slow", float)),
    (("--chat-template",), _OptionFlag("chat_template", str)),
    (("--chat-template-file",), _OptionFlag("chat_template", _read_text_file)),
    (("--chat-template-kwargs",), _OptionFlag("default_template_kwargs", _read_template_arguments)),
    (("--no-jinja",), _OptionFlag("use_jinja", None, False)),
    (("--reasoning", "-rea"), _OptionFlag("enable_reasoning", _one_of(auto=-1, off=0, on=1))),
    (("--prefill-assistant",), _OptionFlag("prefill_assistant")),
    (("--no-prefill-assistant",), _OptionFlag("prefill_assistant", None, False)),
    (("--skip-chat-parsing",), _OptionFlag("force_pure_content_parser")),
    *(((name,), _OptionFlag(f"sampling.{field}", read)) for name, (field, read) in _SAMPLING.items()),
    (("--ignore-eos",), _OptionFlag("sampling.ignore_eos")),
    (("-a", "--alias"), _OptionFlag("model_alias", lambda text: {text})),
    (("--api-key",), _OptionFlag("api_keys", lambda text: [text])),
    (("--api-key-file",), _OptionFlag("api_keys", _read_key_file)),
    (("--api-prefix",), _OptionFlag("api_prefix", str)),
    (("--no-webui", "--no-ui"), _OptionFlag("ui", None, False)),
    (("--no-warmup",), _OptionFlag("warmup", None, False)),
    (("--metrics",), _OptionFlag("endpoint_metrics")),
    (("--slots",), _OptionFlag("endpoint_slots")),
    (("--no-slots",), _OptionFlag("endpoint_slots", None, False)),
    (("-lv", "--log-verbosity"), _OptionFlag("verbosity", int)),
)
#: Every spelling that is understood. The names are those of llama.cpp's server.
FLAGS = {name: flag for names, flag in _SPELLINGS for name in names}


def parse_options(arguments: Sequence[str]) -> EmbeddedOptions:
    """Read a command line; a later flag overrides an earlier one.

    Raises:
        UsageError: an unknown flag (``invalid argument: X``, llama.cpp's wording), a missing or a bad value.
    """
    files: dict[str, str] = {}
    settings: dict[str, object] = {}
    rest = list(arguments)
    while rest:
        name = rest.pop(0)
        if name in _FILES:
            files[_FILES[name]] = _take(name, rest)
            continue
        flag = FLAGS.get(name)
        if flag is None:
            raise UsageError(f"invalid argument: {name}")
        value_or_constant = flag.constant if flag.read is None else _read(flag.read, name, _take(name, rest))
        if flag.attribute != _IGNORED:
            settings[flag.attribute] = value_or_constant
    return EmbeddedOptions(**files, settings=settings)


def _take(name: str, rest: list[str]) -> str:
    if not rest:
        raise UsageError(f"expected value for argument: {name}")
    return rest.pop(0)


def _read(read: Callable[[str], object], name: str, text: str) -> object:
    try:
        return read(text)
    except ValueError as error:
        raise UsageError(f"invalid value for argument {name}: {error}") from error


_PIECE_BYTES = 1 << 20
#: Who waits for an engine ends one that says nothing for minutes, and large weights take as long.
_TELL_SECONDS = 10.0


def weights_cache() -> Path:
    """Return the directory for weights that are unpacked; its name keeps users of one computer apart."""
    return Path(tempfile.gettempdir()) / f"llamafile-mgr-{os.getuid() if hasattr(os, 'getuid') else 0}"


def resolve_weights(model: str, cache: Path) -> Path:
    """Return the path of a GGUF that llama.cpp can open: ``model`` itself, or its one GGUF, unpacked.

    The unpacked copy lies in ``cache`` under a name made of the file's identity, so that a second start
    finds it. Raises NotFoundError and InvalidFileError.
    """
    path = Path(model)
    with _translated(path):
        with path.open("rb") as stream:
            if stream.read(4) == b"GGUF":
                return path
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(".gguf")]
            if len(members) != 1:
                raise InvalidFileError(f"{path} holds {len(members)} GGUF files where one is needed")
            return _unpack(archive, members[0], path, ensure_private_dir(cache))


def _read_arguments(container: Path) -> EmbeddedArguments | None:
    """Return the ``.args`` of a packed file, None when it has none."""
    with _translated(container), zipfile.ZipFile(container) as archive:
        if ARGUMENTS_MEMBER not in archive.namelist():
            return None
        if archive.getinfo(ARGUMENTS_MEMBER).file_size > MAX_ARGUMENT_BYTES:
            raise InvalidFileError(f"the {ARGUMENTS_MEMBER} in {container} is too large")
        text = archive.read(ARGUMENTS_MEMBER).decode("utf-8", "replace")
    return parse_arguments(text, ArgumentSyntax.SHELL)


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Give what goes wrong with a file as errors of ours."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {path}") from error
    except (zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise InvalidFileError(f"{path} is neither a GGUF nor a llamafile: {error}") from error
    except OSError as error:
        raise InvalidFileError(f"cannot read {path}: {error.strerror or error}") from error


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, cache: Path) -> Path:
    status = path.stat()
    identity = f"{status.st_dev:x}-{status.st_ino:x}-{status.st_mtime_ns:x}-{member.CRC:08x}"
    target = cache / f"{identity}.gguf"
    if target.is_file() and target.stat().st_size == member.file_size:
        return target
    told = time.monotonic()
    with archive.open(member) as source, replacing(target) as copy:
        while piece := source.read(_PIECE_BYTES):
            copy.write(piece)
            if time.monotonic() - told >= _TELL_SECONDS:
                told = time.monotonic()
                _log(f"unpacking {path}: {100 * copy.tell() // member.file_size} %")
    return target


def _load_options(arguments: Sequence[str]) -> EmbeddedOptions:
    options = parse_options(arguments)
    if options.container is None:
        return options
    embedded = _read_arguments(Path(options.container))
    if embedded is not None:
        arguments = [*embedded.arguments, *embedded.after, *arguments]
    merged = parse_options(arguments)
    # A member's bare name in -m means "inside this file", as it does for llamafile's /zip/ paths.
    if merged.model is None or not Path(merged.model).exists():
        merged = replace(merged, model=options.container)
    return merged


def _build_params(options: EmbeddedOptions, model: Path) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.cors_origins = ""
    converted: dict[str, Callable[[Any], object]] = {
        "pooling_type": xllamacpp.llama_pooling_type,
        "flash_attn_type": xllamacpp.llama_flash_attn_type,
        "rope_scaling_type": xllamacpp.llama_rope_scaling_type,
        "cache_type_k": lambda name: getattr(xllamacpp.ggml_type, f"GGML_TYPE_{name.upper()}"),
        "cache_type_v": lambda name: getattr(xllamacpp.ggml_type, f"GGML_TYPE_{name.upper()}"),
        "speculative.types": lambda number: [xllamacpp.common_speculative_type(number)],
        "lora_adapters": lambda pairs: [_adapter(path, scale) for path, scale in pairs],
    }
    for attribute, value in options.settings.items():
        target, _, name = attribute.rpartition(".")
        holder = functools.reduce(getattr, target.split("."), params) if target else params
        convert = converted.get(attribute, _same)
        setattr(holder, name, convert(value))
    return params


def _same(value: object) -> object:
    return value


def _adapter(path: str, scale: float) -> Any:
    import xllamacpp

    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = path, scale
    return adapter


def _log(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


#: llama.cpp tells devices and batches at the verbosity of traces alone, which also print lines for each text.
_TRACE, _INFO = 4, 3
_SET_VERBOSITY = "_Z30common_log_set_verbosity_tholdi"


def _find_verbosity_setter() -> Callable[[int], object] | None:
    """Return llama.cpp's own function, None where the wheel does not export it."""
    import ctypes

    from xllamacpp import xllamacpp

    try:
        setter: Callable[[int], object] = getattr(ctypes.CDLL(xllamacpp.__file__), _SET_VERBOSITY)
    except (OSError, AttributeError):
        return None
    return setter


#: After a signal the engine goes on for at most so long.
_SIGNAL_SECONDS = 0.25


def _serve(params: Any, *, tells: bool) -> int:
    """Load, serve until SIGINT or SIGTERM ends the process, and return an exit code when nothing loads.

    While the model loads both signals kill at once, as they do in llama.cpp's own program. ``tells``: the log
    says until then where and how it is loaded.
    """
    import xllamacpp

    set_verbosity = _find_verbosity_setter() if tells else None
    if set_verbosity is not None:
        params.verbosity = _TRACE
    stops = (signal.SIGINT, signal.SIGTERM)
    for number in stops:
        signal.signal(number, signal.SIG_DFL)
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        _log(f"error: {error}")
        return 1
    for number in stops:
        signal.signal(number, signal.default_int_handler)
    if set_verbosity is not None:
        set_verbosity(_INFO)
    try:
        _log(f"llama server listening at {server.listening_address}")
        while True:
            # A signal that the system hands to one of the server's threads does not end this one's sleep.
            time.sleep(_SIGNAL_SECONDS)
    except KeyboardInterrupt:
        _log("stopping")
    # The server's destructor waits for ever for a thread that a signal just after the start finds on its way
    # to accept connections. Calls were drained by whoever sent the signal, and the system frees the rest.
    sys.stdout.flush()
    os._exit(0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the engine and return its exit code."""
    try:
        options = _load_options(sys.argv[1:] if arguments is None else arguments)
        if options.model is None:
            _log("error: missing required -m MODEL.gguf")
            return 1
        model = resolve_weights(options.model, weights_cache())
        params = _build_params(options, model)
    except ImportError as error:
        _log(f"error: the embedded engine needs {error.name}: pip install 'llamafile-mgr[embedded]'")
        return 2
    except Error as error:
        _log(f"error: {error.message}")
        return 1
    except KeyboardInterrupt:
        return 0
    return _serve(params, tells="verbosity" not in options.settings)


if __name__ == "__main__":
    sys.exit(main())
