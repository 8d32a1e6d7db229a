"""API keys: read from a file that only its owner can read, compared in constant time."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llamafile_mgr.errors import ConfigError
from llamafile_mgr.paths import read_secrets
from llamafile_mgr.proxy.api_errors import MissingKeyError, NotAdminError

#: The name in the keys file whose key opens the administrator's routes.
ADMIN_NAME = "admin"
_LEAST_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class Key:
    """One key and whose it is; the name appears in logs, the secret nowhere."""

    name: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """All keys; without any, everybody who reaches the port may call."""

    keys: Sequence[Key] = ()

    def identify(self, headers: Mapping[str, str], *, admin: bool) -> str:
        """Return the name of the request's key, empty without keys.

        Every key is compared, by digests of one length, so that the time taken tells nothing about any.

        Raises:
            MissingKeyError: no key, or none of ours.
            NotAdminError: a good key on a route that only the administrator's opens.
        """
        if not self.keys:
            return ""
        given = _find_secret(headers)
        found = self._find(given)
        if found is None:
            raise MissingKeyError(
                "an API key is needed" if not given else "this API key is not known",
                hint="send it as 'Authorization: Bearer KEY'",
            )
        if admin and found.name != ADMIN_NAME:
            raise NotAdminError("this route needs the administrator's key")
        return found.name

    def knows(self, headers: Mapping[str, str]) -> bool:
        """Tell whether a request for what everybody may ask has a good key; all have without keys."""
        return not self.keys or self._find(_find_secret(headers)) is not None

    def _find(self, given: str) -> Key | None:
        digest = hashlib.sha256(given.encode("utf-8", "surrogateescape")).digest()
        found: Key | None = None
        for key in self.keys:
            if hmac.compare_digest(hashlib.sha256(key.secret.encode()).digest(), digest):
                found = key
        return found


def _find_secret(headers: Mapping[str, str]) -> str:
    """Return the key of ``Authorization: Bearer``, of Basic's password or of ``X-Api-Key``."""
    kind, _, rest = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return rest.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(rest, validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return headers.get("x-api-key", "")


def read_keys(path: Path) -> KeyRing:
    """Read ``[NAME ]KEY`` lines; ``#`` begins a comment, and the name ``admin`` marks the administrator's.

    Raises:
        ConfigError: unreadable, readable by others, empty, a key that is too short, or one with two names.
    """
    keys = [_read_line(number, line, path) for number, line in enumerate(read_secrets(path), 1) if line]
    if not keys:
        raise ConfigError(f"there is no key in {path}", hint="write one a line, at least 16 characters long")
    names: dict[str, str] = {}
    for key in keys:
        if (other := names.setdefault(key.secret, key.name)) != key.name:
            raise ConfigError(
                f"{other} and {key.name} in {path} have the same key", hint="give each a key of its own"
            )
    return KeyRing(tuple(keys))


def user_secret(ring: KeyRing) -> str | None:
    """Return the key that the owner's own scripts get: the first that is not the administrator's."""
    ordered = sorted(ring.keys, key=lambda key: key.name == ADMIN_NAME)
    return ordered[0].secret if ordered else None


def _read_line(number: int, line: str, path: Path) -> Key:
    words = line.split()
    if len(words) > 2:
        raise ConfigError(f"line {number} of {path} is not 'NAME KEY'")
    secret = words[-1]
    if len(secret) < _LEAST_CHARACTERS or not secret.isascii():
        raise ConfigError(
            f"the key in line {number} of {path} is too short or not ASCII",
            hint="make one: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'",
        )
    return Key(words[0] if len(words) == 2 else f"key-{number}", secret)
