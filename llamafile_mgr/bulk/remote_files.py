"""Inputs that lie behind an URL such as ``s3://bucket/corpus.parquet``, opened by fsspec."""

from __future__ import annotations

import importlib
from typing import Any, BinaryIO, cast

from llamafile_mgr.errors import InvalidFileError, NotFoundError, UsageError


def is_url(name: str) -> bool:
    """Tell whether ``name`` is an URL and no path."""
    return "://" in name


def open_url(url: str) -> BinaryIO:
    """Return a stream that can seek. Raises what ``_filesystem`` says."""
    system, path = _filesystem(url)
    try:
        return cast("BinaryIO", system.open(path, "rb"))
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {url}") from error
    except Exception as error:  # every kind of store has errors of its own
        raise _unreadable(url, error) from error


def identify_url(url: str) -> dict[str, Any]:
    """Return what tells a file from another without reading it: size, and a digest of what its store says.

    Raises what ``open_url`` does.
    """
    system, path = _filesystem(url)
    try:
        return {"bytes": system.size(path), "digest": f"{system.checksum(path):x}"}
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {url}") from error
    except Exception as error:
        raise _unreadable(url, error) from error


def is_shown(path: str) -> bool:
    """Tell whether neither a file nor a folder of a path begins with ``.`` or ``_``: programs hide such."""
    return not any(part.startswith((".", "_")) for part in path.split("/"))


def list_urls(url: str) -> list[str] | None:
    """Return the files that a folder or a pattern with ``*`` or ``[`` names, sorted; None for one file.

    A folder ends in ``/``: asking whether a URL is one would fetch the whole file by HTTP. Its files are the
    shown ones in it and below it.

    A ``?`` belongs to the URL, as in ``s3://bucket/corpus.parquet?versionId=3``.

    Raises what ``open_url`` does.
    """
    system, path = _filesystem(url)
    try:
        if "*" in path or "[" in path:
            found = [each for each in system.glob(path) if not system.isdir(each)]
        elif url.endswith("/"):
            found = [each for each in system.find(path) if is_shown(each[len(path) :])]
        else:
            return None
        return sorted(str(system.unstrip_protocol(each)) for each in found)
    except Exception as error:
        raise _unreadable(url, error) from error


def _filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system and the path in it.

    Raises:
        UsageError: fsspec, or what it needs for this kind of URL, is not installed.
        InvalidFileError: the file system cannot be reached.
    """
    try:
        core = importlib.import_module("fsspec.core")
    except ImportError as error:
        raise UsageError(f"nothing here opens {url}", hint="pip install 'llamafile-mgr[ray]'") from error
    try:
        system, path = core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UsageError(f"nothing here opens {url}", cause=str(error), hint="s3:// needs s3fs") from error
    except Exception as error:
        raise _unreadable(url, error) from error
    return system, str(path)


def _unreadable(url: str, error: Exception) -> InvalidFileError:
    return InvalidFileError(f"cannot read {url}", cause=f"{type(error).__name__}: {error}")
