"""Addresses of remotes: what is taken, what is refused and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamafile_mgr.addresses import RemoteConfig, is_private, read_host, read_origin
from llamafile_mgr.config_reading import load_config
from llamafile_mgr.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "host", "port", "prefix", "name"),
    [
        ("http://gpu-box:8080", "gpu-box", 8080, "", "gpu-box:8080"),
        ("https://gpu.example.org", "gpu.example.org", 443, "", "gpu.example.org:443"),
        ("http://10.0.0.5/", "10.0.0.5", 80, "", "10.0.0.5:80"),
        ("https://example.org/llm/", "example.org", 443, "/llm", "example.org:443/llm"),
        ("https://example.org/llm/v1", "example.org", 443, "/llm", "example.org:443/llm"),
        ("http://[::1]:9000", "::1", 9000, "", "[::1]:9000"),
    ],
)
def test_urls_are_read(url: str, host: str, port: int, prefix: str, name: str) -> None:
    remote = RemoteConfig(url)
    assert (remote.host, remote.port, remote.prefix, remote.name) == (host, port, prefix, name)


@pytest.mark.parametrize(
    "url",
    [
        "gpu-box:8080",
        "ftp://gpu-box",
        "http://",
        "http://a:99999",
        "http://a:b",
        "http://a?x=1",
        "http://a#x",
        "http://a b",
        "http://a/\r\nx: y",
        "https://ex\u00e4mple.org",
    ],
)
def test_other_texts_are_no_addresses(url: str) -> None:
    with pytest.raises(ConfigError):
        RemoteConfig(url)


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as raised:
        RemoteConfig("https://me:hunter2@example.org")
    assert "hunter2" not in raised.value.describe()


@pytest.mark.parametrize(
    ("host", "private"),
    [
        ("127.0.0.1", True),
        ("10.1.2.3", True),
        ("192.168.0.1", True),
        ("100.64.0.1", True),
        ("fd00::1", True),
        ("fe80::1%eth0", True),
        ("::ffff:10.0.0.1", True),
        ("8.8.8.8", False),
        ("2606:4700::1111", False),
        ("::ffff:8.8.8.8", False),
        ("gpu-box", None),
    ],
)
def test_private_addresses(host: str, private: bool | None) -> None:
    assert is_private(host) is private


def test_plain_http_to_a_public_address_needs_a_word() -> None:
    with pytest.raises(ConfigError, match="send it texts in clear"):
        RemoteConfig("http://8.8.8.8:8080")
    RemoteConfig("http://8.8.8.8:8080", allow_plain_http=True)
    RemoteConfig("https://8.8.8.8:8080")


def read(tmp_path: Path, text: str) -> tuple[RemoteConfig, ...]:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return load_config(file, environ={}).models["m"].remote


def test_remotes_are_urls_or_tables(tmp_path: Path) -> None:
    remotes = read(
        tmp_path,
        "[models.m]\nreplicas = 0\n"
        'remote = ["http://a:1", {url = "https://b", key_file = "k", ca_file = "c"}]\n',
    )
    assert remotes == (RemoteConfig("http://a:1"), RemoteConfig("https://b", key_file="k", ca_file="c"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("replicas = 0", "must be at least 1"),
        ('remote = "http://a"', "must be a list"),
        ("remote = [3]", "must be a table"),
        ('remote = [{key_file = "k"}]', "without a url"),
        ('remote = [{url = "http://a", keyfile = "k"}]', "unknown key keyfile"),
        ('remote = [{url = "http://a", key_file = "k", key_env = "K"}]', "both key_file and key_env"),
        ('remote = [{url = "http://a", ca_file = "c"}]', "of no use"),
        ('remote = ["http://a:1", "http://a:1/"]', "the same address twice"),
    ],
)
def test_wrong_remotes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, f"[models.m]\n{text}\n")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Box", "box"),
        ("box:8080", "box:8080"),
        ("192.168.1.2", "192.168.1.2"),
        ("192.168.1.2:80", "192.168.1.2:80"),
        ("fd00::0001", "fd00::1"),
        ("[FD00::1]", "fd00::1"),
        ("[FD00::0001]:8080", "[fd00::1]:8080"),
        ("b\u00fccher.example", "xn--bcher-kva.example"),
    ],
)
def test_hosts_are_read_as_clients_send_them(text: str, read: str) -> None:
    assert read_host(text) == read


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("https://Example.org/", "https://example.org"),
        ("https://example.org:443", "https://example.org"),
        ("http://example.org:80", "http://example.org"),
        ("http://example.org:443", "http://example.org:443"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
    ],
)
def test_origins_are_read_as_browsers_send_them(text: str, read: str) -> None:
    assert read_origin(text) == read
