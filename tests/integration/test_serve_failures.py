"""What cannot be served ends with a clear error, the right exit code and nothing left behind."""

from __future__ import annotations

import socket
import struct
import time
from pathlib import Path

import httpx
import pytest

from tests.support.golden import golden_cosine
from tests.support.llamafiles import READY_VECTORS, pack_fake
from tests.support.models import forget_added_eos
from tests.support.service import run_program, running_service

MODEL = "all-minilm-l6-v2"


def serve_error(home: Path, *arguments: str) -> tuple[int, str]:
    """Run a ``serve`` that is expected to end by itself; no traceback may show."""
    result = run_program(home, "serve", "--port", "0", *arguments)
    assert "Traceback" not in result.stderr
    return result.returncode, result.stderr


def test_a_port_in_use(model_home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run_program(model_home, "serve", MODEL, "--port", str(port))
    assert result.returncode == 13
    assert f"port {port} of 127.0.0.1 is in use" in result.stderr
    assert "--port" in result.stderr


def test_a_public_address(model_home: Path) -> None:
    result = run_program(model_home, "serve", MODEL, "--host", "0.0.0.0", "--port", "0")
    assert result.returncode == 3
    assert "will not listen on 0.0.0.0" in result.stderr


def test_a_missing_model(tmp_path: Path) -> None:
    code, said = serve_error(tmp_path, "--embed", "mxbai-embed-large-v1")
    assert code == 4
    assert "llamafile-mgr pull mxbai-embed-large-v1" in said
    assert serve_error(tmp_path, str(tmp_path / "none.llamafile"))[0] == 4


def test_no_model_at_all(tmp_path: Path) -> None:
    code, said = serve_error(tmp_path)
    assert code == 2
    assert "no model was named" in said


def test_a_broken_settings_file(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[serve]\nprot = 1\n")
    code, said = serve_error(tmp_path, MODEL)
    assert code == 3
    assert "unknown key prot" in said
    assert "did you mean port?" in said


def test_the_wrong_role(model_home: Path) -> None:
    code, said = serve_error(model_home, "--generate", MODEL)
    assert code == 2
    assert "is a model to embed, not to generate" in said


@pytest.fixture
def broken(tmp_path: Path, minilm: Path) -> dict[str, Path]:
    whole = pack_fake(minilm, tmp_path / "whole.llamafile")
    files = {
        "text": b"just a text",
        "empty": b"",
        "truncated": whole.read_bytes()[:-1000],
        "version": b"GGUF" + struct.pack("<IQQ", 99, 0, 0),
        "header": minilm.read_bytes()[:5000],
    }
    for name, data in files.items():
        (tmp_path / f"{name}.llamafile").write_bytes(data)
    return {name: tmp_path / f"{name}.llamafile" for name in files}


@pytest.mark.parametrize("name", ["text", "empty", "truncated", "version", "header"])
def test_files_that_are_no_models(broken: dict[str, Path], tmp_path: Path, name: str) -> None:
    code, said = serve_error(tmp_path / "home", "--embed", str(broken[name]))
    assert code == 5
    assert f"{name}.llamafile" in said


@pytest.mark.parametrize(
    ("switches", "cause"),
    [
        (["--vectors", "wrong"], "its vectors are wrong"),
        (["--vectors", "zero"], "zero vector|not of unit length"),
        (["--vectors", "nan"], "not of unit length|not finite"),
        (["--vectors", "null"], "an empty vector or none"),
        (["--vectors", "short"], "100 dimensions where all-minilm-l6-v2 has 384"),
        (
            ["--exit", "1", "--say", "error: invalid argument: --no-webui"],
            "does not know the flag --no-webui",
        ),
        (["--exit", "127"], "the shell could not run it"),
        (["--never-ready"], "silent for 1 seconds before it was ready"),
    ],
)
def test_an_engine_that_is_not_right_never_serves(
    minilm: Path, tmp_path: Path, switches: list[str], cause: str
) -> None:
    packed = pack_fake(minilm, tmp_path / f"{MODEL}.llamafile", *switches)
    one = f'[models."{MODEL}"]\nreplicas = 1\n'
    (tmp_path / "config.toml").write_text(f"[serve]\nload_stall_seconds = 1\n{one}")
    code, said = serve_error(tmp_path, "--embed", str(packed))
    assert code == 12
    assert any(part in said for part in cause.split("|")), said


def test_calls_wait_while_the_model_loads(minilm: Path, tmp_path: Path) -> None:
    packed = pack_fake(minilm, tmp_path / f"{MODEL}.llamafile", "--slow-load", "2", "--chatty-load")
    (tmp_path / "config.toml").write_text("[serve]\nload_stall_seconds = 1\n")
    with running_service(tmp_path, "--embed", str(packed), ready=False) as service:
        assert httpx.get(f"{service.url}/health").status_code == 200
        assert httpx.get(f"{service.url}/ready").status_code == 503
        reply = httpx.post(f"{service.url}/v1/embeddings", json={"input": "hello world"}, timeout=20)
        assert golden_cosine("hello world", reply.json()["data"][0]["embedding"]) >= 0.999


def test_an_engine_on_another_port_than_asked_is_found(minilm: Path, tmp_path: Path) -> None:
    weights = forget_added_eos(minilm, tmp_path / "weights.gguf")
    packed = pack_fake(weights, tmp_path / f"{MODEL}.llamafile", "--other-port", version="0.8.4")
    (tmp_path / "config.toml").write_text(f'[models."{MODEL}"]\nallow_known_bad = true\n')
    with running_service(tmp_path, "--embed", str(packed)) as service:
        assert httpx.post(f"{service.url}/embedding", json={"content": "a"}).status_code == 200


def test_an_engine_whose_vectors_turn_bad_is_replaced(minilm: Path, tmp_path: Path) -> None:
    # The vector of the first call is the first bad one.
    packed = pack_fake(
        minilm, tmp_path / f"{MODEL}.llamafile", "--vectors", "nan", "--bad-after", str(READY_VECTORS)
    )
    (tmp_path / "config.toml").write_text(f'[models."{MODEL}"]\nreplicas = 1\nthreads = 1\n')
    with running_service(tmp_path, "--embed", str(packed)) as service:
        reply = httpx.post(f"{service.url}/v1/embeddings", json={"input": "x"}, timeout=30)
        assert reply.status_code == 502
        assert "not finite" in reply.json()["error"]["message"]
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            [model] = httpx.get(f"{service.url}/ready").json()["models"]
            if model["engines"][0]["restarts"] == 1 and model["ready"]:
                break
            time.sleep(0.1)
        assert model["engines"][0]["restarts"] == 1
