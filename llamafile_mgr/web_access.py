"""How this system reaches the web: through which proxy, trusting whom, with which tokens.

The variables are those of curl and Python (``https_proxy``, ``all_proxy``, ``no_proxy``, ``SSL_CERT_FILE``);
macOS's and Windows's own settings count where there are none.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import re
import ssl
import urllib.request
from collections.abc import Mapping
from urllib.parse import urlsplit

from llamafile_mgr.errors import ConfigError

_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
_PORTS = {"http": 80, "https": 443}
#: Where systems keep what they trust, for a Python that was built for another one.
_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def proxy_for(url: str) -> str | None:
    """Return the address of the proxy through which ``url`` is asked for, None for none.

    Raises:
        ConfigError: the proxy that is named cannot be used.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or is_exempt(host, parts.port or _PORTS.get(parts.scheme, 0), proxies.get("no", "")):
        return None
    if not urllib.request.getproxies_environment() and urllib.request.proxy_bypass(host):
        return None
    return _check_proxy(proxy)


def _check_proxy(told: str) -> str:
    """Return a proxy's address with its scheme. What it may hold of a password is never repeated."""
    proxy = told if "://" in told else f"http://{told}"
    scheme, _, rest = proxy.partition("://")
    shown = f"{scheme}://{rest.rpartition('@')[2]}"
    try:
        parts = urlsplit(proxy)
        usable = bool(parts.hostname) and parts.port != 0 and proxy.isascii() and proxy.isprintable()
    except ValueError:
        usable = False
    if not usable or scheme not in _PROXY_SCHEMES or " " in proxy:
        raise ConfigError(
            f"the environment names the proxy {shown!r}, which cannot be used",
            hint=f"write it as http://host:port; it may be {', '.join(_PROXY_SCHEMES)}",
        )
    if scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise ConfigError(
            f"the environment names the proxy {shown}, and SOCKS needs one more package",
            hint="pip install socksio, or name an HTTP proxy in https_proxy",
        )
    return proxy


def is_exempt(host: str, port: int, exemptions: str) -> bool:
    """Tell whether ``no_proxy`` exempts a host: a name with all below it, an address, a network as
    ``10.0.0.0/8``, each perhaps with a port, or ``*``."""
    address = _read_address(host)
    for told in exemptions.replace(",", " ").lower().split():
        name, its_port = _split_port(told)
        if its_port not in (None, port):
            continue
        if name == "*":
            return True
        if address is None:
            name = name.removeprefix("*").lstrip(".")
            if name and (host.lower() == name or host.lower().endswith(f".{name}")):
                return True
            continue
        try:
            if address in ipaddress.ip_network(name, strict=False):
                return True
        except ValueError:
            continue
    return False


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine by its loopback address."""
    address = _read_address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def _read_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _split_port(told: str) -> tuple[str, int | None]:
    if told.startswith("["):
        name, _, rest = told[1:].partition("]")
        return name + (rest if rest.startswith("/") else ""), _read_port(rest.removeprefix(":"))
    name, _, port = told.rpartition(":")
    if ":" in name or not name:  # an address of IPv6 without brackets
        return told, None
    return name, _read_port(port)


def _read_port(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,5}", text) else None


def make_trust(environ: Mapping[str, str] | None = None) -> ssl.SSLContext:
    """Return what is trusted of servers: what ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` name, else what this
    system trusts (a company's own authority too) and certifi's list. Blocks on files.

    Raises:
        ConfigError: a variable names nothing that can be read as certificates.
    """
    env = os.environ if environ is None else environ
    file = os.path.expanduser(env.get("SSL_CERT_FILE", "")) or None
    directory = os.path.expanduser(env.get("SSL_CERT_DIR", "")) or None
    if file is None and directory is None:
        import certifi

        context = ssl.create_default_context()
        system = ssl.get_default_verify_paths()
        if not (system.cafile or system.capath):
            for bundle in filter(os.path.isfile, _SYSTEM_BUNDLES):
                context.load_verify_locations(bundle)
                break
        context.load_verify_locations(certifi.where())
        return context
    named = f"SSL_CERT_FILE names {file}" if file else f"SSL_CERT_DIR names {directory}"
    try:
        if directory is not None and not all(map(os.path.isdir, directory.split(os.pathsep))):
            raise NotADirectoryError("it is no directory")
        return ssl.create_default_context(cafile=file, capath=directory)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(
            f"{named}, which cannot be read as certificates: {error}", hint="name a PEM file, or unset it"
        ) from error


def check_token(token: str, what: str) -> str:
    """Return a token without space around it. Raises ConfigError for what no header can carry."""
    token = token.strip()
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise ConfigError(f"{what} has characters that no token has", hint="copy it again, without quotes")
    return token
