"""Which settings a running service takes."""

from __future__ import annotations

import dataclasses

from llamafile_mgr.config import ServeConfig
from llamafile_mgr.proxy.live_settings import needs_restart

AT_ONCE = {
    *("drain_seconds", "max_body_bytes", "max_connections", "input_type", "strict_models", "wait_seconds"),
    *("request_seconds", "queue_items", "queue_tokens", "memory_limit", "keys_file", "hosts", "cors_origins"),
    *("header_seconds", "body_idle_seconds", "idle_seconds"),
}
TLS = {"tls_certificate": "a.pem", "tls_key": "a.key"}


def changed(name: str) -> ServeConfig:
    value = getattr(ServeConfig(), name)
    others = {int: 77, float: 77.5, bool: True, tuple: ("other",), str: "document"}
    other = "5GB" if name == "memory_limit" else others.get(type(value), "other")
    if name == "cors_origins":
        other = ("https://example.org",)
    return dataclasses.replace(ServeConfig(), **{name: other})  # type: ignore[arg-type]


def test_of_every_setting_it_is_known_whether_a_restart_is_needed() -> None:
    names = {each.name for each in dataclasses.fields(ServeConfig)} - set(TLS)
    for name in names:
        expected = () if name in AT_ONCE else (f"serve.{name}",)
        assert needs_restart(ServeConfig(), changed(name)) == expected
    assert names >= AT_ONCE


def test_tls_is_renewed_at_once_and_switched_by_a_restart() -> None:
    plain, secure = ServeConfig(), ServeConfig(**TLS)  # type: ignore[arg-type]
    renewed = dataclasses.replace(secure, tls_certificate="b.pem")
    assert needs_restart(secure, renewed) == ()
    assert needs_restart(plain, secure) == needs_restart(secure, plain) == ("serve.tls_certificate",)
