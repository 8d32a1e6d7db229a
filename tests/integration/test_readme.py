"""Everything that the README shows, run as it stands there: commands, programs, settings and tables.

The lines for a shell are a story, told in one home with one running service; ``tests.support.story`` names
what stands in for what.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import shlex
import shutil
import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from llamafile_mgr.addresses import RemoteConfig
from llamafile_mgr.benchmarking.reports import BenchReport, report_json
from llamafile_mgr.catalog import Role, load_catalog
from llamafile_mgr.config import DownloadConfig, EnginesConfig, ModelConfig, ServeConfig
from llamafile_mgr.config_reading import load_config
from tests.support.commands import all_commands, find_commands, parse_command
from tests.support.readme import README, Fence, fences, inline_commands, json_keys, json_rows, table_after
from tests.support.service import share_store
from tests.support.story import SERVE_LINES, STAND_INS, Story

ROOT = Path(__file__).parent.parent.parent
MODEL = "all-minilm-l6-v2"
PLUGIN = "llamafile_mgr.pytest_plugin"

# A fence holds up to ten commands, and a busy machine takes seconds for each.
pytestmark = pytest.mark.timeout(150)

#: Programs other than ours that a dry run knows.
INSTALLERS = ("pip", "./scripts/quickstart", "./scripts/test")


SHELL = [fence for fence in fences("sh") if not fence.dry]
DRY = [fence for fence in fences("sh") if fence.dry]
PYTHON = fences("python")
TOML = fences("toml")


@pytest.fixture(scope="module")
def story(
    model_home: Path, tiny_generator: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Story]:
    """Set the scene and clear it at the end."""
    place = tmp_path_factory.mktemp("readme")
    share_store(model_home, place / "home")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    story = Story(place / "home", place / "folder", port)
    shutil.copy(tiny_generator, story.folder / STAND_INS["qwen3-5-2b"])
    yield story
    story.stop()


def test_every_fence_is_of_a_kind_that_is_run() -> None:
    assert {fence.kind for fence in fences()} == {"sh", "python", "toml"}
    assert README.count("```") == 2 * len(fences())
    assert all(fence.dry is None for fence in (*PYTHON, *TOML))
    assert len(SHELL) > len(DRY) > 0


@pytest.mark.parametrize("fence", SHELL, ids=str)
def test_commands(story: Story, fence: Fence) -> None:
    for line in fence.commands:
        for arguments in find_commands(line):
            parse_command(arguments)
        if line in SERVE_LINES:
            story.serve(line)
            continue
        story.need_service()
        told = story.run(line)
        if line.startswith("curl "):
            assert isinstance(json.loads(told), dict)
        elif not line.startswith(("llamafile-mgr verify", "llamafile-mgr pull")):
            assert told.strip() or " -o " in line, line


@pytest.mark.parametrize("fence", DRY, ids=str)
def test_dry_commands(story: Story, fence: Fence) -> None:
    for line in fence.commands:
        calls = find_commands(line)
        if not calls:
            check_installer(line)
        for arguments in calls:
            parse_command(arguments)
            if arguments[0] == "pull":
                plain = [word for word in arguments if word != "--lock"]
                assert "Address" in story.run(shlex.join(["llamafile-mgr", *plain, "--dry-run"]))
            elif arguments[:2] == ["service", "install"] and "--system" not in arguments:
                assert "would run" in story.run(shlex.join(["llamafile-mgr", *arguments, "--dry-run"]))


def check_installer(line: str) -> None:
    """Check what can be checked of a command that would change the machine."""
    words = shlex.split(line)
    assert words[0] in INSTALLERS, line
    if words[0].startswith("./"):
        assert (ROOT / words[0]).stat().st_mode & 0o111
    with (ROOT / "pyproject.toml").open("rb") as stream:
        extras = tomllib.load(stream)["project"]["optional-dependencies"]
    named = re.findall(r"\[([\w,]+)\]", line)
    assert all(extra in extras for group in named for extra in group.split(","))


@pytest.mark.parametrize("fence", PYTHON, ids=str)
def test_programs(story: Story, fence: Fence) -> None:
    story.need_service()
    ast.parse(fence.body)
    program = story.folder / (fence.file or f"fence{fence.line}.py")
    program.write_text(fence.body, encoding="utf-8")
    if program.name.startswith("test_"):
        told = story.run(f"PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 python -m pytest -q -p {PLUGIN} {program.name}")
        assert "1 passed" in told
    elif fence.file:
        assert story.run(f"llamafile-mgr exec --embed {MODEL} -- python {program.name}").strip()
    else:
        story.run(f"python -W error {program.name}")


@pytest.mark.parametrize("fence", TOML, ids=str)
def test_settings(fence: Fence, tmp_path: Path) -> None:
    if fence.file:
        with (ROOT / "llamafile_mgr/pytest_plugin.py").open(encoding="utf-8") as stream:
            plugin = stream.read()
        for key in tomllib.loads(fence.body)["tool"]["pytest"]["ini_options"]:
            assert key.removeprefix("llamafile_") in ("embed", "generate", "rerank")
            assert "llamafile_{role}" in plugin
        return
    file = tmp_path / "config.toml"
    file.write_text(fence.body, encoding="utf-8")
    assert load_config(tmp_path / "none", file=file, environ={}).models


@pytest.mark.parametrize("line", inline_commands())
def test_commands_in_sentences_parse(line: str) -> None:
    [arguments] = find_commands(line)
    try:
        parse_command(arguments)
    except click.ClickException as error:
        raise AssertionError(f"{line}: {error.format_message()}") from error


@pytest.mark.parametrize(
    ("head", "schema"),
    [
        ("`[serve]`", ServeConfig),
        ("`[download]`", DownloadConfig),
        ("`[engines]`", EnginesConfig),
        ('`[models."NAME"]`, unset keys are the planner\'s choice', ModelConfig),
        ("`remote`, of one table", RemoteConfig),
    ],
)
def test_the_tables_of_settings_have_every_key_and_default(head: str, schema: type) -> None:
    rows = table_after(head)
    assert [(row[0].strip("`"), row[1]) for row in rows] == [
        (field.name, written(field.default)) for field in dataclasses.fields(schema)
    ]
    assert all(row[2] for row in rows)


def written(value: object) -> str:
    """Return a default as the README writes it."""
    if value is dataclasses.MISSING:
        return "required"
    if value is None:
        return ""
    if value == ():
        return "`[]`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{json.dumps(value)}`"


def test_the_table_of_models_is_the_catalogs() -> None:
    catalog = load_catalog()
    for row in table_after("for"):
        model = catalog.models[row[1].strip("`")]
        memory = "" if model.memory_gb is None else f"{model.memory_gb:g} GB"
        assert row[2:] == [model.licence, memory, str(model.dimensions)]
        assert model.role is Role.EMBED


def test_the_table_of_extras_is_the_projects() -> None:
    with (ROOT / "pyproject.toml").open("rb") as stream:
        extras = set(tomllib.load(stream)["project"]["optional-dependencies"])
    assert {row[0].strip("`") for row in table_after("extra")} == extras - {"dev", "test"}


def test_measurements_name_scripts_that_are_there() -> None:
    for row in table_after("what"):
        script = ROOT / row[2].strip("`").split()[0]
        assert script.stat().st_mode & 0o111, script


def test_the_links_lead_somewhere() -> None:
    heads = {
        re.sub(r"[^\w -]", "", head).lower().replace(" ", "-")
        for head in re.findall(r"^#+ (.+)$", README, re.M)
    }
    assert set(re.findall(r"\]\(#([\w-]+)\)", README)) <= heads


#: Name in the README's table -> a command line that prints it; ``{file}`` is a new one.
PRINTS = {
    "pull": f"pull {MODEL}",
    "pull --dry-run": f"pull --dry-run {MODEL}",
    "list": "list",
    "verify": "verify",
    "kit export": f"kit export json.kit {MODEL}",
    "show": f"show {MODEL}",
    "recommend": "recommend",
    "plan": f"plan {MODEL}",
    "doctor": "doctor --port 0",
    "status": "status",
    "ps": "ps",
    "logs": f"logs {MODEL}",
    "load": f"load {MODEL}",
    "embed": f"embed --model {MODEL} --text hello",
    "cache stats": "cache stats",
    "cache clear": "cache clear",
    "service install": f"service install --embed {MODEL} --dry-run",
    "prune": "prune --dry-run --all",
}


@pytest.mark.parametrize("name", PRINTS)
def test_json_has_the_keys_that_the_table_names(story: Story, name: str) -> None:
    story.need_service()
    if name == "prune":
        (story.folder.parent / "home/store/blobs" / ("0" * 64)).write_bytes(b"nobody's")
    flag = "" if name == "embed" else " --json"
    text = story.run(f"llamafile-mgr {PRINTS[name]}{flag}")
    told = json_rows()[name]
    if "lines" in told.split("`")[0]:
        values = [json.loads(line) for line in text.splitlines()]
    else:
        value = json.loads(text)
        assert isinstance(value, list) == told.startswith("list"), name
        values = value if isinstance(value, list) else [value]
    assert values
    if name == "pull":  # events of several kinds; the first ones may say which file was chosen
        values = values[-1:]
    [keys] = {tuple(value) for value in values}
    named = json_keys(name)
    assert set(named) <= set(keys), (name, keys)
    if "..." not in told and name != "pull":
        assert set(named) == set(keys), name


def test_the_table_of_json_knows_every_command() -> None:
    with_json = {
        name
        for name, command in all_commands()
        if any("--json" in parameter.opts for parameter in command.params)
    }
    assert with_json <= set(json_rows())


def test_serve_prints_the_events_of_the_table(story: Story) -> None:
    story.need_service()
    assert [event["event"] for event in story.events] == ["listening", "ready"]
    named = re.findall(r"`(\w+)`", json_rows()["serve"])
    assert set(named) == {key for event in story.events for key in event}


def test_bench_prints_the_keys_of_the_table() -> None:
    report = BenchReport(MODEL, rounds=1, seconds=1.0, texts=1, results=())
    assert list(report_json(report)) == re.findall(r"`(\w+)`", json_rows()["bench"])
