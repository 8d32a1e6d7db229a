"""How a program reaches a service: an address, a key, the models' names, and the variables that say so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

#: OpenAI's clients insist on a key; the proxy asks for one only where keys are configured.
_NO_KEY = "none"
_PROXY_VARIABLES = frozenset({"http_proxy", "https_proxy", "all_proxy"})
_EXEMPTIONS = ("no_proxy", "NO_PROXY")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
#: Listening on all addresses, a service is reached at this one.
_ANY = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - compared, not bound


@dataclass(frozen=True, slots=True)
class ServiceAccess:
    """``url``: the proxy, without ``/v1``. ``api_key`` None: no key is needed. ``models``: role -> its
    default."""

    url: str
    api_key: str | None
    models: Mapping[str, str]

    @property
    def openai_url(self) -> str:
        """Return the base URL of OpenAI's clients."""
        return f"{self.url}/v1"

    def openai_kwargs(self) -> dict[str, Any]:
        """Return what ``openai.OpenAI(**kwargs)`` and its relatives need."""
        return {"base_url": self.openai_url, "api_key": self.api_key or _NO_KEY}

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return ``environ`` with the variables that clients read, and without those of another service."""
        variables = {
            "OPENAI_BASE_URL": self.openai_url,
            "OPENAI_API_KEY": self.api_key or _NO_KEY,
            "LLAMAFILE_URL": self.url,
            "OLLAMA_HOST": self.url,
            "LLAMAFILE_EMBED_MODEL": self.models.get("embed"),
            "LLAMAFILE_GENERATE_MODEL": self.models.get("generate"),
            "LLAMAFILE_RERANK_MODEL": self.models.get("rerank"),
        }
        merged = {name: value for name, value in environ.items() if name not in variables}
        merged.update({name: value for name, value in variables.items() if value is not None})
        if any(name.lower() in _PROXY_VARIABLES for name in environ):
            # Else clients would ask the web proxy for our loopback address. Most read one of the spellings.
            told = ",".join(environ.get(name, "") for name in _EXEMPTIONS).replace(",", " ").split()
            merged |= dict.fromkeys(_EXEMPTIONS, ",".join(dict.fromkeys((*told, *_LOOPBACK))))
        return merged


def reachable(url: str) -> str:
    """Return an URL of this machine for what listens on ``url``, which may mean all addresses."""
    parts = urlsplit(url)
    host = _ANY.get(parts.hostname or "")
    return url if host is None else urlunsplit(parts._replace(netloc=f"{host}:{parts.port}"))
