"""Who may call: hosts, origins and keys, without a socket."""

from __future__ import annotations

import base64
import contextlib
import hmac
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.config import ModelConfig, ServeConfig
from llamafile_mgr.errors import ConfigError
from llamafile_mgr.proxy.api_errors import (
    BadHostError,
    ForeignHostError,
    ForeignOriginError,
    MissingKeyError,
    NotAdminError,
)
from llamafile_mgr.proxy.guard import Guard
from llamafile_mgr.proxy.keys import KeyRing, read_keys
from llamafile_mgr.proxy.live_settings import collect_aliases

GUARD = Guard(frozenset({"nas.local"}), frozenset({"https://app.example"}))


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8080",
        "127.0.0.1",
        "127.1.2.3:1",
        "[::1]",
        "[::1]:8080",
        "nas.local",
        "NAS.local:80",
    ],
)
def test_our_hosts(host: str) -> None:
    assert GUARD.check({"host": host}, "http") == {}


@pytest.mark.parametrize(
    ("named", "scheme", "host", "answered"),
    [
        ("box", "http", "box:1234", True),
        ("box:8080", "http", "box:8080", True),
        ("box:8080", "http", "box:8081", False),
        ("box:8080", "http", "box", False),
        ("box:80", "http", "box", True),
        ("box:443", "https", "box", True),
        ("box:443", "http", "box", False),
        ("[FD00::0001]", "http", "[fd00::1]:8080", True),
        ("fd00::1", "http", "[fd00:0::1]", True),
        ("[fd00::1]:8080", "http", "[fd00::1]:8080", True),
        ("[fd00::1]:8080", "http", "[fd00::1]:8081", False),
    ],
)
def test_a_named_host_is_answered_as_it_is_written(
    named: str, scheme: str, host: str, answered: bool
) -> None:
    guard = Guard.of(ServeConfig(hosts=(named,)))
    if answered:
        guard.check({"host": host}, scheme)
    else:
        with pytest.raises(ForeignHostError):
            guard.check({"host": host}, scheme)


def test_an_origin_may_be_named_with_the_port_of_its_scheme() -> None:
    guard = Guard.of(ServeConfig(cors_origins=("https://App.example:443/",)))
    headers = {"host": "localhost", "origin": "https://app.example"}
    assert guard.check(headers, "http")["access-control-allow-origin"] == "https://app.example"


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "0.0.0.0",
        "[::]",
        "169.254.169.254",
        "localhost:80:90",
        "localhost:evil",
        "user@evil.example",
        "evil.example#localhost",
        "nas.local.",
    ],
)
def test_foreign_hosts(host: str) -> None:
    with pytest.raises((BadHostError, ForeignHostError)):
        GUARD.check({"host": host}, "http")


@given(st.text(max_size=30))
def test_any_host_is_judged(host: str) -> None:
    try:
        GUARD.check({"host": host}, "http")
    except (BadHostError, ForeignHostError):
        pass
    else:
        assert host.lower().startswith(("localhost", "127.", "[", "nas.local", "::1"))


def test_origins() -> None:
    headers = {"host": "localhost:8080"}
    assert GUARD.check({**headers, "origin": "http://localhost:8080"}, "http") == {}
    allowed = GUARD.check({**headers, "origin": "https://app.example"}, "http")
    assert allowed["access-control-allow-origin"] == "https://app.example"
    assert allowed["vary"] == "Origin"
    for origin in (
        "null",
        "http://localhost:3000",
        "https://localhost:8080",
        "http://app.example",
        "https://app.example.evil",
        "",
        "*",
    ):
        with pytest.raises(ForeignOriginError):
            GUARD.check({**headers, "origin": origin}, "http")


def test_a_preflight_echoes_what_is_well_formed() -> None:
    wanted = {"access-control-request-headers": "authorization,content-type,x-stainless-os"}
    assert (
        GUARD.preflight(wanted)["access-control-allow-headers"] == "authorization,content-type,x-stainless-os"
    )
    odd = {"access-control-request-headers": "a\r\nset-cookie: x"}
    assert GUARD.preflight(odd)["access-control-allow-headers"] == ""


ADMIN, USER = "a" * 32, "u" * 32


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    path = tmp_path / "keys"
    path.write_text(f"# who may call\n\nadmin {ADMIN}\nnotebook {USER}\n{'k' * 20}\n")
    path.chmod(0o600)
    return read_keys(path)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_keys_are_known_in_every_place(ring: KeyRing) -> None:
    basic = base64.b64encode(f"x:{USER}".encode()).decode()
    for headers in (bearer(USER), {"x-api-key": USER}, {"authorization": f"Basic {basic}"}):
        assert ring.identify(headers, admin=False) == "notebook"
    assert ring.identify(bearer("k" * 20), admin=False) == "key-5"
    assert ring.identify(bearer(ADMIN), admin=True) == "admin"
    assert ring.identify(bearer(ADMIN), admin=False) == "admin"


def test_wrong_keys(ring: KeyRing) -> None:
    for headers in (
        {},
        bearer(""),
        bearer("x" * 32),
        bearer(USER[:-1]),
        bearer("ü" * 32),
        {"authorization": "Basic ?"},
    ):
        with pytest.raises(MissingKeyError):
            ring.identify(headers, admin=False)
    with pytest.raises(NotAdminError):
        ring.identify(bearer(USER), admin=True)
    assert KeyRing().identify({}, admin=True) == ""


@pytest.mark.parametrize("given", ["", "x", USER[:-1], USER, ADMIN, "k" * 20, "x" * 10_000, "ü" * 32])
def test_the_time_tells_nothing_of_a_key(ring: KeyRing, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is given, every key is compared in constant time, and by values of one length."""
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def record(left: bytes, right: bytes) -> bool:
        compared.append((len(left), len(right)))
        return real(left, right)

    monkeypatch.setattr(hmac, "compare_digest", record)
    with contextlib.suppress(MissingKeyError):
        ring.identify(bearer(given), admin=False)
    assert compared == [(32, 32)] * len(ring.keys)


def test_keys_are_never_shown(ring: KeyRing) -> None:
    assert USER not in repr(ring)


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        (f"admin {ADMIN}", 0o644, "others can read"),
        (f"admin {ADMIN}", 0o640, "others can read"),
        ("", 0o600, "no key"),
        ("# nothing", 0o600, "no key"),
        ("short", 0o600, "too short"),
        ("a b " + "c" * 20, 0o600, "is not 'NAME KEY'"),
        ("name " + "ü" * 20, 0o600, "not ASCII"),
        (f"admin {ADMIN}\nother {ADMIN}", 0o600, "admin and other in .* have the same key"),
    ],
)
def test_wrong_key_files(tmp_path: Path, text: str, mode: int, message: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    with pytest.raises(ConfigError, match=message):
        read_keys(path)


@pytest.mark.parametrize("what", ["a pipe", "a device"])
def test_keys_come_from_regular_files(tmp_path: Path, what: str) -> None:
    path = Path("/dev/zero") if what == "a device" else tmp_path / "pipe"
    if what == "a pipe":
        os.mkfifo(path, 0o600)
    with pytest.raises(ConfigError, match="is no regular file"):
        read_keys(path)


def test_a_missing_key_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the keys file"):
        read_keys(tmp_path / "none")


def test_aliases_are_unambiguous() -> None:
    assert collect_aliases({"a": ModelConfig(aliases=("x", "y"))}) == {"x": "a", "y": "a"}
    with pytest.raises(ConfigError, match="alias of both a and b"):
        collect_aliases({"a": ModelConfig(aliases=("x",)), "b": ModelConfig(aliases=("x",))})
