"""How pulls and bulk jobs look: bars on a terminal, lines without one, JSON events, or nothing."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from llamafile_mgr.cli.output import format_bytes, print_json_line
from llamafile_mgr.downloader.pull_events import (
    Advanced,
    Checking,
    Converting,
    Event,
    Following,
    Noticed,
    Present,
    Published,
    Resolved,
    Retrying,
    event_json,
)

if TYPE_CHECKING:
    from pathlib import Path

    from llamafile_mgr.bulk import JobProgress, JobReport

_TRUST_WORDS = {
    "pinned": "checked against the pinned digest",
    "hub": "checked against the hub's digest",
    "first-use": "no digest was known: trusted on first use and recorded",
}
_LINE_SECONDS = 5.0


class Display:
    """Shows nothing; the base of the others. ``kept`` is what an interruption leaves behind."""

    #: Progress is shown once in so many seconds.
    seconds = 0.0

    def __init__(self) -> None:
        self.kept = 0
        self._next = 0.0

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __call__(self, event: Event) -> None:
        """Take one event."""
        if isinstance(event, Advanced):
            self.kept = event.done
        elif isinstance(event, Resolved):
            self.kept = event.have
        elif isinstance(event, (Present, Published)):
            self.kept = 0
        if isinstance(event, (Advanced, Following)):
            now = time.monotonic()
            if now < self._next:
                return
            self._next = now + self.seconds
        self.show(event)

    def show(self, event: Event) -> None:
        """Show one event."""

    def close(self) -> None:
        """Leave the terminal tidy."""


class JsonDisplay(Display):
    """One JSON object a line on standard output."""

    seconds = 0.5

    def show(self, event: Event) -> None:
        """Print the event."""
        print_json_line(event_json(event))


class LineDisplay(Display):
    """Plain lines on standard error, for logs."""

    seconds = _LINE_SECONDS

    def __init__(self) -> None:
        super().__init__()
        self._next = time.monotonic() + self.seconds

    def show(self, event: Event) -> None:
        """Print what happened."""
        click.echo(describe(event), err=True)


class BarDisplay(Display):
    """tqdm bars on a terminal: one for the file and, with several files, one for all."""

    def __init__(self, files: int) -> None:
        super().__init__()
        self._bar: Any = None
        self._total: Any = None
        if files > 1:
            self._total = _byte_bar(desc=f"{files} files", position=1)

    def show(self, event: Event) -> None:
        """Draw progress, print the rest above the bars."""
        if isinstance(event, (Advanced, Following)):
            self._draw(event.name, event.done, event.size)
            return
        if isinstance(event, Resolved):
            self._close_bar()
            self._bar = _byte_bar(desc=event.name, total=event.size, initial=event.have, position=0)
            if self._total is not None:
                self._total.total = (self._total.total or 0) + (event.size or 0)
                self._total.initial += event.have
                self._total.update(event.have)
        if isinstance(event, (Present, Published, Checking)):
            self._close_bar()
        if not isinstance(event, (Resolved, Checking)) or (isinstance(event, Resolved) and event.have):
            from tqdm import tqdm

            tqdm.write(describe(event), file=sys.stderr)

    def _draw(self, name: str, done: int, size: int | None) -> None:
        if self._bar is None:
            self._bar = _byte_bar(desc=name, total=size, initial=done, position=0)
        step = done - self._bar.n
        if step > 0:
            self._bar.update(step)
            if self._total is not None:
                self._total.update(step)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def close(self) -> None:
        """Remove the bars."""
        self._close_bar()
        if self._total is not None:
            self._total.close()


def _make_bar(**options: Any) -> Any:
    from tqdm import tqdm

    return tqdm(file=sys.stderr, dynamic_ncols=True, smoothing=0.1, **options)


def _byte_bar(**options: Any) -> Any:
    return _make_bar(unit="B", unit_scale=True, leave=False, **options)


def make_display(*, as_json: bool, quiet: bool, files: int = 1) -> Display:
    """Return the display that fits the flags and standard error."""
    if as_json:
        return JsonDisplay()
    if quiet:
        return Display()
    return BarDisplay(files) if sys.stderr.isatty() else LineDisplay()


class TextDisplay:
    """How far a bulk job is, on standard error: a bar on a terminal, else a line every few seconds."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._bar: Any = None
        self._began: float | None = None
        self._last = 0.0

    def __enter__(self) -> TextDisplay:
        return self

    def __exit__(self, *error: object) -> None:
        self._close_bar()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def say(self, text: str) -> None:
        """Write a line."""
        if not self._quiet:
            click.echo(text, err=True)

    def __call__(self, progress: JobProgress) -> None:
        """Show how far the job is; rates count what was not kept from an earlier run."""
        now = time.monotonic()
        if self._began is None:
            self._began = self._last = now
        if self._quiet:
            return
        if self._terminal:
            self._draw(progress)
        elif progress.done and (now - self._last >= _LINE_SECONDS or progress.done == progress.total):
            self._last = now
            click.echo(describe_progress(progress, now - self._began), err=True)

    def finish(self, report: JobReport, output: Path) -> None:
        """Say what a job has written."""
        self._close_bar()
        seconds = 0.0 if self._began is None else time.monotonic() - self._began
        self.say(f"wrote {output}: {describe_report(report, seconds)}")

    def _draw(self, progress: JobProgress) -> None:
        if self._bar is None:
            self._bar = _make_bar(total=progress.total, initial=0, unit=" docs")
        kept = progress.kept - self._bar.initial  # no speed of this run
        self._bar.initial += kept
        self._bar.n += kept
        self._bar.last_print_n += kept
        self._bar.update(progress.done - self._bar.n)
        if progress.failed:
            self._bar.set_postfix_str(f"{progress.failed} failed", refresh=False)


def describe_progress(progress: JobProgress, seconds: float) -> str:
    """Return how far a job is after ``seconds``, as one line."""
    of = f" of {progress.total:,}" if progress.total else ""
    failed = f", {progress.failed:,} failed" if progress.failed else ""
    rate = (progress.done - progress.kept) / seconds if seconds > 0 else 0.0
    if not rate:
        return f"{progress.done:,}{of} texts{failed}"
    left = max(0, (progress.total or 0) - progress.done) / rate
    when = f", {left:,.0f} s left" if progress.total else ""
    return f"{progress.done:,}{of} texts, {rate:,.1f} docs/s{when}{failed}"


def describe_report(report: JobReport, seconds: float) -> str:
    """Return what a job made in ``seconds``: texts read, the vectors of them, and how fast."""
    made = report.texts - report.kept
    kept = f", {report.kept:,} of them from an earlier run" if report.kept else ""
    failed = f", {report.failed:,} failed" if report.failed else ""
    rate = f", {made / seconds:,.0f} texts/s" if made and seconds > 0 else ""
    vectors = f"{report.texts - report.failed:,} x {report.dimensions}"
    return f"{vectors} of {report.texts:,} texts{kept}{failed}, {seconds:,.0f} s{rate}"


def describe(event: Event) -> str:
    """Return an event as one line of text."""
    name = f"{event.name}: "
    if isinstance(event, Resolved):
        resumed = f", going on from {format_bytes(event.have)}" if event.have else ""
        return f"{name}{format_bytes(event.size)} from {event.url}{resumed}"
    if isinstance(event, (Advanced, Following)):
        share = f" ({event.done * 100 // event.size} %)" if event.size else ""
        other = " by another process" if isinstance(event, Following) else ""
        return f"{name}{format_bytes(event.done)} of {format_bytes(event.size)}{share}{other}"
    if isinstance(event, Retrying):
        return f"{name}{event.reason}; again in {event.seconds:.1f} s"
    if isinstance(event, Checking):
        return f"{name}checking {format_bytes(event.size)}"
    if isinstance(event, Converting):
        return f"{name}converting ({event.conversion})"
    if isinstance(event, Noticed):
        return f"{name}{event.text}"
    if isinstance(event, Present):
        return f"{name}already here ({format_bytes(event.size)})"
    return f"{name}{format_bytes(event.size)}, {_TRUST_WORDS[event.trust]}"
