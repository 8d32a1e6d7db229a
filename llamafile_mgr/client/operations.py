"""What can be asked of the proxy, as exchanges. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Unpack

from llamafile_mgr.client.conversation import Exchange, send_json
from llamafile_mgr.client.values import Chunk, EmbedArguments, Embeddings, ItemError, ModelInfo, Ranked
from llamafile_mgr.errors import EngineError, NotFoundError, UsageError, VectorSpaceError

#: One request stays well below the proxy's limits, and big enough for full batches.
_MOST_TEXTS = 512
_MOST_CHARACTERS = 4_000_000


def split_texts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield runs of texts that make one request each."""
    start, size = 0, 0
    for index, text in enumerate(texts):
        full = index - start >= _MOST_TEXTS or size + len(text) > _MOST_CHARACTERS
        if full and index > start:
            yield texts[start:index]
            start, size = index, 0
        size += len(text)
    if start < len(texts):
        yield texts[start:]


def embed(
    texts: Sequence[str],
    retries: int,
    *,
    keep_going: bool = False,
    return_chunks: bool = False,
    **how: Unpack[EmbedArguments],
) -> Exchange[Embeddings]:
    """Embed texts in as many requests as it takes.

    ``keep_going``: texts that fail do not fail the others. ``return_chunks``: with ``truncate="chunk"``, tell
    the pieces of each text.

    Raises:
        UsageError: one text instead of a list of them, or one of them is no text.
        VectorSpaceError: the vectors are of another space than was asked for, or changed meanwhile.
    """
    if isinstance(texts, (str, bytes)):
        raise UsageError("embed takes a list of texts", hint="embed_one takes a single one")
    texts = [_check_text(index, text) for index, text in enumerate(texts)]
    rows: list[str | None] = []
    errors: list[ItemError] = []
    truncated: list[int] = []
    chunks: list[tuple[Chunk, ...]] = []
    tokens, model, space = 0, None, how.get("if_vector_space")
    asked = {
        "model": how.get("model"),
        "input_type": how.get("input_type"),
        "truncate": how.get("truncate"),
        "dimensions": how.get("dimensions"),
        "keep_going": keep_going or None,
        "instruction": how.get("task"),
        "use_cache": None if how.get("use_cache", True) else False,
        "return_chunks": return_chunks or None,
    }
    told = {name: value for name, value in asked.items() if value is not None}
    for part in split_texts(texts):
        value, headers = yield from send_json(
            "POST",
            "/v1/embeddings",
            {"input": list(part), "encoding_format": "base64", **told},
            retries=retries,
            # Refused before any work; the check of the answer is for servers that do not know the header.
            headers={"if-vector-space": f'"{space}"'} if space is not None else None,
        )
        space = _check_space(space, headers.get("x-vector-space"))
        model = value["model"]
        tokens += int(value["usage"]["prompt_tokens"])
        if len(value["data"]) != len(part):
            raise EngineError(f"{len(part)} texts were sent and {len(value['data'])} vectors came back")
        for item in value["data"]:
            index = len(rows)
            rows.append(item["embedding"])
            if "error" in item:
                errors.append(ItemError(index, item["error"]["code"], item["error"]["message"]))
            if "truncated" in item:
                truncated.append(index)
            if return_chunks:
                chunks.append(tuple(_read_chunk(each) for each in item.get("chunks", ())))
    return Embeddings(tuple(rows), tuple(errors), tuple(truncated), model, space, tokens, tuple(chunks))


def _check_text(index: int, text: str) -> str:
    if not isinstance(text, str):
        raise UsageError(f"text {index} is no text but of type {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"text {index} is no Unicode text: it has half a character at {error.start}",
            hint='text.encode("utf-8", "replace").decode() puts a question mark there',
        ) from None
    return text


def _read_chunk(told: Mapping[str, Any]) -> Chunk:
    return Chunk(int(told["start"]), int(told["end"]), str(told["embedding"]))


def _check_space(wanted: str | None, got: str | None) -> str | None:
    if wanted is not None and got != wanted:
        raise VectorSpaceError(
            f"the server's vectors are of the space {got}, not {wanted}",
            cause="another model, other weights, or another prompt or pooling",
            hint="index again, or ask the server that made the index",
        )
    return got


def rerank(
    query: str, documents: Sequence[str], model: str | None, top_n: int | None, retries: int
) -> Exchange[list[Ranked]]:
    """Order documents by how well they answer a query, the best first."""
    body: dict[str, Any] = {"query": query, "documents": list(documents)}
    body |= {"model": model} if model is not None else {}
    body |= {"top_n": top_n} if top_n is not None else {}
    value, _ = yield from send_json("POST", "/v1/rerank", body, retries=retries)
    return [Ranked(int(each["index"]), float(each["relevance_score"])) for each in value["results"]]


def models(retries: int) -> Exchange[list[ModelInfo]]:
    """Return what is served."""
    value, _ = yield from send_json("GET", "/v1/models", None, retries=retries)
    return [_read_model(each) for each in value["data"]]


def _read_model(entry: Mapping[str, Any]) -> ModelInfo:
    meta = entry.get("meta", {})
    return ModelInfo(
        name=str(entry["id"]),
        role=str(meta.get("role", "unknown")),
        ready=bool(meta.get("ready", True)),
        dimensions=meta.get("dimensions"),
        max_tokens=meta.get("max_tokens"),
        vector_space=meta.get("vector_space"),
        slots=meta.get("slots"),
        remotes=meta.get("remotes", 0),
    )


def health(retries: int) -> Exchange[dict[str, Any]]:
    """Return what ``/health`` says."""
    value, _ = yield from send_json("GET", "/health", None, retries=retries)
    return dict(value)


def vector_space(model: str | None, retries: int) -> Exchange[str]:
    """Return the fingerprint of an embedding model's vectors.

    Raises:
        NotFoundError: no embedding model is served, or none of this name.
    """
    served = yield from models(retries)
    for each in served:
        if each.vector_space is not None and model in (None, each.name):
            return each.vector_space
    names = ", ".join(each.name for each in served) or "nothing"
    raise NotFoundError(
        f"no embedding model{f' {model}' if model else ''} is served", hint=f"served: {names}"
    )
