"""Where remote engines are: URL, API key and trusted authority, and which networks may be used in clear.

Texts and vectors travel as they are over plain HTTP. It is taken for addresses that do not leave one's own
networks; others need HTTPS, or a word of the user's that it is meant.
"""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from dataclasses import dataclass

from llamafile_mgr.errors import ConfigError

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[\w.~!$&'()+;=%-]+)(?::([0-9]{1,5}))?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RemoteConfig:
    """One remote of ``[models.NAME]``: a proxy of ours or a llama.cpp server with the same model.

    ``url``: ``http`` or ``https``, with a path where it is served under one. ``key_file``: a file with its
    API key that only its owner can read; ``key_env``: the environment variable that holds the key.
    ``ca_file``: PEM certificates that are trusted beside the system's. ``model``: its name for the model.
    ``allow_plain_http``: send texts in clear even to an address that is not of a private network.
    """

    url: str
    key_file: str | None = None
    key_env: str | None = None
    ca_file: str | None = None
    model: str | None = None
    allow_plain_http: bool = False

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if "@" in parts.netloc:  # the URL would put the password into logs: it is not repeated here
            raise ConfigError(
                "models.*.remote: a URL must not hold a password",
                hint='write {url = "...", key_file = "..."} or key_env',
            )
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in _PORTS or not parts.hostname or port == -1 or parts.query or parts.fragment:
            raise ConfigError(f"models.*.remote: {self.url!r} is no address", hint="http://gpu-box:8080")
        if any(not 0x21 <= ord(letter) <= 0x7E for letter in self.url):
            raise ConfigError(f"models.*.remote: {self.url!r} has characters that no URL has")
        if self.key_file and self.key_env:
            raise ConfigError(f"models.*.remote: {self.url} has both key_file and key_env")
        if self.ca_file and not self.secure:
            raise ConfigError(f"models.*.remote: ca_file is of no use for {self.url}", hint="use https")
        if not (self.secure or self.allow_plain_http) and is_private(self.host) is False:
            raise public_address(self.name)

    @property
    def secure(self) -> bool:
        """Tell whether it is reached over TLS."""
        return urllib.parse.urlsplit(self.url).scheme == "https"

    @property
    def host(self) -> str:
        """Return the host's name or address, without brackets."""
        return urllib.parse.urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """Return the port, also where the URL leaves it out."""
        parts = urllib.parse.urlsplit(self.url)
        return parts.port or _PORTS[parts.scheme]

    @property
    def prefix(self) -> str:
        """Return the path under which it is served, without a slash at its end."""
        return urllib.parse.urlsplit(self.url).path.rstrip("/").removesuffix("/v1")

    @property
    def name(self) -> str:
        """Return what it is called in ``status`` and logs."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}{self.prefix}"

    @property
    def key_source(self) -> str | None:
        """Return where its key comes from, in words; the key itself is nowhere here."""
        if self.key_file:
            return f"the file {self.key_file}"
        return f"the variable {self.key_env}" if self.key_env else None


def is_private(host: str) -> bool | None:
    """Tell whether an address belongs to this machine or a private network; None for a name."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return not (mapped or address).is_global


def public_address(name: str) -> ConfigError:
    """Return the error for a remote that would be sent texts in clear."""
    return ConfigError(
        f"{name} is no address of a private network, and plain HTTP would send it texts in clear",
        hint="use https, or set allow_plain_http = true for this remote",
    )


def read_host(text: str) -> str:
    """Return a name or address that clients may call this machine by as they send it: lower case, addresses
    in their short form and without brackets, ``name:port`` where only one port is meant.

    Raises:
        ConfigError: it is neither.
    """
    told = text.strip()
    try:
        return str(ipaddress.ip_address(told.strip("[]")))
    except ValueError:
        pass
    found = _HOST.fullmatch(told)
    try:
        if found is None or int(found[2] or 0) > 65535:
            raise ValueError(text)
        if found[1].startswith("["):
            return f"[{ipaddress.ip_address(found[1].strip('[]'))}]:{int(found[2])}"
        name = found[1] if found[1].isascii() else found[1].encode("idna").decode("ascii")
    except ValueError:  # of a name that cannot be written in ASCII too
        raise ConfigError(
            f"serve.hosts: {text!r} is no host", hint="box.example.org, or with a port"
        ) from None
    return name.lower() + (f":{int(found[2])}" if found[2] else "")


def read_origin(text: str) -> str:
    """Return an origin of web pages as browsers send it: lower case, and without the port that is its
    scheme's own.

    Raises:
        ConfigError: it is no origin, or more than one.
    """
    try:
        parts = urllib.parse.urlsplit(text.strip().lower())
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urllib.parse.SplitResult("", "", "", "", ""), None, None
    more = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
    if not parts.scheme or not host or more or "*" in host or any(letter.isspace() for letter in host):
        raise ConfigError(f"serve.cors_origins: {text!r} is no origin", hint="https://example.org")
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, _PORTS.get(parts.scheme)) else "")
