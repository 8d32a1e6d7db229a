"""The memory arithmetic, against figures that are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.catalog import Role
from llamafile_mgr.llamafile import Family, GgufFacts
from llamafile_mgr.planner.memory import (
    Load,
    Offload,
    cache_bytes_per_token,
    format_size,
    predict_memory,
)
from tests.planner import samples

KIB, MIB = 1 << 10, 1 << 20
EMBED = Load(Role.EMBED, Family.EMBEDDED, 512, 4, 512)
GENERATE = Load(Role.GENERATE, Family.EMBEDDED, 4096, 1, None)
PREDICTABLE = st.sampled_from([samples.MINILM, samples.BERT_LARGE, samples.MISTRAL, samples.QWEN_08B])


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (samples.MISTRAL, 128 * KIB),  # 32 layers x 8 heads x 2 x 128 x 2 bytes
        (samples.MINILM, 0),
        (replace(samples.MISTRAL, head_count_kv=None), 512 * KIB),
        (replace(samples.MISTRAL, key_length=64, value_length=192), 128 * KIB),
        (replace(samples.MISTRAL, block_count=None), 128 * KIB),
    ],
)
def test_cache_of_one_token(header: GgufFacts, expected: int) -> None:
    assert cache_bytes_per_token(header) == expected


def test_the_parts_of_minilm() -> None:
    memory = predict_memory(samples.minilm.facts, EMBED)
    assert memory.weights == 46_220_384
    assert memory.kv_cache == 0
    # Measured: the engine grew by 59 MiB when its first full batch was computed.
    assert 59 * MIB <= memory.output <= 62 * MIB
    # Measured: "compute buffer size = 7.27 MiB".
    assert 7.27 * MIB <= memory.compute <= 8.5 * MIB


def test_replicas_share_the_weights() -> None:
    one, two = (predict_memory(samples.minilm.facts, EMBED, replicas=count) for count in (1, 2))
    assert one.joint == one.host == one.total
    assert two.joint == 2 * one.joint - one.weights
    assert "2 engines share the weights" in two.describe()


def test_a_gpu_takes_its_layers_and_main_memory_the_rest() -> None:
    facts = samples.mistral.facts
    whole, half = (predict_memory(facts, GENERATE, offload=Offload(n, 32)) for n in (32, 16))
    assert whole.device_weights == facts.size
    assert half.device_weights == facts.size // 2
    assert whole.host + whole.device == whole.total
    assert whole.host < half.host
    shared = predict_memory(facts, GENERATE, offload=Offload(32, 32, unified=True))
    assert shared.device == 0
    assert shared.joint == shared.total


def test_a_file_with_two_ggufs_counts_both_and_a_part_counts_all() -> None:
    assert predict_memory(samples.subject(ggufs=2).facts, EMBED).weights == 2 * samples.GB
    part = samples.subject(header=replace(samples.BERT_LARGE, split=(0, 3)))
    assert predict_memory(part.facts, EMBED).weights == 3 * samples.GB


@given(PREDICTABLE, st.integers(1, 16), st.integers(64, 8192), st.sampled_from([None, 128, 512, 2048]))
def test_more_asked_is_never_less_predicted(
    header: GgufFacts, slots: int, context: int, batch: int | None
) -> None:
    facts = samples.weights("m", header, samples.GB, Role.GENERATE).facts
    for role in (Role.EMBED, Role.GENERATE):
        load = Load(role, Family.EMBEDDED, context, slots, batch)
        total = predict_memory(facts, load).total
        assert total > facts.size
        for more in (
            replace(load, slots=slots + 1),
            replace(load, context=context * 2),
            replace(load, batch=(batch or 512) * 2),
            replace(load, prompt_cache=MIB),
            replace(load, flash_attention=False),
        ):
            assert predict_memory(facts, more).total >= total


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (46_220_384, "46.2 MB"), (14_500_000_000, "14.5 GB")],
)
def test_sizes_in_words(count: int, text: str) -> None:
    assert format_size(count) == text


def test_copies_of_weights_are_an_engines_own_and_take_the_place_of_the_files_pages() -> None:
    facts = samples.sfr_gguf.facts
    plain = predict_memory(facts, GENERATE)
    copying = predict_memory(facts, replace(GENERATE, repacked=frozenset({"Q4_K"})))
    assert copying.repacked == copying.weights == plain.weights  # of unknown tensors the file's type counts
    assert copying.host == plain.host + copying.repacked  # what the process shows
    assert copying.joint == plain.joint  # what it needs
    two = predict_memory(facts, replace(GENERATE, repacked=frozenset({"Q4_K"})), replicas=2)
    assert two.joint == 2 * plain.joint
    assert "their copies for this processor" in copying.describe()
    assert predict_memory(facts, replace(GENERATE, repacked=frozenset({"Q8_0"}))).repacked == 0


def test_tensors_are_counted_by_their_own_types() -> None:
    mixed = replace(samples.MISTRAL, quantisation="Q4_K_M", tensor_types=(("Q4_K", 300), ("Q6_K", 100)))
    facts = samples.weights("m", mixed, 420, Role.GENERATE).facts
    assert predict_memory(facts, replace(GENERATE, repacked=frozenset({"Q4_K"}))).repacked == 300
    on_gpu = predict_memory(facts, replace(GENERATE, repacked=frozenset({"Q4_K"})), offload=Offload(32, 32))
    assert on_gpu.repacked == 0
