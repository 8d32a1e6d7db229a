"""What engines tell of themselves, from recorded logs."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.engines.engine_reports import EngineReport, LogReader
from llamafile_mgr.engines.families import Family, family_rules
from llamafile_mgr.engines.messages import EngineReply
from tests.engines.recorded_logs import MIB, RECORDINGS, Recording

V1, UPSTREAM = family_rules(Family.V1), family_rules(Family.EMBEDDED)


def read(text: str, family: Family = Family.EMBEDDED) -> EngineReport:
    reader = LogReader(family_rules(family).log_words)
    for line in text.splitlines():
        reader.note(line)
    return reader.report()


@pytest.mark.parametrize("recorded", RECORDINGS.values(), ids=list(RECORDINGS))
def test_recorded_logs(recorded: Recording) -> None:
    report = read(recorded.text)
    assert report.devices == recorded.devices
    assert report.on_gpu is recorded.gpu
    assert report.layers == recorded.layers
    assert (report.batch, report.slots, report.context) == (recorded.batch, recorded.slots, recorded.context)
    assert report.weights == {name: int(size * MIB) for name, size in recorded.weights.items()}
    assert recorded.cause is None or recorded.cause in report.causes


@pytest.mark.parametrize("name", [name for name in RECORDINGS if "2024" in name or "0.9" in name])
def test_the_words_of_2024_are_those_of_the_old_engines(name: str) -> None:
    for family in (Family.V1, Family.V2):
        assert read(RECORDINGS[name].text, family) == read(RECORDINGS[name].text)


def test_a_helper_model_behind_the_model_changes_no_number() -> None:
    draft = RECORDINGS["metal-2024"].text.replace("13/13", "7/7").replace("= 2048", "= 512")
    report = read(RECORDINGS["metal-2024"].text + draft)
    assert (report.layers, report.batch) == ((13, 13), 2048)
    assert report.weights["Metal"] == 2 * int(40.73 * MIB)


def test_a_capped_context_has_its_cause() -> None:
    line = (
        "W srv load_model: the slot context (4096) exceeds the training context of the model (512) - capping"
    )
    assert read(line).causes == ("the slot context (4096) exceeds the training context of the model (512)",)


NUMBERS = st.one_of(st.from_regex(r"[0-9.]{1,8}", fullmatch=True), st.just("9" * 5000), st.text(max_size=5))


@given(st.text(), NUMBERS, NUMBERS)
def test_no_line_is_too_odd(line: str, one: str, other: str) -> None:
    odd = [
        line,
        f"load_tensors: {line} model buffer size = {one} MiB",
        f"load_tensors: X buffer size = {one} MiB",
        f"offloaded {one}/{other} layers to GPU",
        f"n_slots = {one}, n_ctx_slot = {other}, n_ubatch = {one}",
        f"ggml_{line}: failed to initialize {one}: {line}{{0}}",
    ]
    for family in Family:
        read("\n".join(odd), family)


def test_memory_that_the_driver_tells_is_a_sign_where_the_log_has_none() -> None:
    assert EngineReport(gpu_bytes=5 * MIB).on_gpu is True
    assert EngineReport(gpu_bytes=0).on_gpu is False
    assert EngineReport().on_gpu is None
    assert EngineReport(weights={"CPU": MIB}, gpu_bytes=5 * MIB).on_gpu is False  # a context is no weight


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"default_generation_settings": {"n_ctx": 512}, "total_slots": 4}, (512, 4)),
        ({"default_generation_settings": {"n_ctx": 512}}, (512, None)),
        ({"total_slots": True}, (None, None)),
        ({"default_generation_settings": [], "total_slots": -1}, (None, None)),
        ([], (None, None)),
    ],
)
def test_properties(body: object, expected: tuple[int | None, int | None]) -> None:
    reply = EngineReply(200, "application/json", json.dumps(body).encode())
    for rules in (V1, UPSTREAM):
        assert rules.properties() is not None
        assert rules.read_properties(reply) == expected
    assert family_rules(Family.V2).properties() is None
