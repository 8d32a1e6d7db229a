"""The wheel of MiniLM becomes the same GGUF every time, and a wheel without a model becomes nothing."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from llamafile_mgr.errors import InvalidFileError, UsageError
from llamafile_mgr.llamafile import inspect_file
from llamafile_mgr.llamafile.conversion import convert

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
