"""The pytest plugin as projects use it: in sessions of their own, with the real engine."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.leased import await_nobody
from tests.support.service import share_store

pytest_plugins = ["pytester"]

Run = Callable[..., pytest.RunResult]

MODEL = "all-minilm-l6-v2"
PLUGIN = "llamafile_mgr.pytest_plugin"
#: Every warning is an error but that of an unset option of pytest-asyncio, which is there too. A plugin of
#: one of the client libraries takes longer to load than all others together.
OPTIONS = ("-W", "error", "-W", "ignore::pytest.PytestDeprecationWarning", "-p", "no:langsmith_plugin")
TEST = """
def test_it(llamafile_endpoint):
    assert len(llamafile_endpoint.embed_one("hello")) == 384
def test_again(llamafile_endpoint):
    assert llamafile_endpoint.models_by_role == {"embed": "all-minilm-l6-v2"}
"""


@pytest.fixture
def run(
    pytester: pytest.Pytester,
    model_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Run:
    """Return what runs a session with the plugin, installed or not."""
    home = pytester.path / "home"
    share_store(model_home, home)
    monkeypatch.setenv("LLAMAFILE_MGR_HOME", str(home))
    loaded = any(
        getattr(plugin, "__name__", "") == PLUGIN for plugin in request.config.pluginmanager.get_plugins()
    )

    def session(*arguments: str) -> pytest.RunResult:
        load = () if loaded else ("-p", PLUGIN)
        result = pytester.runpytest_subprocess(*OPTIONS, "--strict-markers", *load, *arguments, timeout=50)
        await_nobody(home)
        return result

    return session


def test_by_the_ini_file(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeini(f"[pytest]\nllamafile_embed = {MODEL}\n")
    pytester.makepyfile(TEST)
    run().assert_outcomes(passed=2)


def test_several_models_of_a_role(
    pytester: pytest.Pytester, run: Run, minilm: Path, tiny_generator: Path
) -> None:
    pytester.path.joinpath("home").mkdir(exist_ok=True)
    (pytester.path / "home" / "config.toml").write_text("[serve]\ngenerate = 'not-for-tests'\n")
    shutil.copy(tiny_generator, pytester.path / "one.gguf")
    shutil.copy(tiny_generator, pytester.path / "two.gguf")
    pytester.makepyprojecttoml(
        f"[tool.pytest.ini_options]\nllamafile_embed = '{MODEL}'\n"
        "llamafile_generate = ['./two.gguf', './one.gguf']\n"
    )
    pytester.makepyfile(
        """
        def test_it(llamafile_endpoint):
            assert [each.name for each in llamafile_endpoint.models()] == NAMES
            assert llamafile_endpoint.models_by_role == {"embed": NAMES[0], "generate": NAMES[1]}
        """.replace("NAMES", str([MODEL, "two", "one"]))
    )
    run().assert_outcomes(passed=1)
    told = run("--llamafile-generate", "one.gguf", "--llamafile-generate", "two.gguf")
    told.assert_outcomes(failed=1)
    told.stdout.fnmatch_lines(["*'one', 'two'*"])


def test_a_marker_comes_before_the_ini_file(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makeini("[pytest]\nllamafile_embed = other\n")
    pytester.makepyfile(f"import pytest\npytestmark = pytest.mark.llamafile(embed={MODEL!r})\n{TEST}")
    run().assert_outcomes(passed=2)
    told = run("--llamafile-embed", "missing")  # the command line comes before both
    told.assert_outcomes(errors=2)
    told.stdout.fnmatch_lines(["llamafile_endpoint: missing is not in the store*"])
    told.stdout.no_fnmatch_line("*Error*(*")  # what to do, and no traceback of ours


def test_without_a_model_or_with_two(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(TEST)
    nothing = run()
    nothing.assert_outcomes(errors=2)
    nothing.stdout.fnmatch_lines(["*llamafile_endpoint needs a model*"])
    marks = "".join(
        f"@pytest.mark.llamafile(embed={name!r})\ndef test_{name}(llamafile_endpoint): pass\n"
        for name in ("one", "two")
    )
    pytester.makepyfile(f"import pytest\n{marks}")
    two = run()
    two.assert_outcomes(errors=2)
    two.stdout.fnmatch_lines(["*markers name one, two*"])


def test_it_loads_nothing_that_is_not_asked_for() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import llamafile_mgr.pytest_plugin; "
        "print(*sorted(set(sys.modules) - before))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["llamafile_mgr", PLUGIN]


def test_it_is_announced_to_pytest() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["entry-points"]["pytest11"] == {"llamafile-mgr": PLUGIN}
