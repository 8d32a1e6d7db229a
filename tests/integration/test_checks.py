"""What becomes ready and what does not, on real engines: quantised, damaged and wrongly read models."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from llamafile_mgr.benchmarking.texts import read_docstrings
from llamafile_mgr.config import Config, ModelConfig
from llamafile_mgr.embedding.readiness import Baselines, make_checks
from llamafile_mgr.engines.families import family_rules
from llamafile_mgr.engines.transport import EngineClient
from llamafile_mgr.errors import EngineError, EngineStartError
from llamafile_mgr.launching.local_plans import make_plans
from llamafile_mgr.launching.wanted import Wanted, WantedModels
from llamafile_mgr.paths import resolve_paths
from llamafile_mgr.planner.plans import Acceptance, Plan
from llamafile_mgr.supervisor.engine_start import choose_port
from tests.support.golden import cosine, golden_cosine
from tests.support.llamafiles import pack_classic
from tests.support.models import forget_added_eos
from tests.support.quantising import rewrite
from tests.support.service import Service, run_program, running_service

TEXTS = 400
#: Engines that share two cores with others take their time to load.
PATIENT = "[serve]\nload_stall_seconds = 60\n"


def embed(service: Service, texts: Sequence[str], model: str) -> list[list[float]]:
    body = {"input": list(texts), "model": model, "encoding_format": "float"}
    reply = httpx.post(f"{service.url}/v1/embeddings", json=body, timeout=300)
    assert reply.status_code == 200, reply.text
    return [entry["embedding"] for entry in reply.json()["data"]]


def test_honest_quantisations_of_an_unknown_model_become_ready(minilm: Path, tmp_path: Path) -> None:
    least = {"Q8_0": 0.998, "Q6_K": 0.996, "Q5_K_M": 0.98, "Q4_K_M": 0.98, "Q4_0": 0.9, "Q2_K": 0.65}
    files = [rewrite(minilm, tmp_path / f"{mixture}.gguf", mixture) for mixture in least]
    flags = [word for file in files for word in ("--embed", str(file))]
    (tmp_path / "config.toml").write_text(PATIENT)
    with running_service(tmp_path, *flags) as service:
        for mixture, limit in least.items():
            [vector] = embed(service, ["hello world"], mixture)
            assert golden_cosine("hello world", vector) >= limit


def hole(tensor: str) -> Callable[[str, np.ndarray], np.ndarray]:
    """Return a change that empties the second half of one tensor."""

    def change(name: str, data: np.ndarray) -> np.ndarray:
        if name != tensor:
            return data
        damaged = data.copy()
        damaged[len(data) // 2 :] = 0
        return damaged

    return change


def garbage(tensor: str) -> Callable[[str, np.ndarray], np.ndarray]:
    """Return a change that fills one tensor with noise."""

    def change(name: str, data: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(1).bytes(data.nbytes)
        return np.frombuffer(noise, data.dtype).reshape(data.shape) if name == tensor else data

    return change


def another_models(words: list[str]) -> list[str]:
    """Return a vocabulary whose words stand elsewhere, as another model's would."""
    return [*words[:1000], *words[6000:], *words[1000:6000]]


@pytest.mark.parametrize(
    ("mixture", "changes", "cause"),
    [
        ("F16", {"change": hole("blk.3.ffn_up.weight")}, "blk.3.ffn_up.weight has a part without"),
        ("Q8_0", {"change": garbage("blk.1.attn_v.weight")}, "blk.1.attn_v.weight holds numbers"),
        ("Q4_K_M", {"change": garbage("token_embd.weight")}, "token_embd.weight holds numbers"),
        ("F16", {"tokens": another_models}, "texts that mean the same|a text with itself and a word more"),
    ],
)
def test_a_damaged_file_or_a_wrong_tokenizer_never_serves(
    minilm: Path, tmp_path: Path, mixture: str, changes: dict[str, Any], cause: str
) -> None:
    file = rewrite(minilm, tmp_path / "broken.gguf", mixture, **changes)
    (tmp_path / "config.toml").write_text(f"{PATIENT}[models.broken]\nreplicas = 1\n")
    result = run_program(tmp_path, "serve", "--port", "0", "--embed", str(file), seconds=120)
    assert result.returncode == 12, result.stderr
    assert any(part in result.stderr for part in cause.split("|")), result.stderr


def test_who_accepts_coarse_vectors_accepts_no_damage(minilm: Path, tmp_path: Path) -> None:
    name = "all-minilm-l6-v2"
    broken = rewrite(minilm, tmp_path / f"{name}.gguf", "Q8_0", name=name, change=hole("blk.3.ffn_up.weight"))
    (tmp_path / "config.toml").write_text(f'{PATIENT}[models."{name}"]\nreplicas = 1\nleast_cosine = 0.0\n')
    result = run_program(tmp_path, "serve", "--port", "0", "--embed", str(broken), seconds=120)
    assert result.returncode == 12, result.stderr
    assert "blk.3.ffn_up.weight has a part without" in result.stderr


def test_a_coarser_file_than_its_kind_is_served_on_purpose(minilm: Path, tmp_path: Path) -> None:
    # Two bits a weight in a file that says that it has eight: as a mixture with a few coarse tensors.
    coarse = rewrite(
        minilm, tmp_path / "all-minilm-l6-v2.gguf", "Q2_K", name="all-minilm-l6-v2", number="Q8_0"
    )
    table = f'{PATIENT}[models."all-minilm-l6-v2"]\nreplicas = 1\n'
    (tmp_path / "config.toml").write_text(table)
    result = run_program(tmp_path, "serve", "--port", "0", "--embed", str(coarse), seconds=120)
    assert result.returncode == 12
    assert "with the model's known vectors (Q8_0 weights)" in result.stderr
    assert 'least_cosine in [models."all-minilm-l6-v2"]' in result.stderr
    (tmp_path / "config.toml").write_text(f"{table}least_cosine = 0.6\n")
    with running_service(tmp_path, "--embed", str(coarse)):
        told = run_program(tmp_path, "status").stdout
        assert "accepted: least_cosine accepts a cosine of 0.6 with the known vectors" in told


@pytest.fixture(scope="module")
def old_llamafile(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a WordPiece model in a llamafile of 0.8.4, as mxbai-embed-large-v1's is."""
    folder = tmp_path_factory.mktemp("old")
    plain = forget_added_eos(minilm, folder / "plain.gguf")
    named = rewrite(plain, folder / "weights.gguf", name="an-old-encoder")
    return pack_classic(named, folder / "an-old-encoder.llamafile")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Return docstrings of the standard library."""
    return read_docstrings(TEXTS)


@pytest.fixture(scope="module")
def true_vectors(service: Service, texts: list[str]) -> list[list[float]]:
    """Return what MiniLM's own engine makes of the texts."""
    return embed(service, texts, "all-minilm-l6-v2")


def test_an_old_llamafile_gives_true_vectors_of_400_texts(
    true_vectors: list[list[float]], texts: list[str], old_llamafile: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.toml").write_text(PATIENT)
    with running_service(tmp_path, "--embed", str(old_llamafile)) as ours:
        [model] = httpx.get(f"{ours.url}/v1/models").json()["data"]
        assert model["meta"]["engine_family"] != "v1"
        mine = embed(ours, texts, "an-old-encoder")
    assert min(cosine(*pair) for pair in zip(mine, true_vectors, strict=True)) >= 0.999
    shown = run_program(tmp_path, "plan", "--embed", str(old_llamafile)).stdout
    assert "wrong tokens with BERT models" in " ".join(shown.split())
    assert "wrong tokens with BERT models" in run_program(tmp_path, "show", str(old_llamafile)).stdout


def test_who_insists_gets_wrong_vectors_and_is_told(
    true_vectors: list[list[float]], texts: list[str], old_llamafile: Path, tmp_path: Path
) -> None:
    # This is also what makes the row of known-bad engines true.
    (tmp_path / "config.toml").write_text(f"{PATIENT}[models.an-old-encoder]\nallow_known_bad = true\n")
    with running_service(tmp_path, "--embed", str(old_llamafile)) as ours:
        [model] = httpx.get(f"{ours.url}/v1/models").json()["data"]
        assert model["meta"]["engine_family"] == "v1"
        told = run_program(tmp_path, "status").stdout
        mine = embed(ours, texts, "an-old-encoder")
    assert "accepted: its engine 0.8.4 cuts about 4 % of English texts into wrong tokens" in told
    wrong = sum(cosine(*pair) < 0.99 for pair in zip(mine, true_vectors, strict=True))
    assert 0.01 * TEXTS <= wrong <= 0.1 * TEXTS


@contextlib.contextmanager
def running_classic(file: Path) -> Iterator[int]:
    """Run a llamafile with the classic server, without this package; yields its port."""
    port = choose_port("127.0.0.1")
    flags = ("--server", "--host", "127.0.0.1", "--port", str(port), "--embedding", "-np", "1", "-c", "512")
    shell = shutil.which("sh") or "/bin/sh"
    with subprocess.Popen(
        [shell, str(file), *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=file.parent
    ) as process:
        try:
            yield port
        finally:
            process.kill()


@contextlib.asynccontextmanager
async def healthy_client(port: int) -> AsyncIterator[EngineClient]:
    client = EngineClient("127.0.0.1", port)
    try:
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(EngineError, httpx.HTTPError):
                    async with httpx.AsyncClient() as asking:
                        reply = await asking.get(f"http://127.0.0.1:{port}/health")
                        if reply.status_code == 200:
                            break
                await asyncio.sleep(0.1)
        yield client
    finally:
        await client.close()


def plan_of(file: Path, home: Path) -> Plan:
    """Return the plan that runs a file's own engine, as if nothing was known to be bad about it."""
    paths = resolve_paths({"LLAMAFILE_MGR_HOME": str(home)})
    settings = Config(models={file.stem: ModelConfig(allow_known_bad=True)})
    [plan] = make_plans(WantedModels((Wanted(str(file)),)), settings, paths)
    return replace(plan, accepted=Acceptance())


async def test_an_old_engine_that_nobody_knows_is_found_out(old_llamafile: Path, tmp_path: Path) -> None:
    plan = plan_of(old_llamafile, tmp_path)
    rules = family_rules(plan.family)
    baselines = Baselines(tmp_path / "baselines")
    with running_classic(old_llamafile) as port:
        async with healthy_client(port) as client:
            with pytest.raises(EngineStartError) as local:
                await make_checks(plan, baselines).check_ready(client, rules)
            # Of a remote the vectors are asked for, and not the tokens.
            with pytest.raises(EngineStartError) as remote:
                await make_checks(plan, baselines, records=False).check_ready(client, rules)
    assert "other tokens than the vocabulary of the file says" in (local.value.cause or "")
    assert "in small letters and in capitals" in (remote.value.cause or "")
