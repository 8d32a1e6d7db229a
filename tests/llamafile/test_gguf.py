"""GGUF headers: the facts, and agreement with the ``gguf`` package's own reader."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamafile_mgr.errors import InvalidFileError
from llamafile_mgr.llamafile import FileKind, GgufFacts, inspect_file
from llamafile_mgr.llamafile.ggml_types import FILE_TYPES, TENSOR_TYPES
from tests.llamafile.llamafile_samples import pair, raw_gguf, text, write_projector


def facts_of(path: Path) -> GgufFacts:
    return inspect_file(path).weights[0].gguf


def tensor(shape: tuple[int, ...], kind: int, offset: int, name: str = "t") -> bytes:
    layout = f"<I{len(shape)}QIQ"
    return text(name) + struct.pack(layout, len(shape), *shape, kind, offset)


def test_a_bert(bert: Path) -> None:
    facts = inspect_file(bert)
    assert (facts.kind, facts.family, facts.engine_version) == (FileKind.WEIGHTS, None, None)
    assert facts.size == bert.stat().st_size
    (weights,) = facts.weights
    assert (weights.member, weights.offset, weights.size) == (None, 0, facts.size)
    gguf = weights.gguf
    assert (gguf.version, gguf.architecture, gguf.name) == (3, "bert", "tiny bert")
    assert (gguf.context_length, gguf.embedding_length, gguf.block_count) == (512, 384, 6)
    assert (gguf.head_count, gguf.head_count_kv, gguf.feed_forward_length) == (12, None, 1536)
    assert (gguf.pooling, gguf.causal, gguf.tokenizer_model) == ("mean", False, "bert")
    assert (gguf.add_bos, gguf.add_eos, gguf.bos_id, gguf.eos_id) == (True, True, 101, 102)
    assert (gguf.vocab_size, gguf.has_chat_template) == (100, False)
    assert (gguf.file_type, gguf.quantisation) == (1, "F16")
    assert gguf.parameters == 100 * 384 + 384
    assert gguf.tensor_bytes == 100 * 384 * 2 + 384 * 4
    assert gguf.split is None


def test_a_llama_with_heads_per_layer(llama: Path) -> None:
    gguf = facts_of(llama)
    assert (gguf.head_count, gguf.head_count_kv) == (8, 4)
    assert (gguf.key_length, gguf.value_length, gguf.sliding_window) == (8, 16, 1024)
    assert (gguf.expert_count, gguf.expert_used_count) == (4, 2)
    assert gguf.has_chat_template
    assert gguf.pooling is None
    assert gguf.causal is None
    assert gguf.quantisation == "F32"  # no file type: the dominant tensor type
    assert not gguf.is_projector


def test_a_projector(tmp_path: Path) -> None:
    gguf = facts_of(write_projector(tmp_path / "mmproj.gguf"))
    assert (gguf.kind, gguf.is_projector) == ("mmproj", True)


def test_a_part_of_a_split_model(tmp_path: Path) -> None:
    path = tmp_path / "m-00002-of-00003.gguf"
    path.write_bytes(
        raw_gguf([pair("split.no", 2, struct.pack("<H", 1)), pair("split.count", 2, struct.pack("<H", 3))])
    )
    assert facts_of(path).split == (1, 3)


def test_a_vocabulary_alone(tmp_path: Path) -> None:
    path = tmp_path / "vocab.gguf"
    path.write_bytes(raw_gguf([pair("general.architecture", 8, text("llama"))]))
    assert (facts_of(path).parameters, facts_of(path).quantisation) == (0, None)


def test_a_type_newer_than_the_table(tmp_path: Path) -> None:
    path = tmp_path / "new.gguf"
    path.write_bytes(raw_gguf([], [tensor((64,), 999, 0)], tail=200))
    assert (facts_of(path).parameters, facts_of(path).quantisation) == (64, None)


@pytest.mark.parametrize(
    ("number", "word"), [(0, "none"), (1, "mean"), (2, "cls"), (3, "last"), (4, "rank"), (9, None)]
)
def test_pooling_words(tmp_path: Path, number: int, word: str | None) -> None:
    path = tmp_path / "pooling.gguf"
    pairs = [
        pair("bert.pooling_type", 4, struct.pack("<I", number)),
        pair("general.architecture", 8, text("bert")),  # may stand behind the keys that it names
    ]
    path.write_bytes(raw_gguf(pairs))
    assert facts_of(path).pooling == word


def test_a_value_of_another_type_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(
        raw_gguf(
            [
                pair("general.architecture", 8, text("llama")),
                pair("llama.context_length", 8, text("4096")),
                pair("llama.block_count", 5, struct.pack("<i", -1)),
                pair("llama.embedding_length", 7, b"\x01"),
                pair("tokenizer.ggml.add_bos_token", 4, struct.pack("<I", 1)),
                pair("general.name", 4, struct.pack("<I", 1)),
            ]
        )
    )
    gguf = facts_of(path)
    assert (gguf.context_length, gguf.block_count, gguf.embedding_length) == (None, None, None)
    assert (gguf.add_bos, gguf.name) == (None, None)


def test_a_large_vocabulary_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "large.gguf"
    strings = b"".join(text(f"t{i:06}") for i in range(150_000))
    array = struct.pack("<IQ", 8, 150_000) + strings
    path.write_bytes(
        raw_gguf([pair("tokenizer.ggml.tokens", 9, array), pair("general.name", 8, text("behind it"))])
    )
    assert (facts_of(path).vocab_size, facts_of(path).name) == (150_000, "behind it")


def test_tables_agree_with_the_package() -> None:
    for kind, (elements, size) in GGML_QUANT_SIZES.items():
        known = TENSOR_TYPES[int(kind)]
        assert (known.name, known.block_elements, known.block_bytes) == (kind.name, elements, size)
    for member in GGMLQuantizationType:
        assert TENSOR_TYPES[int(member)].name == member.name
    for file_type in LlamaFileType:
        if file_type is not LlamaFileType.GUESSED:
            name = file_type.name.removeprefix("MOSTLY_").removeprefix("ALL_")
            assert FILE_TYPES[int(file_type)] == name


BAD = {
    "version 1": (struct.pack("<4sIQQ", b"GGUF", 1, 0, 0), "version 1"),
    "version 4": (struct.pack("<4sIQQ", b"GGUF", 4, 0, 0), "version 4"),
    "big-endian": (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), "big-endian"),
    "magic alone": (b"GGUF", "truncated"),
    "2^63 pairs": (struct.pack("<4sIQQ", b"GGUF", 3, 0, 1 << 63), "claims"),
    "2^63 tensors": (struct.pack("<4sIQQ", b"GGUF", 3, 1 << 63, 0), "claims"),
    "pairs missing": (struct.pack("<4sIQQ", b"GGUF", 3, 0, 5), "truncated"),
    "key of 2^63": (raw_gguf([struct.pack("<Q", 1 << 63)]), "key of"),
    "string of 2^63": (raw_gguf([pair("x", 8, struct.pack("<Q", 1 << 63))]), "truncated"),
    "name of 2^63": (raw_gguf([pair("general.name", 8, struct.pack("<Q", 1 << 63))]), "text of"),
    "value type 77": (raw_gguf([pair("x", 77, b"")]), "unknown type 77"),
    "array of arrays": (raw_gguf([pair("x", 9, struct.pack("<IQIQ", 9, 1, 4, 0))]), "nested"),
    "array of 2^60 strings": (raw_gguf([pair("x", 9, struct.pack("<IQ", 8, 1 << 60))]), "truncated"),
    "array of 2^60 numbers": (raw_gguf([pair("x", 9, struct.pack("<IQ", 4, 1 << 60))]), "truncated"),
    "string in an array of 2^62": (
        raw_gguf([pair("x", 9, struct.pack("<IQQ", 8, 2, 1 << 62))], tail=100),
        "truncated",
    ),
    "one key twice": (raw_gguf([pair("general.name", 8, text("a"))] * 2), "twice"),
    "another key twice": (raw_gguf([pair("x", 0, b"a")] * 2), "twice"),
    "nothing": (struct.pack("<4sIQQ", b"GGUF", 3, 0, 0), "no architecture"),
    "an architecture that is a number": (
        raw_gguf([pair("general.architecture", 4, bytes(4))]),
        "no architecture",
    ),
    "context of 2^40": (
        raw_gguf(
            [
                pair("general.architecture", 8, text("llama")),
                pair("llama.context_length", 10, struct.pack("<Q", 1 << 40)),
            ]
        ),
        "context_length",
    ),
    "alignment 0": (raw_gguf([pair("general.alignment", 4, struct.pack("<I", 0))]), "alignment"),
    "alignment 3": (raw_gguf([pair("general.alignment", 4, struct.pack("<I", 3))]), "alignment"),
    "alignment as text": (raw_gguf([pair("general.alignment", 8, text("32"))]), "alignment"),
    "five dimensions": (raw_gguf([], [tensor((1, 1, 1, 1, 1), 0, 0)], tail=64), "5 dimensions"),
    "no dimension": (raw_gguf([], [tensor((), 0, 0)], tail=64), "0 dimensions"),
    "tensor name of 2^40": (raw_gguf([], [struct.pack("<Q", 1 << 40)]), "names a tensor"),
    "2^62 elements": (raw_gguf([], [tensor((1 << 62, 1 << 62), 0, 0)], tail=64), "truncated"),
    "2^62 elements of a new type": (raw_gguf([], [tensor((1 << 62,), 999, 0)], tail=64), "truncated"),
    "offset of 2^63": (raw_gguf([], [tensor((1,), 0, 1 << 63)], tail=64), "truncated"),
    "unaligned": (raw_gguf([], [tensor((1,), 0, 4)], tail=200), "unaligned"),
    "half a block": (raw_gguf([], [tensor((33,), 2, 0)], tail=200), "rows of 33"),
    "tensors on top of each other": (raw_gguf([], [tensor((16,), 0, 0)] * 9, tail=200), "truncated"),
}


@pytest.mark.parametrize("case", BAD, ids=list(BAD))
def test_nonsense_is_refused(tmp_path: Path, case: str) -> None:
    data, message = BAD[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(InvalidFileError, match=message):
        inspect_file(path)


def test_every_truncation_is_refused(tmp_path: Path, bert: Path) -> None:
    data = bert.read_bytes()
    path = tmp_path / "cut.gguf"
    header = 4_000  # the whole header and the start of the data, byte by byte
    for length in [*range(4, header), len(data) // 2, len(data) - 100]:
        path.write_bytes(data[:length])
        with pytest.raises(InvalidFileError):
            inspect_file(path)


RANGES = {
    GGUFValueType.UINT8: (0, 255),
    GGUFValueType.INT8: (-128, 127),
    GGUFValueType.UINT16: (0, 65535),
    GGUFValueType.INT16: (-(1 << 15), (1 << 15) - 1),
    GGUFValueType.UINT32: (0, (1 << 32) - 1),
    GGUFValueType.INT32: (-(1 << 31), (1 << 31) - 1),
    GGUFValueType.UINT64: (0, (1 << 64) - 1),
    GGUFValueType.INT64: (-(1 << 63), (1 << 63) - 1),
}
integers = st.sampled_from(list(RANGES))


def numbers(kind: GGUFValueType) -> st.SearchStrategy[int]:
    return st.integers(*RANGES[kind])


number_values = integers.flatmap(lambda kind: st.tuples(st.just(kind), numbers(kind)))
other_values = st.one_of(
    st.tuples(st.just(GGUFValueType.FLOAT32), st.floats(width=32)),
    st.tuples(st.just(GGUFValueType.FLOAT64), st.floats()),
    st.tuples(st.just(GGUFValueType.BOOL), st.booleans()),
    st.tuples(st.just(GGUFValueType.STRING), st.text(max_size=50)),
    number_values,
)
array_values = st.one_of(
    st.lists(st.text(max_size=20), min_size=1, max_size=30),
    st.lists(st.booleans(), min_size=1, max_size=30),
    st.lists(st.integers(-(1 << 31), (1 << 31) - 1), min_size=1, max_size=30),
    st.lists(st.floats(width=32), min_size=1, max_size=30),
)
names = st.from_regex(r"[a-z]{1,8}(\.[a-z_]{1,10}){1,3}", fullmatch=True).map("extra.".__add__)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scalars=st.dictionaries(names, other_values, max_size=6),
    arrays=st.dictionaries(names.map("many.".__add__), array_values, max_size=4),
    context=integers.flatmap(lambda kind: st.tuples(st.just(kind), numbers(kind))).filter(
        lambda pair: pair[1] < 1 << 32
    ),
    heads=st.lists(st.integers(0, 1000), min_size=1, max_size=40),
    tokens=st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=60),
    title=st.text(min_size=1, max_size=60),
    shapes=st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), max_size=5),
    alignment=st.sampled_from([8, 32, 64, 256]),
)
def test_agreement_with_the_packages_reader(
    tmp_path: Path,
    scalars: dict[str, tuple[GGUFValueType, object]],
    arrays: dict[str, list[object]],
    context: tuple[GGUFValueType, int],
    heads: list[int],
    tokens: list[str],
    title: str,
    shapes: list[list[int]],
    alignment: int,
) -> None:
    path = tmp_path / "random.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_custom_alignment(alignment)
    for key, (kind, value) in scalars.items():
        writer.add_key_value(key, value, kind)
    writer.add_token_list(tokens)
    for key, values in arrays.items():
        writer.add_array(key, values)
    writer.add_key_value("llama.context_length", context[1], context[0])
    writer.add_head_count_kv(heads)
    writer.add_name(title)
    for index, shape in enumerate(shapes):
        writer.add_tensor(f"t{index}", np.zeros(shape, dtype=np.float32 if index % 2 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    gguf = facts_of(path)
    reader = GGUFReader(path)
    assert gguf.tensor_count == len(reader.tensors) == len(shapes)
    assert gguf.parameters == sum(int(t.n_elements) for t in reader.tensors)
    assert gguf.tensor_bytes == sum(int(t.n_bytes) for t in reader.tensors)
    assert gguf.name == title == reader.fields["general.name"].contents()
    assert gguf.vocab_size == len(reader.fields["tokenizer.ggml.tokens"].data)
    assert gguf.head_count_kv == max(reader.fields["llama.attention.head_count_kv"].contents())
    expected = reader.fields["llama.context_length"].contents()
    assert gguf.context_length == (expected if expected >= 0 else None)
