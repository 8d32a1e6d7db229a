"""Which trace context is well formed enough to be passed on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.proxy.tracing import engine_headers, trace_id

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{PARENT}-01"


def test_a_good_one() -> None:
    assert trace_id({"traceparent": GOOD}) == TRACE
    assert engine_headers({"traceparent": GOOD, "tracestate": "a=1, b@c=x y"}, "id-1") == (
        ("x-request-id", "id-1"),
        ("traceparent", GOOD),
        ("tracestate", "a=1, b@c=x y"),
    )


@pytest.mark.parametrize(
    "parent",
    [
        "",
        GOOD.upper(),
        GOOD + "-",
        GOOD + "\r\nx: y",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"{GOOD}, {GOOD}",  # sent twice
    ],
)
def test_bad_parents_take_their_state_with_them(parent: str) -> None:
    headers = {"traceparent": parent, "tracestate": "a=1"}
    assert trace_id(headers) is None
    assert engine_headers(headers, "id") == (("x-request-id", "id"),)


@pytest.mark.parametrize("state", ["", "a", "=1", "A=1", "a=1\r\nx: y", "a=\x00", "a=ü", "a=" + "x" * 512])
def test_bad_states_are_dropped(state: str) -> None:
    passed = engine_headers({"traceparent": GOOD, "tracestate": state}, "id")
    assert passed == (("x-request-id", "id"), ("traceparent", GOOD))


@given(st.text(), st.text())
def test_nothing_ever_ends_a_line(parent: str, state: str) -> None:
    for headers in ({"traceparent": parent}, {"traceparent": GOOD, "tracestate": state}):
        for _, value in engine_headers(headers, "id"):
            assert value.isascii()
            assert value.isprintable()
