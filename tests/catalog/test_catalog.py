"""The catalog: what the post recommends is there, typed and pinned."""

from __future__ import annotations

import re

import pytest

from llamafile_mgr.catalog import ArtifactKind, Pooling, Role, load_catalog, load_golden
from llamafile_mgr.catalog.loading import parse_catalog
from llamafile_mgr.errors import ConfigError, NotFoundError

MODEL = """
[models.m]
role = "embed"
title = "M"
summary = "s"
licence = "MIT"
commercial = true
homepage = "https://example.org"
[[models.m.artifacts]]
name = "f16"
kind = "weights"
source = "https://example.org/m.gguf"
"""


@pytest.mark.parametrize(
    ("model_id", "licence", "memory", "dimensions", "summary"),
    [
        ("sfr-embedding-mistral", "CC-BY-NC-4.0", 26.49, 4096, "best overall"),
        ("e5-mistral-7b-instruct", "MIT", 26.49, 4096, "best overall, commercial-friendly licence"),
        ("mxbai-embed-large-v1", "Apache-2.0", 1.25, 1024, "best small"),
    ],
)
def test_the_recommendations_of_the_post(
    model_id: str, licence: str, memory: float, dimensions: int, summary: str
) -> None:
    model = load_catalog().models[model_id]
    assert (model.licence, model.memory_gb, model.dimensions, model.summary) == (
        licence,
        memory,
        dimensions,
        summary,
    )
    assert model.artifact().kind is ArtifactKind.LLAMAFILE
    assert model.commercial is (licence != "CC-BY-NC-4.0")


def test_prompts_are_those_of_the_model_cards() -> None:
    catalog = load_catalog()
    assert catalog.models["mxbai-embed-large-v1"].query_prompt == (
        "Represent this sentence for searching relevant passages: {text}"
    )
    for model_id in ("e5-mistral-7b-instruct", "sfr-embedding-mistral"):
        model = catalog.models[model_id]
        assert model.query_prompt == "Instruct: {task}\nQuery: {text}"
        assert model.pooling is Pooling.LAST
        assert model.document_prompt is None


def test_generation_models_are_graded_from_one_to_twelve_gigabytes() -> None:
    sizes = sorted(
        model.artifact().approximate_size or 0
        for model in load_catalog().models.values()
        if model.role is Role.GENERATE
    )
    assert len(sizes) >= 6
    assert sizes[0] < 1.5e9
    assert 11e9 < sizes[-1] < 13e9


def test_sources_have_a_known_form() -> None:
    catalog = load_catalog()
    artifacts = [a for model in catalog.models.values() for a in model.artifacts] + [
        *catalog.runtimes.values()
    ]
    form = re.compile(
        r"hf:[\w.-]+/[\w.-]+/[\w./-]+(@[0-9a-f]{7,40})?|github:[\w-]+/[\w-]+/[\w.]+/[\w.-]+|pypi:[\w./-]+"
    )
    assert all(form.fullmatch(artifact.source) for artifact in artifacts)
    assert all(runtime.sha256 for runtime in catalog.runtimes.values())


def test_find_by_model_artifact_and_runtime() -> None:
    catalog = load_catalog()
    assert catalog.find("mxbai-embed-large-v1")[1].name == "f16"
    assert catalog.find("mxbai-embed-large-v1:gguf-f16")[1].name == "gguf-f16"
    assert catalog.find("llamafile-0.10.5")[0] is None


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mxbai-embed-large", "did you mean mxbai-embed-large-v1?"),
        ("mxbai-embed-large-v1:q1", "it has: f16, gguf-f16"),
        ("minilm", "did you mean all-minilm-l6-v2?"),
        ("zzz", "it has: sfr-embedding-mistral"),
    ],
)
def test_an_unknown_name_gets_a_hint(name: str, hint: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        load_catalog().find(name)
    assert (caught.value.hint or "").startswith(hint)


def test_golden_vectors_are_unit_length() -> None:
    golden = load_golden(load_catalog().models["all-minilm-l6-v2"])
    assert len(golden) == 10
    assert all(abs(sum(x * x for x in entry.vector) - 1) < 1e-4 for entry in golden)
    assert load_golden(load_catalog().models["mxbai-embed-large-v1"]) == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("role", "rolle"), "unknown key rolle"),
        (('"embed"', '"embedd"'), "not one of embed, generate, rerank"),
        (("commercial = true", "commercial = 1"), "wrong type"),
        (('licence = "MIT"\n', ""), "incomplete"),
        (("[models.m]", '[models."../m"]'), "incomplete|is no id"),
        (('kind = "weights"', 'kind = "weights"\nsha256 = "12"'), "not 64 hex digits"),
        (("[[models.m.artifacts]]", "[[models.m.artefacts]]"), "no artifacts"),
        (("[models.m]", "[models.m"), "not valid TOML"),
    ],
)
def test_a_broken_catalog_is_refused(change: tuple[str, str], message: str) -> None:
    assert parse_catalog(MODEL).models["m"].role is Role.EMBED
    with pytest.raises(ConfigError, match=message):
        parse_catalog(MODEL.replace(*change))
