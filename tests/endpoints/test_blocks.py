"""``endpoint`` and ``aendpoint`` with the real engine: shared with `exec`, and ended with their blocks."""

from __future__ import annotations

import asyncio
import inspect
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import llamafile_mgr
from llamafile_mgr.errors import NotFoundError, UsageError
from tests.support.golden import golden_cosine
from tests.support.leased import await_nobody, engines, services, wait_until
from tests.support.reranker import ANSWERS, fit_reranker
from tests.support.service import environment, run_program, share_store

MODEL = "all-minilm-l6-v2"


@pytest.fixture
def home(model_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a home of its own that this process uses."""
    share_store(model_home, tmp_path)
    (tmp_path / "config.toml").write_text(f'[models."{MODEL}"]\nreplicas = 1\nthreads = 1\n')
    monkeypatch.setenv("LLAMAFILE_MGR_HOME", str(tmp_path))
    monkeypatch.setenv("LLAMAFILE_MGR_ENGINES_SEARCH_PATH", "no")  # as for programs that tests start
    yield tmp_path
    for left in [*services(tmp_path), *engines(tmp_path)]:
        left.kill()


def test_a_block(home: Path) -> None:
    with llamafile_mgr.endpoint(embed=MODEL) as outer:
        assert golden_cosine("hello world", outer.embed(["hello world"])[0]) >= 0.999
        assert outer.openai_kwargs() == {"base_url": f"{outer.url}/v1", "api_key": "none"}
        assert outer.models_by_role == {"embed": MODEL}
        with llamafile_mgr.endpoint(embed=MODEL) as inner:
            assert inner.url == outer.url
        used = run_program(home, "exec", "--embed", MODEL, "--", "sh", "-c", "echo $LLAMAFILE_URL")
        assert used.stdout.strip() == outer.url
        assert len(services(home)) == len(engines(home)) == 1
    await_nobody(home)


def test_several_models_of_a_role(home: Path, tiny_generator: Path) -> None:
    names = ["one", "two"]
    one, two = (str(shutil.copy(tiny_generator, home / f"{name}.gguf")) for name in names)
    with (home / "config.toml").open("a") as settings:
        settings.write(f'[serve]\nembed = "{MODEL}"\n')
    with llamafile_mgr.endpoint(generate=[two, one]) as ep:
        assert ep.models_by_role == {"embed": MODEL, "generate": "two"}
        assert [each.name for each in ep.models()] == [MODEL, "two", "one"]
    await_nobody(home)
    with llamafile_mgr.endpoint(embed=[], generate=one) as ep:
        assert ep.models_by_role == {"generate": "one"}
    await_nobody(home)


async def test_an_async_block(home: Path) -> None:
    async def use() -> str:
        async with llamafile_mgr.aendpoint(embed=MODEL) as ep:
            assert len(await ep.embed(["hello"])) == 1
            assert ep.openai_kwargs()["base_url"] == f"{ep.url}/v1"
            await asyncio.sleep(1)
            url: str = ep.url
            return url

    assert len(set(await asyncio.gather(use(), use(), use()))) == 1
    await asyncio.to_thread(await_nobody, home)


async def test_a_cancelled_wait_gives_the_lease_back(home: Path) -> None:
    async def use() -> None:
        async with llamafile_mgr.aendpoint(embed=MODEL):
            raise AssertionError("was not cancelled")

    task = asyncio.create_task(use())
    await asyncio.to_thread(wait_until, lambda: bool(services(home)), "no service was started")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(await_nobody, home)


def test_a_reranker(home: Path, minilm: Path) -> None:
    model = fit_reranker(minilm, home / "tiny-reranker.gguf")
    with llamafile_mgr.endpoint(rerank=str(model)) as ep:
        for number, question in enumerate(ANSWERS):
            best, second = ep.rerank(question, list(ANSWERS.values()), top_n=2)
            assert best.index == number
            assert best.score > second.score
        assert [each.role for each in ep.models()] == ["rerank"]
    await_nobody(home)


def test_a_script_that_ends_without_leaving_its_block(home: Path) -> None:
    code = (
        "import os, llamafile_mgr\n"
        f"block = llamafile_mgr.endpoint(embed={MODEL!r})\n"
        "print(block.__enter__().embed_one('hello')[0] != 0, flush=True)\n"
        "os._exit(3)"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment(home),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (3, "True\n", "")
    await_nobody(home)


def test_models_that_cannot_be_served(home: Path) -> None:
    with pytest.raises(NotFoundError, match="not in the store"), llamafile_mgr.endpoint(embed="other"):
        pass
    with pytest.raises(UsageError, match="no model"), llamafile_mgr.endpoint():
        pass


def test_what_is_public() -> None:
    public = llamafile_mgr.__all__
    assert public == sorted(public)
    assert all(getattr(llamafile_mgr, name) is not None for name in public)
    assert set(public) <= set(dir(llamafile_mgr))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        llamafile_mgr.nothing  # noqa: B018


def test_both_clients_offer_the_same() -> None:
    def shape(cls: type) -> dict[str, inspect.Signature]:
        methods = {n: m for n, m in vars(cls).items() if callable(m) and not n.startswith("_")}
        return {name: inspect.signature(method) for name, method in methods.items()}

    assert shape(llamafile_mgr.Client) == shape(llamafile_mgr.AsyncClient)
