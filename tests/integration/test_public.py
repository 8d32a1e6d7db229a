"""An address that others can reach: not without keys, and with keys for those who have one."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from tests.support.golden import golden_cosine
from tests.support.service import run_program, running_service

MODEL, KEY = "all-minilm-l6-v2", "k" * 32


def own_address() -> str:
    """Return an address of this machine that is no loopback address, where it has one."""
    for addresses in psutil.net_if_addrs().values():
        for each in addresses:
            if each.family is socket.AF_INET and not each.address.startswith("127."):
                return str(each.address)
    return "127.0.0.2"


@pytest.mark.parametrize("host", sorted({"0.0.0.0", "::", own_address()} - {"127.0.0.2"}))
def test_no_keys_no_public_address(model_home: Path, host: str) -> None:
    result = run_program(model_home, "serve", MODEL, "--host", host, "--port", "0")
    assert result.returncode == 3
    assert "it serves this machine alone" in result.stderr
    assert "serve.keys_file" in result.stderr


def test_keys_open_a_public_address(model_home: Path, tmp_path: Path) -> None:
    address = own_address()
    keys = tmp_path / "keys"
    keys.write_text(f"notebook {KEY}\n")
    keys.chmod(0o600)
    config = tmp_path / "public.toml"
    config.write_text(f'[serve]\nhost = "0.0.0.0"\nkeys_file = "{keys}"\nhosts = ["{address}"]\n')
    extra = {"LLAMAFILE_MGR_CONFIG": str(config)}
    with running_service(model_home, MODEL, extra=extra) as service:
        port = service.url.rsplit(":", 1)[1]
        url = f"http://{address}:{port}"
        assert httpx.get(f"{url}/health").status_code == 200
        for headers in ({}, {"authorization": "Bearer " + "x" * 32}, {"x-api-key": KEY[:-1]}):
            reply = httpx.post(f"{url}/v1/embeddings", json={"input": "a"}, headers=headers)
            assert reply.status_code == 401
            assert reply.headers["www-authenticate"] == "Bearer"
            assert "embedding" not in reply.json()
        with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
            vector = client.embeddings.create(model="m", input="hello world").data[0].embedding
        assert golden_cosine("hello world", vector) >= 0.999
        stranger = httpx.get(f"{url}/health", headers={"host": "evil.example"})
        assert stranger.status_code == 403
        assert not any(KEY in line for line in service.errors)
