"""Sources, addresses and redirects."""

from __future__ import annotations

import pytest

from llamafile_mgr.catalog import ArtifactKind, load_catalog
from llamafile_mgr.config import DownloadConfig
from llamafile_mgr.downloader import target_of
from llamafile_mgr.downloader.client import HubAccess
from llamafile_mgr.downloader.hub_sources import is_loopback_host, parse_source
from llamafile_mgr.downloader.redirects import Reach, check_redirect, origin, reach_of
from llamafile_mgr.errors import DownloadError, NotFoundError, UsageError

CONFIG = DownloadConfig(pypi_index="https://index.example/simple/")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("hf:org/repo/file.gguf", "https://huggingface.co/org/repo/resolve/main/file.gguf"),
        ("hf:org/repo/a b/f@v1.0", "https://huggingface.co/org/repo/resolve/v1.0/a%20b/f"),
        ("hf:org/repo/f@refs/pr/1", "https://huggingface.co/org/repo/resolve/refs%2Fpr%2F1/f"),
        ("github:o/r/0.9.3/asset", "https://github.com/o/r/releases/download/0.9.3/asset"),
        ("pypi:My_Package/1.0/f.whl", "https://index.example/simple/my-package/"),
        ("https://example.com/a/file.gguf?x=1", "https://example.com/a/file.gguf?x=1"),
        ("http://127.0.0.1:8/file", "http://127.0.0.1:8/file"),
        ("http://[::1]:8/file", "http://[::1]:8/file"),
        ("http://localhost/file", "http://localhost/file"),
    ],
)
def test_where_sources_lie(text: str, url: str) -> None:
    assert parse_source(text, CONFIG).url == url


@pytest.mark.parametrize(
    "text",
    [
        "hf:org/file", "hf:org/repo/../../etc", "hf:org/repo/./f", "hf:org//f", "hf:org/repo/f@../x",
        "github:o/r/t", "github:o/r/t/a/b", "github:o/r/../a", "pypi:p/1", "pypi:p/1/../f", "ftp://x/f",
        "http://example.com/f", "http://10.0.0.1/f", "https://", "https://host/", "https://u:p@host/f", "x",
        "", "file:///etc/passwd",
    ],
)  # fmt: skip
def test_what_is_no_source(text: str) -> None:
    with pytest.raises(UsageError):
        parse_source(text, CONFIG)


def test_every_source_of_the_catalog_can_be_read() -> None:
    catalog = load_catalog()
    artifacts = [a for model in catalog.models.values() for a in model.artifacts]
    for artifact in [*artifacts, *catalog.runtimes.values()]:
        assert parse_source(artifact.source, DownloadConfig()).url.startswith("https://")


def test_targets() -> None:
    catalog = load_catalog()
    target = target_of("mxbai-embed-large-v1", catalog)
    assert (target.name, target.kind) == ("mxbai-embed-large-v1:f16", ArtifactKind.LLAMAFILE)
    assert target_of("llamafile-0.10.5", catalog).model_id is None
    assert target_of("https://example.com/x.gguf", catalog).kind is ArtifactKind.WEIGHTS
    assert target_of("https://example.com/download/some%20model", catalog).name == "some_model"
    with pytest.raises(NotFoundError):
        target_of("mxbai", catalog)


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        ("8.8.8.8", Reach.PUBLIC), ("2606:4700::1", Reach.PUBLIC), ("10.1.2.3", Reach.PRIVATE),
        ("192.168.0.1", Reach.PRIVATE), ("172.16.0.1", Reach.PRIVATE), ("100.64.0.1", Reach.PRIVATE),
        ("fd00::1", Reach.PRIVATE), ("127.0.0.1", Reach.LOOPBACK), ("::1", Reach.LOOPBACK),
        ("::ffff:127.0.0.1", Reach.LOOPBACK), ("::ffff:10.0.0.1", Reach.PRIVATE),
        ("169.254.169.254", Reach.FORBIDDEN), ("fe80::1%eth0", Reach.FORBIDDEN), ("0.0.0.0", Reach.FORBIDDEN),
        ("224.0.0.1", Reach.FORBIDDEN),
    ],
)  # fmt: skip
def test_reaches(address: str, reach: Reach) -> None:
    assert reach_of(address) is reach


@pytest.mark.parametrize(
    ("named", "target", "addresses", "allowed"),
    [
        ([Reach.PUBLIC], "https://cdn.example/f", ["8.8.8.8"], True),
        ([Reach.PUBLIC], "https://cdn.example/f", ["8.8.8.8", "10.0.0.1"], False),
        ([Reach.PUBLIC], "https://cdn.example/f", ["127.0.0.1"], False),
        ([Reach.PRIVATE], "https://cdn.example/f", ["10.0.0.1"], True),
        ([Reach.PRIVATE], "https://cdn.example/f", ["127.0.0.1"], False),
        ([Reach.LOOPBACK], "http://localhost/f", ["127.0.0.1"], True),
        ([Reach.LOOPBACK], "https://x/f", ["169.254.169.254"], False),
        ([Reach.FORBIDDEN], "https://x/f", ["169.254.169.254"], False),
        ([Reach.PUBLIC], "http://cdn.example/f", ["8.8.8.8"], False),
        ([Reach.PUBLIC], "ftp://cdn.example/f", ["8.8.8.8"], False),
        ([Reach.PUBLIC], "https://cdn.example/f", [], True),
    ],
)
def test_redirects(named: list[Reach], target: str, addresses: list[str], allowed: bool) -> None:
    if allowed:
        check_redirect(named, target, addresses)
        return
    with pytest.raises(DownloadError, match="refused"):
        check_redirect(named, target, addresses)


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://hub.example/a", True),
        ("https://hub.example:443/a", True),
        ("https://HUB.example/a", True),
        ("http://hub.example/a", False),
        ("https://hub.example:444/a", False),
        ("https://hub.example.evil.example/a", False),
        ("https://cdn.example/a", False),
    ],
)
def test_the_token_is_bound_to_scheme_host_and_port(url: str, sent: bool) -> None:
    assert bool(HubAccess("https://hub.example", "secret").headers(url)) is sent
    assert HubAccess("https://hub.example", None).headers(url) == {}


def test_origin_and_loopback() -> None:
    assert origin("https://Example.com/x") == ("https", "example.com", 443)
    assert is_loopback_host("127.3.2.1")
    assert is_loopback_host("a.localhost")
    assert not is_loopback_host("localhost.example.com")
