"""A running proxy of ours as a source of vectors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from llamafile_mgr.bulk.text_records import Failure, TextResult
from llamafile_mgr.bulk.vector_sources import EmbedSettings
from llamafile_mgr.client import AsyncClient, ModelInfo
from llamafile_mgr.errors import BodyTooLargeError, CheckpointError, NotFoundError, VectorSpaceError

_ANSWER_SECONDS = 3600.0
_FIRST_RETRIES = 2
#: With growing pauses these last for about five minutes.
_RETRIES = 16


class ProxySource:
    """Vectors over HTTP."""

    def __init__(self, client: AsyncClient, settings: EmbedSettings, served: ModelInfo, space: str) -> None:
        self._client = client
        self._settings = settings
        self.model = served.name
        self.vector_space = space
        self.dimensions = settings.dimensions or served.dimensions
        self.exact = served.slots == 1 and not served.remotes and not settings.use_cache

    async def embed(self, texts: Sequence[str]) -> list[TextResult]:
        """Return one result per text. Raises what ``VectorSource`` says."""
        settings = self._settings
        try:
            found = await self._client.embed_all(
                texts,
                model=self.model,
                input_type=settings.input_type.value if settings.input_type else None,
                truncate=settings.truncation.value,
                dimensions=settings.dimensions,
                if_vector_space=self.vector_space,
                task=settings.task,
                use_cache=settings.use_cache,
            )
        except BodyTooLargeError as error:
            if len(texts) == 1:
                return [TextResult(failure=Failure(error.code, error.describe()))]
            half = len(texts) // 2
            return await self.embed(texts[:half]) + await self.embed(texts[half:])
        except VectorSpaceError as error:
            raise CheckpointError(
                "the vector space changed while the job ran", cause=error.describe(), hint="see --restart"
            ) from error
        failures = {each.index: Failure(each.code, each.message) for each in found.errors}
        cut = dict.fromkeys(found.truncated, settings.truncation.value)
        return [
            TextResult(failure=failures[index])
            if index in failures
            else TextResult(vector, truncated=cut.get(index))
            for index, vector in enumerate(found.as_numpy())
        ]


@asynccontextmanager
async def running_proxy(
    url: str, settings: EmbedSettings, *, model: str | None = None, api_key: str | None = None
) -> AsyncIterator[ProxySource]:
    """Use the proxy at ``url`` while inside; ``model`` None takes its first embedding model.

    Raises:
        UsageError: the URL is none.
        NotReadyError: nobody answers there.
        NotFoundError: the model is not served there, or no llamafile-mgr is.
        RequestError: it wants another API key.
    """
    async with AsyncClient(url, api_key=api_key, retries=_FIRST_RETRIES) as first:
        served = [each for each in await first.models() if each.vector_space is not None]
    found = next((each for each in served if model in (None, each.name)), None)
    if found is None or found.vector_space is None:
        names = ", ".join(each.name for each in served) or "no embedding model of llamafile-mgr"
        raise NotFoundError(f"{url} serves {names}" + (f", not {model}" if model else ""))
    async with AsyncClient(url, api_key=api_key, timeout_seconds=_ANSWER_SECONDS, retries=_RETRIES) as client:
        yield ProxySource(client, settings, found, found.vector_space)
