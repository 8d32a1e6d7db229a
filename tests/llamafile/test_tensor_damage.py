"""Damage in tensors: garbage and holes are told, what training leaves is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from llamafile_mgr.llamafile import inspect_file
from llamafile_mgr.llamafile.tensor_damage import find_damage

Damage = Callable[[np.ndarray], np.ndarray]
Kind = gguf.GGMLQuantizationType
DAMAGED = "blk.2.ffn_up.weight"
RANDOM = np.random.default_rng(3)


def write(path: Path, kind: Kind, damage: Damage | None = None, name: str = DAMAGED) -> Path:
    """Write five layers of normal numbers, each half as large again as the one before."""
    writer = gguf.GGUFWriter(path, "bert")
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (600, 256), "token_types.weight": (2, 256)}
    shapes |= {f"blk.{n}.ffn_up.weight": (512, 256) for n in range(5)}
    shapes |= {f"blk.{n}.ffn_up.bias": (512,) for n in range(5)}
    for tensor, shape in shapes.items():
        layer = int(tensor.split(".")[1]) if tensor.startswith("blk") else 0
        data = RANDOM.normal(0, 0.05 * 1.5**layer, shape).astype(np.float32)
        if tensor.endswith("bias") or tensor == "token_types.weight":
            data[:] = 0
        kept = kind if data.ndim == 2 and tensor != "token_types.weight" else Kind.F32
        stored = gguf.quants.quantize(data, kept)
        if tensor == name and damage is not None:
            stored = damage(stored)
        writer.add_tensor(tensor, stored, raw_dtype=kept)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def garbage(data: np.ndarray) -> np.ndarray:
    return np.frombuffer(RANDOM.bytes(data.nbytes), data.dtype).reshape(data.shape)


def hole(data: np.ndarray) -> np.ndarray:
    damaged = data.copy()
    damaged[: len(data) // 2] = 0
    return damaged


def shifted(data: np.ndarray) -> np.ndarray:
    return np.roll(data.reshape(-1).view(np.uint8), 1).view(data.dtype).reshape(data.shape)


def damage_of(path: Path) -> str | None:
    weights = inspect_file(path).model
    assert weights is not None
    return find_damage(path, weights)


KINDS = [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q5_1, Kind.Q5_0, Kind.Q4_1, Kind.Q4_0]


@pytest.mark.parametrize("kind", KINDS)
def test_what_training_leaves_is_no_damage(tmp_path: Path, kind: Kind) -> None:
    assert damage_of(write(tmp_path / "m.gguf", kind)) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", [garbage, hole, shifted])
def test_damage_is_told_with_the_tensor(tmp_path: Path, kind: Kind, damage: Damage) -> None:
    told = damage_of(write(tmp_path / "m.gguf", kind, damage))
    assert told is not None
    assert told.startswith(DAMAGED)


def test_tables_may_be_padded_but_not_empty(tmp_path: Path) -> None:
    name = "token_embd.weight"

    def padding(data: np.ndarray) -> np.ndarray:
        padded = data.copy()
        padded[-80:] = 0
        return padded

    assert damage_of(write(tmp_path / "p.gguf", Kind.F16, padding, name)) is None
    told = damage_of(write(tmp_path / "h.gguf", Kind.F16, hole, name))
    assert told is not None
    assert told.startswith(f"{name} has no numbers in ")


def test_layers_that_all_have_empty_parts_were_pruned(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "bert")
    for layer in range(4):
        data = RANDOM.normal(0, 1, (256, 256)).astype(np.float32)
        data[layer * 32 : layer * 32 + 64] = 0
        writer.add_tensor(f"blk.{layer}.attn_q.weight", data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert damage_of(path) is None
