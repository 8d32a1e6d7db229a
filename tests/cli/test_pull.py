"""The commands around the store, as a user runs them."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llamafile_mgr.cli import COMMANDS, run
from llamafile_mgr.cli.progress import BarDisplay, LineDisplay, describe, make_display
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
)
from llamafile_mgr.store import Store
from llamafile_mgr.store.lockfile import read_lock
from tests.faults.hub import Hub, content
from tests.support.models import write_tiny_generator
from tests.support.side_models import write_adapter, write_projector

MINE = ("pull", "list", "rm", "prune", "verify", "import", "kit")
DATA = content(1_000_000)
SOURCE = "hf:org/repo/model.llamafile"


@dataclass
class ThreadedHub:
    """A hub on a loop of its own, for commands that run a loop themselves."""

    hub: Hub = field(default_factory=Hub)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def start(self) -> None:
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        asyncio.run_coroutine_threadsafe(self.hub.start(), self.loop).result(10)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.end(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def end(self) -> None:
        await self.hub.stop()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    threaded = ThreadedHub()
    threaded.start()
    threaded.hub.add("model.llamafile", DATA)
    for name in list(os.environ):
        if name.startswith(("LLAMAFILE_MGR_", "HF_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LLAMAFILE_MGR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_ENDPOINT", threaded.hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.chdir(tmp_path)
    yield threaded.hub
    threaded.stop()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home" / "store")


@pytest.mark.parametrize("name", MINE)
def test_every_command_has_help_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    assert "Examples:" in capsys.readouterr().out
    assert name in COMMANDS


def test_from_pull_to_rm(hub: Hub, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pull", SOURCE, "--name", "mine", "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["resolved", "published"]
    assert events[-1]["digest"] == hashlib.sha256(DATA).hexdigest()
    assert run(["pull", SOURCE, "--name", "mine", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")

    assert run(["list"]) == 0
    output = capsys.readouterr().out
    assert "mine" in output
    assert "hub" in output
    assert run(["list", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["size"], listed["damaged"]) == ("mine", len(DATA), False)

    assert run(["verify"]) == 0
    assert "mine: sound" in capsys.readouterr().out
    assert run(["rm", "mine"]) == 0
    assert "1 MB freed" in capsys.readouterr().out
    assert run(["rm", "mine"]) == 4
    assert "llamafile-mgr list" in capsys.readouterr().err
    assert run(["list"]) == 0
    assert "empty" in capsys.readouterr().out
    assert store.entries() == []


def test_damage_is_an_exit_code_and_repair_mends_it(
    hub: Hub, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["pull", SOURCE, "--name", "mine"]) == 0
    path = store.find("mine").path
    path.chmod(0o600)
    path.write_bytes(DATA[:-3] + b"rot")
    assert run(["verify", "mine", "--json"]) == 6
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["sound"], found["damage"], found["repaired"]) == (False, [[0, len(DATA)]], False)
    assert run(["list"]) == 0
    assert "DAMAGED" in capsys.readouterr().out
    assert run(["verify", "--repair", "--json"]) == 0
    printed = capsys.readouterr()
    (found,) = json.loads(printed.out)  # one document, after the work
    assert (found["sound"], found["repaired"]) == (False, True)
    assert "checked against" in printed.err
    assert store.find("mine").path.read_bytes() == DATA


def test_what_could_not_be_repaired_is_listed_before_the_error(
    hub: Hub, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.gguf").write_bytes(DATA)
    assert run(["import", str(tmp_path / "a.gguf"), "--name", "mine"]) == 0
    path = store.find("mine").path
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    capsys.readouterr()
    assert run(["verify", "--repair", "--json"]) == 6
    printed = capsys.readouterr()
    assert [(one["sound"], one["repaired"]) for one in json.loads(printed.out)] == [(False, False)]
    assert "imported from a file" in printed.err


def test_a_lock_file_pins_and_a_locked_pull_takes_exactly_that(
    hub: Hub, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["pull", "--lock", SOURCE, "--name", "mine"]) == 0
    pin = read_lock(tmp_path / "llamafile.lock")["mine"]
    assert (pin.size, pin.sha256) == (len(DATA), hashlib.sha256(DATA).hexdigest())
    assert pin.source.endswith("@0123456789abcdef0123456789abcdef01234567")
    assert run(["pull", "--locked"]) == 0
    assert run(["rm", "mine"]) == 0
    assert run(["pull", "--locked", "mine"]) == 0
    assert store.find("mine").path.read_bytes() == DATA
    assert run(["rm", "mine"]) == 0
    hub.add("model.llamafile", content(1_000_000, seed=2))
    assert run(["pull", "--locked"]) == 6
    assert "nothing was fetched" in capsys.readouterr().err
    assert run(["pull", "--locked", "other"]) == 4
    assert run(["pull", "--locked", "--update"]) == 2
    (tmp_path / "llamafile.lock").write_text("version = 9")
    assert run(["pull", "--locked"]) == 5


def test_a_kit_goes_to_another_home(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["pull", SOURCE, "--name", "mine"]) == 0
    assert run(["kit", "export", "office.kit"]) == 0
    assert run(["kit", "export", "office.kit", "mine"]) == 8
    monkeypatch.setenv("LLAMAFILE_MGR_HOME", str(tmp_path / "island"))
    assert run(["kit", "export", "empty.kit"]) == 4
    capsys.readouterr()
    assert run(["kit", "import", "office.kit", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert Path(entry["path"]).read_bytes() == DATA
    assert entry["path"].startswith(str(tmp_path / "island"))


def test_import_and_a_pull_of_a_path(
    hub: Hub, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.gguf").write_bytes(DATA)
    assert run(["import", "one.gguf", "--name", "one"]) == 0
    assert "its digest was recorded" in capsys.readouterr().out
    assert run(["pull", "./one.gguf"]) == 0
    assert store.find("one").path == store.find("one.gguf").path
    assert run(["import", "none.gguf"]) == 4
    assert run(["import", "one.gguf", "--sha256", "0" * 64]) == 5
    assert run(["import", "one.gguf", "--sha256", "nonsense"]) == 2
    assert hub.requests == []


def test_prune_shows_and_removes(hub: Hub, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prune"]) == 0
    assert run(["pull", SOURCE, "--name", "mine"]) == 0
    store.layout.record("mine").unlink()
    capsys.readouterr()
    assert run(["prune", "--dry-run"]) == 0
    assert "1 MB would be freed" in capsys.readouterr().out
    assert run(["prune", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["size"] == len(DATA)
    assert not list((store.root / "blobs").iterdir())


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["pull"], 2, "pull what?"),
        (["pull", "mxbai-embed"], 4, "did you mean"),
        (["pull", "http://example.com/x"], 2, "not encrypted"),
        (["pull", SOURCE, "--name", "../x"], 2, "cannot be a name"),
        (["pull", SOURCE, "--sha256", "zz"], 2, "no sha256"),
        (["pull", SOURCE, SOURCE, "--name", "x"], 2, "one file"),
        (["pull", SOURCE, "--offline"], 7, "switched off"),
        (["pull", "hf:org/repo/none"], 4, "there is no"),
        (["pull", "./none.gguf"], 4, "there is no file"),
        (["pull", SOURCE, "--jobs", "17"], 2, "17"),
        (["rm"], 2, "NAME"),
        (["verify", "none"], 4, "not in the store"),
        (["kit", "import", "none"], 4, "no kit"),
    ],
)
def test_mistakes(
    hub: Hub, arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == code
    errors = capsys.readouterr().err
    assert says in errors
    assert "Traceback" not in errors


def test_a_wrong_pin_is_found_before_a_byte_is_fetched(hub: Hub) -> None:
    assert run(["pull", SOURCE, "--sha256", "0" * 64]) == 6
    assert hub.count("cdn") == 0


EVENTS: list[Event] = [
    Resolved("m", "https://x", 100, None, "hub", 40),
    Advanced("m", 50, 100, 4),
    Advanced("m", 45, 100, 4),
    Following("m", 70, 100),
    Retrying("m", "the connection broke", 0.5),
    Noticed("m", "something"),
    Checking("m", 100),
    Converting("m", "bert-wheel"),
    Published("m", "a" * 64, 100, "first-use", "/x", 60),
    Present("m", "a" * 64, 100),
]


def test_every_event_has_a_line() -> None:
    lines = [describe(event) for event in EVENTS]
    assert all(line.startswith("m: ") for line in lines)
    assert "going on from 40 B" in lines[0]
    assert "trusted on first use" in lines[8]


def test_bars_start_where_an_earlier_attempt_ended_and_never_go_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with BarDisplay(files=2) as display:
        seen = []
        for event in EVENTS:
            display(event)
            bar = display.__dict__["_bar"]
            seen.append(bar.n if bar is not None else None)
        assert seen[:4] == [40, 50, 50, 70]
        assert display.__dict__["_total"].n == 70
    assert "going on from" in capsys.readouterr().err


def test_the_display_fits_where_it_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(make_display(as_json=False, quiet=False), LineDisplay)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert isinstance(make_display(as_json=False, quiet=False), BarDisplay)
    display = make_display(as_json=False, quiet=True)
    for event in EVENTS:
        display(event)
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="the wheel is not installed")
def test_with_a_model_come_the_files_that_its_settings_name(
    hub: Hub, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    projector = write_projector(tmp_path / "p.gguf").read_bytes()
    adapter = write_adapter(tmp_path / "a.gguf").read_bytes()
    hub.add("mmproj.gguf", projector)
    hub.add("adapter.gguf", adapter)
    write_tiny_generator(tmp_path / "tiny.gguf")
    hub.add("tiny.gguf", (tmp_path / "tiny.gguf").read_bytes())
    sources = {"mmproj": "hf:org/repo/mmproj.gguf", "lora": "hf:org/repo/adapter.gguf"}
    settings = tmp_path / "home" / "config" / "config.toml"
    settings.parent.mkdir(parents=True, exist_ok=True)
    lora = f'{{file = "{sources["lora"]}", scale = 0.5}}'
    settings.write_text(f'[models."tiny"]\nmmproj = "{sources["mmproj"]}"\nlora = [{lora}]\n')
    with_settings = ["--config", str(settings)]
    assert run(["pull", "hf:org/repo/tiny.gguf", "--name", "tiny", "--quiet"]) == 0
    assert run([*with_settings, "plan", "tiny"]) == 4
    error = capsys.readouterr().err
    assert "models.tiny.mmproj: hf:org/repo/mmproj.gguf is not in the store" in error
    assert "llamafile-mgr pull hf:org/repo/mmproj.gguf --name tiny.mmproj" in error

    assert run([*with_settings, "pull", "hf:org/repo/tiny.gguf", "--name", "tiny", "--quiet"]) == 0
    assert {entry.name for entry in store.entries()} == {"tiny", "tiny.mmproj", "tiny.lora-1"}
    by_name = {entry.name: entry for entry in store.entries()}
    assert by_name["tiny.mmproj"].digest == hashlib.sha256(projector).hexdigest()
    capsys.readouterr()
    assert run([*with_settings, "plan", "tiny", "--json"]) == 0
    (plan,) = json.loads(capsys.readouterr().out)["plans"]
    command = plan["command"]
    assert command[command.index("--mmproj") + 1] == str(by_name["tiny.mmproj"].path)
    assert command[command.index("--lora-scaled") + 1] == f"{by_name['tiny.lora-1'].path}:0.5"
    assert plan["memory"]["beside"] >= len(projector) + len(adapter)
