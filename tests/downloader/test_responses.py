"""What an answer is worth, from its head alone."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.downloader.responses import ContentRange, RangeOutcome, judge, parse_content_range
from llamafile_mgr.store import Range

NOW = datetime(2026, 1, 2, tzinfo=UTC)
GOOD = {"content-range": "bytes 10-19/100", "content-length": "10", "etag": '"v"'}


def outcome(
    status: int,
    headers: dict[str, str],
    *,
    asked: Range | None = (10, 20),
    size: int | None = 100,
    validator: str | None = '"v"',
    redirected: bool = True,
) -> RangeOutcome:
    return judge(asked, size, validator, status, headers, NOW, redirected=redirected).outcome


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (206, GOOD, RangeOutcome.PART),
        (206, {"content-range": "bytes 10-19/*"}, RangeOutcome.PART),
        (206, {**GOOD, "content-range": "bytes 10-14/100", "content-length": "5"}, RangeOutcome.PART),
        (206, {**GOOD, "content-encoding": "identity"}, RangeOutcome.PART),
        (206, {**GOOD, "content-encoding": "br"}, RangeOutcome.BROKEN),
        (206, {**GOOD, "content-range": "bytes 9-19/100"}, RangeOutcome.BROKEN),
        (206, {**GOOD, "content-range": "bytes 10-20/100"}, RangeOutcome.BROKEN),
        (206, {**GOOD, "content-length": "11"}, RangeOutcome.BROKEN),
        (206, {"etag": '"v"'}, RangeOutcome.BROKEN),
        (206, {**GOOD, "content-range": "bytes 10-19/101"}, RangeOutcome.CHANGED),
        (206, {**GOOD, "etag": '"w"'}, RangeOutcome.CHANGED),
        (200, {"content-length": "100"}, RangeOutcome.WHOLE),
        (200, {}, RangeOutcome.WHOLE),
        (200, {"content-length": "99"}, RangeOutcome.CHANGED),
        (200, {"content-encoding": "gzip"}, RangeOutcome.BROKEN),
        (200, {"etag": '"w"'}, RangeOutcome.CHANGED),
        (429, {}, RangeOutcome.BUSY),
        (503, {"retry-after": "3"}, RangeOutcome.BUSY),
        (503, {}, RangeOutcome.RETRY),
        (500, {}, RangeOutcome.RETRY),
        (408, {}, RangeOutcome.RETRY),
        (425, {}, RangeOutcome.RETRY),
        (416, {}, RangeOutcome.CHANGED),
        (412, {}, RangeOutcome.CHANGED),
        (302, {}, RangeOutcome.EXPIRED),
        (403, {}, RangeOutcome.EXPIRED),
        (404, {}, RangeOutcome.EXPIRED),
        (418, {}, RangeOutcome.REFUSED),
        (204, {}, RangeOutcome.REFUSED),
    ],
)
def test_verdicts(status: int, headers: dict[str, str], expected: RangeOutcome) -> None:
    assert outcome(status, headers) is expected


def test_without_a_redirect_a_refusal_is_final() -> None:
    assert outcome(403, {}, redirected=False) is RangeOutcome.REFUSED


def test_a_part_is_no_answer_to_the_question_for_the_whole() -> None:
    assert outcome(206, GOOD, asked=None) is RangeOutcome.BROKEN


def test_a_pause_is_passed_on() -> None:
    verdict = judge((0, 1), 1, None, 429, {"retry-after": "7"}, NOW, redirected=False)
    assert verdict.retry_after == 7.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes 0-9/100", ContentRange(0, 10, 100)),
        ("BYTES 5-5/*", ContentRange(5, 6, None)),
        ("bytes 9-5/100", None),
        ("bytes 0-100/100", None),
        ("bytes */100", None),
        ("items 0-9/100", None),
        ("bytes 0-9", None),
        ("", None),
        (None, None),
    ],
)
def test_content_range(value: str | None, expected: ContentRange | None) -> None:
    assert parse_content_range(value) == expected


@given(
    st.integers(100, 599),
    st.dictionaries(
        st.sampled_from(
            ["content-range", "content-length", "etag", "content-encoding", "retry-after", "last-modified"]
        ),
        st.one_of(st.text(max_size=20), st.sampled_from([*GOOD.values(), "bytes 0-99/100", "100"])),
    ),
)
def test_a_part_is_only_taken_when_everything_fits(status: int, headers: dict[str, str]) -> None:
    verdict = judge((10, 20), 100, '"v"', status, headers, NOW, redirected=True)
    if verdict.outcome is RangeOutcome.PART:
        found = parse_content_range(headers["content-range"])
        assert status == 206
        assert found is not None
        assert found.start == 10
        assert found.end <= 20
        assert found.size in (None, 100)
        assert headers.get("etag", '"v"') in ('"v"', "")
