"""How the web is reached: proxies and who is exempt, what is trusted, which tokens are none."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import certifi
import pytest

from llamafile_mgr.errors import ConfigError
from llamafile_mgr.web_access import check_token, is_exempt, make_trust, proxy_for


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("host", "port", "exemptions", "exempt"),
    [
        ("example.org", 443, "", False),
        ("example.org", 443, "*", True),
        ("example.org", 443, "example.org", True),
        ("a.example.org", 443, "example.org", True),
        ("a.example.org", 443, ".example.org", True),
        ("a.example.org", 443, "*.example.org", True),
        ("badexample.org", 443, "example.org", False),
        ("Example.org", 443, "other, example.ORG", True),
        ("example.org", 443, "example.org:443", True),
        ("example.org", 443, "example.org:8443", False),
        ("10.1.2.3", 80, "10.0.0.0/8", True),
        ("11.1.2.3", 80, "10.0.0.0/8", False),
        ("10.1.2.3", 80, "10.1.2.3", True),
        ("10.1.2.3", 80, "10.1.2.3:80", True),
        ("10.1.2.3", 80, "10.1.2.3:81", False),
        ("10.1.2.30", 80, "10.1.2.3", False),
        ("fd00::7", 80, "fd00::/8", True),
        ("fe80::7", 80, "fd00::/8", False),
        ("::1", 80, "::1", True),
        ("::1", 80, "[::1]", True),
        ("::1", 80, "[::1]:80", True),
        ("::1", 80, "[::1]:81", False),
        ("0:0:0:0:0:0:0:1", 80, "::1", True),
        ("fd00::7", 80, "[fd00::]/8", True),
        ("10.1.2.3", 80, "nonsense/99, [::, :, /, 10.0.0.0/8", True),
    ],
)
def test_who_is_exempt_from_proxies(host: str, port: int, exemptions: str, exempt: bool) -> None:
    assert is_exempt(host, port, exemptions) is exempt


@pytest.mark.parametrize(
    ("name", "value", "url", "proxy"),
    [
        ("https_proxy", "http://p:1", "https://a.b/c", "http://p:1"),
        ("HTTPS_PROXY", "p:1", "https://a.b/c", "http://p:1"),
        ("http_proxy", "http://p:1", "https://a.b/c", None),
        ("ALL_PROXY", "http://me:secret@p:1", "https://a.b/c", "http://me:secret@p:1"),
    ],
)
def test_which_proxy_is_asked(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, url: str, proxy: str | None
) -> None:
    monkeypatch.setenv(name, value)
    assert proxy_for(url) == proxy
    monkeypatch.setenv("NO_PROXY", "b")
    assert proxy_for(url) is None


@pytest.mark.parametrize(
    "value",
    [
        *("socks5://p:1", "socks4://p:1", "socks://p:1", "ftp://p:1", "http://", "http://p:x", "http://p:0"),
        *("http://[::", "http://p\u00fc:1", "http://p :1"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    scheme, _, rest = value.partition("://")
    monkeypatch.setenv("ALL_PROXY", f"{scheme}://me:secret@{rest}")
    with pytest.raises(ConfigError, match="the environment names the proxy") as caught:
        proxy_for("https://a.b")
    assert "secret" not in caught.value.describe()


def test_what_the_variables_name_is_trusted_and_nothing_else(tmp_path: Path) -> None:
    own = tmp_path / "own.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=own"]
    command = [*words, "-keyout", str(tmp_path / "key"), "-out", str(own)]
    subprocess.run(command, check=True, capture_output=True)
    [trusted] = make_trust({"SSL_CERT_FILE": str(own)}).get_ca_certs()
    assert trusted["subject"] == ((("commonName", "own"),),)
    many = ssl.create_default_context(cafile=certifi.where()).cert_store_stats()["x509_ca"]
    assert make_trust({}).cert_store_stats()["x509_ca"] >= many
    assert make_trust({"SSL_CERT_FILE": "", "SSL_CERT_DIR": ""}).cert_store_stats()["x509_ca"] >= many
    make_trust({"SSL_CERT_DIR": str(tmp_path)})


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
@pytest.mark.parametrize("made", [False, True])
def test_certificates_that_are_none_are_refused(tmp_path: Path, name: str, made: bool) -> None:
    path = tmp_path / "none.pem"
    if made:
        path.write_text("no certificate")
    with pytest.raises(ConfigError, match=f"{name} names {path}, which cannot be read as certificates"):
        make_trust({name: str(path)})


def test_tokens() -> None:
    assert check_token(" hf_abc\n", "HF_TOKEN") == "hf_abc"
    for token in ("hf_\u00fc", "a b", "a\r\nb", "\x7f"):
        with pytest.raises(ConfigError, match="HF_TOKEN has characters that no token has") as caught:
            check_token(token, "HF_TOKEN")
        assert token not in caught.value.describe()
