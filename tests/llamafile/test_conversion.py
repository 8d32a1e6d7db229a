"""The wheel of MiniLM becomes the same GGUF files every time, and a wheel without a model becomes nothing."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest

from llamafile_mgr.catalog import load_catalog
from llamafile_mgr.errors import InvalidFileError, UsageError
from llamafile_mgr.llamafile import inspect_file
from llamafile_mgr.llamafile.conversion import convert, made_of
from llamafile_mgr.llamafile.requantising import requantise

MODEL = "pkg/model/"


def wheel(path: Path, members: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def test_minilm_has_what_llama_cpp_needs(minilm: Path) -> None:
    facts = inspect_file(minilm)
    assert facts.model is not None
    gguf = facts.model.gguf
    assert (gguf.architecture, gguf.name, gguf.embedding_length, gguf.block_count) == (
        "bert",
        "all-minilm-l6-v2",
        384,
        6,
    )
    assert (gguf.pooling, gguf.causal, gguf.add_bos, gguf.add_eos) == ("mean", False, True, True)
    assert (gguf.context_length, gguf.vocab_size, gguf.quantisation) == (512, 30522, "F16")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"pkg/other": ""}, "holds no model"),
        ({MODEL + "config.json": "{}"}, "no complete model"),
        ({MODEL + "config.json": "{", MODEL + "model.safetensors": ""}, "no readable wheel"),
        (
            {
                MODEL + "config.json": '{"model_type": "gpt2"}',
                MODEL + "model.safetensors": "",
                MODEL + "1_Pooling/config.json": "{}",
                MODEL + "vocab.txt": "a",
            },
            "not 'bert'",
        ),
        (
            {
                MODEL + "config.json": '{"model_type": "bert"}',
                MODEL + "model.safetensors": "",
                MODEL + "1_Pooling/config.json": '{"pooling_mode_mean_tokens": true}',
                MODEL + "vocab.txt": "a",
            },
            "config.json lacks",
        ),
    ],
)
def test_a_wheel_without_a_model_leaves_nothing(
    tmp_path: Path, members: dict[str, str], message: str
) -> None:
    source = wheel(tmp_path / "x.whl", members)
    with pytest.raises(InvalidFileError, match=message):
        convert("bert-wheel", source, tmp_path / "out.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["x.whl"]


def test_no_wheel_and_no_such_conversion(tmp_path: Path) -> None:
    (tmp_path / "x.whl").write_text("no zip")
    with pytest.raises(InvalidFileError, match="no readable wheel"):
        convert("bert-wheel", tmp_path / "x.whl", tmp_path / "out.gguf")
    with pytest.raises(UsageError, match="no such conversion"):
        convert("alchemy", tmp_path / "x.whl", tmp_path / "out.gguf")


def test_every_file_that_is_made_is_the_one_that_the_catalog_pins(minilm: Path, tmp_path: Path) -> None:
    model = load_catalog().models["all-minilm-l6-v2"]
    half, byte = model.artifact("pypi-f16"), model.artifact("pypi-q8_0")
    assert hashlib.sha256(minilm.read_bytes()).hexdigest() == half.converted_sha256
    assert minilm.stat().st_size == half.converted_size
    assert byte.conversion is not None
    assert made_of(byte.conversion) == half.conversion
    made = tmp_path / "made.gguf"
    convert(byte.conversion, minilm, made)
    assert hashlib.sha256(made.read_bytes()).hexdigest() == byte.converted_sha256
    assert made.stat().st_size == byte.converted_size
    assert [path.name for path in tmp_path.iterdir()] == ["made.gguf"]


def test_re_encoding_changes_the_matrices_alone(minilm: Path, tmp_path: Path) -> None:
    import gguf

    made, same = tmp_path / "q8.gguf", tmp_path / "f16.gguf"
    requantise(minilm, made, "Q8_0")
    requantise(minilm, same, "F16")
    assert same.read_bytes() == minilm.read_bytes()
    before, after = gguf.GGUFReader(minilm), gguf.GGUFReader(made)
    assert [each.name for each in before.tensors] == [each.name for each in after.tensors]
    facts = inspect_file(made).model
    assert facts is not None
    assert facts.gguf.quantisation == "Q8_0"
    kept = {name for name in before.fields if not name.startswith("GGUF.")} - {"general.file_type"}
    assert all(before.fields[name].contents() == after.fields[name].contents() for name in kept)
    for old, new in zip(before.tensors, after.tensors, strict=True):
        if old.tensor_type.name == "F16":
            assert new.tensor_type.name == "Q8_0"
            values = gguf.quants.dequantize(new.data, new.tensor_type)
            # A block of 32 shares a scale of 127 steps.
            limit = np.abs(old.data.astype(np.float32)).max() / 127
            assert np.abs(values - old.data).max() <= limit
        else:
            assert np.array_equal(old.data, new.data)


def test_what_has_no_matrices_of_half_precision_is_not_re_encoded(minilm: Path, tmp_path: Path) -> None:
    made = tmp_path / "q8.gguf"
    requantise(minilm, made, "Q8_0")
    with pytest.raises(InvalidFileError, match="no weights of half precision"):
        requantise(made, tmp_path / "again.gguf", "Q8_0")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(minilm.read_bytes()[: 1 << 20])
    for broken in (b"", b"GGUF", b"GGUF\x03\x00\x00\x00", cut.read_bytes()):
        cut.write_bytes(broken)
        with pytest.raises(InvalidFileError, match="no readable GGUF"):
            requantise(cut, tmp_path / "again.gguf", "Q8_0")
    assert not (tmp_path / "again.gguf").exists()
