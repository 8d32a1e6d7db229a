"""SIGHUP: every setting that can be applied is, and the others are named."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from llamafile_mgr import Client
from tests.support.service import Service, run_program, running_service, share_store

MODEL = "all-minilm-l6-v2"
OLD, NEW, OTHER = "o" * 32, "n" * 32, "t" * 32


@pytest.fixture
def home(model_home: Path, tmp_path: Path) -> Path:
    share_store(model_home, tmp_path)
    return tmp_path


def write_keys(home: Path, *keys: str, mode: int = 0o600) -> None:
    path = home / "keys"
    path.write_text("".join(f"{key}\n" for key in keys), encoding="utf-8-sig")
    path.chmod(mode)


def make_certificate(home: Path, name: str) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj"]
    command += [f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    out = ["-keyout", str(home / "key.pem"), "-out", str(home / "cert.pem")]
    subprocess.run([*command, *out], check=True, capture_output=True)


def write_settings(home: Path, *lines: str, model: str = "") -> None:
    common = f'keys_file = "{home}/keys"\ntls_certificate = "{home}/cert.pem"\ntls_key = "{home}/key.pem"'
    text = "\n".join(["[serve]", common, *lines, f'[models."{MODEL}"]', "replicas = 1", model])
    (home / "config.toml").write_text(text)


def ask(service: Service, key: str, *, text: str = "a", model: str = MODEL, **headers: str) -> int:
    """Return the status of an embedding call."""
    headers["authorization"] = f"Bearer {key}"
    body = {"input": text, "model": model}
    with httpx.Client(verify=False, trust_env=False) as client:
        return client.post(f"{service.url}/v1/embeddings", json=body, headers=headers, timeout=30).status_code


def subject(service: Service) -> str:
    _, _, port = service.url.rpartition(":")
    certificate = ssl.get_server_certificate(("127.0.0.1", int(port)))
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-subject"],
        input=certificate,
        text=True,
        capture_output=True,
        check=True,
    )
    return shown.stdout.rpartition("=")[2].strip()


def reload(service: Service, done: Callable[[], bool]) -> None:
    service.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline, "".join(service.errors)
        time.sleep(0.05)


def test_what_can_be_applied_is_and_what_needs_a_restart_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_certificate(home, "first")
    write_keys(home, OLD, f"app {OTHER}")
    write_settings(home)
    with running_service(home, MODEL) as service:
        assert [ask(service, key) for key in (OLD, OTHER, NEW)] == [200, 200, 401]
        assert ask(service, OTHER, host="nas") == 403
        assert ask(service, OTHER, origin="https://app.example") == 403
        assert ask(service, OTHER, model="unknown") == 200
        assert subject(service) == "first"

        make_certificate(home, "second")
        write_keys(home, NEW, f"app {OTHER}")
        lines = ['hosts = ["nas"]', 'cors_origins = ["https://app.example"]', "strict_models = true"]
        lines += ["max_body_bytes = 2000", "cache_bytes = 5", "liveness_seconds = 9", 'generate = "other"']
        write_settings(home, *lines, model='aliases = ["pet"]')
        reload(service, lambda: ask(service, NEW) == 200)
        assert [ask(service, key) for key in (OLD, OTHER)] == [401, 200]
        assert ask(service, OTHER, host="nas") == 200
        assert ask(service, OTHER, host="other") == 403
        assert ask(service, OTHER, origin="https://app.example") == 200
        assert [ask(service, OTHER, model=name) for name in ("pet", "unknown")] == [200, 404]
        assert ask(service, OTHER, text="a" * 3000) == 413
        assert subject(service) == "second"
        monkeypatch.setenv("SSL_CERT_FILE", str(home / "cert.pem"))
        with Client(service.url, api_key=NEW) as client:
            assert client.health()["status"] == "ok"
        status = json.loads(run_program(home, "status", "--json").stdout)
        # The models come from the command line, so that those of the settings change nothing.
        assert status["needs_restart"] == ["serve.cache_bytes", "serve.liveness_seconds"]
        assert any("only a restart applies serve.cache_bytes" in line for line in service.errors)
        assert "only a restart applies serve.cache_bytes" in run_program(home, "status").stdout

        write_settings(home, *lines, 'hosts = ["twice"]')  # no TOML
        write_keys(home, OLD)
        reload(service, lambda: any("not valid TOML" in line for line in service.errors))
        write_settings(home)
        write_keys(home, OLD, mode=0o644)
        reload(service, lambda: any("others can read the keys" in line for line in service.errors))
        # What is wrong as a whole changes nothing at all.
        assert [ask(service, key) for key in (NEW, OTHER, OLD)] == [200, 200, 401]
        assert ask(service, NEW, host="nas") == 200


def test_a_public_address_never_loses_its_keys(home: Path) -> None:
    write_keys(home, OLD)
    config = home / "config.toml"
    config.write_text(f'[serve]\nhost = "0.0.0.0"\nkeys_file = "{home}/keys"\n')
    with running_service(home, MODEL) as service:
        config.write_text('[serve]\nhost = "0.0.0.0"\n')
        url = service.url.replace("0.0.0.0", "127.0.0.1")
        reload(service, lambda: any("the proxy has no API keys" in line for line in service.errors))
        assert httpx.post(f"{url}/v1/embeddings", json={"input": "a"}, trust_env=False).status_code == 401
