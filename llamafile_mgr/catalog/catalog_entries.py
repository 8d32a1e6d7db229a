"""The typed entries of the catalog. A field that is ``None`` is unknown, never a guess."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from llamafile_mgr.errors import NotFoundError

#: A part of a name tells which is meant from so many letters on.
_LEAST_PART = 3


class Role(StrEnum):
    """What a model is for; an engine serves one role."""

    EMBED = "embed"
    GENERATE = "generate"
    RERANK = "rerank"


class ArtifactKind(StrEnum):
    """What one file holds: engine and weights, engine alone, or weights alone (a GGUF)."""

    LLAMAFILE = "llamafile"
    RUNTIME = "runtime"
    WEIGHTS = "weights"


class Pooling(StrEnum):
    """How token vectors become one vector; the values are llama.cpp's ``--pooling`` words."""

    NONE = "none"
    MEAN = "mean"
    CLS = "cls"
    LAST = "last"
    RANK = "rank"


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file to pull.

    ``source``: ``hf:ORG/REPO/FILE[@REVISION]``, ``github:OWNER/REPO/TAG/ASSET``,
    ``pypi:PACKAGE/VERSION/FILE`` or a URL. ``size``: bytes, exact; ``approximate_size``: the rounded
    figure of a listing, for display and estimates. ``sha256``: lower-case hex of the file as
    it arrives. ``conversion``: what makes a GGUF of a file that is none, of ``converted_size`` bytes and
    the digest ``converted_sha256``.
    ``engine_version``: the llamafile release inside; ``engine_family``: its family, where that alone is
    known.
    """

    name: str
    kind: ArtifactKind
    source: str
    size: int | None = None
    approximate_size: int | None = None
    sha256: str | None = None
    quantisation: str | None = None
    engine_version: str | None = None
    conversion: str | None = None
    converted_size: int | None = None
    converted_sha256: str | None = None
    engine_family: str | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """The published figures of a model's network, in the words of ``GgufFacts``.

    ``parameters``: of all experts. ``causal``: None is what generation models are.
    """

    block_count: int
    head_count: int
    head_count_kv: int
    key_length: int
    embedding_length: int
    feed_forward_length: int
    vocab_size: int
    context_length: int
    parameters: int
    causal: bool | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """One model that we recommend, with what its card says about using it.

    ``max_tokens``: the longest text, special tokens included; ``recommended_tokens``: the length it
    was trained for, where the card names a shorter one. ``memory_gb``: the post's figure, fp32.
    ``append_eos``: the end-of-sequence token must end every text. ``matryoshka``: vectors may be cut.
    ``query_prompt``, ``document_prompt``: templates with ``{text}`` and perhaps ``{task}``.
    ``golden``: a file of known vectors in ``catalog/golden``. ``tokenizer``: GGUF's word for its kind.
    """

    id: str
    role: Role
    title: str
    summary: str
    licence: str
    commercial: bool
    homepage: str
    artifacts: tuple[Artifact, ...]
    architecture: str | None = None
    shape: Shape | None = None
    dimensions: int | None = None
    max_tokens: int | None = None
    recommended_tokens: int | None = None
    pooling: Pooling | None = None
    append_eos: bool = False
    matryoshka: bool = False
    memory_gb: float | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    task: str | None = None
    golden: str | None = None
    tokenizer: str | None = None

    def artifact(self, name: str | None = None) -> Artifact:
        """Return the artifact of this name, or the recommended one, which stands first.

        Raises:
            NotFoundError: this model has no such artifact.
        """
        if name is None:
            return self.artifacts[0]
        for artifact in self.artifacts:
            if artifact.name == name:
                return artifact
        known = ", ".join(a.name for a in self.artifacts)
        raise NotFoundError(f"{self.id} has no file called {name}", hint=f"it has: {known}")


@dataclass(frozen=True, slots=True)
class Catalog:
    """All entries; ``models`` is keyed by id, ``runtimes`` by name."""

    models: Mapping[str, Model]
    runtimes: Mapping[str, Artifact]

    def find(self, name: str) -> tuple[Model | None, Artifact]:
        """Return what ``MODEL``, ``MODEL:ARTIFACT`` or a runtime's name means.

        Raises:
            NotFoundError: nothing has this name; the hint names the nearest.
        """
        if name in self.runtimes:
            return None, self.runtimes[name]
        model_id, _, artifact = name.partition(":")
        if model_id not in self.models:
            raise NotFoundError(f"the catalog has no model or runtime {name}", hint=self._nearest(model_id))
        model = self.models[model_id]
        return model, model.artifact(artifact or None)

    def _nearest(self, name: str) -> str:
        names = [*self.models, *self.runtimes]
        near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
        if not near and len(name) >= _LEAST_PART:
            near = [each for each in names if name.lower() in each]
        return f"did you mean {near[0]}?" if near else f"it has: {', '.join(names)}"
