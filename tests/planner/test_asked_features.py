"""What settings ask of an engine: whose it may be, what it costs, what is said of it, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llamafile_mgr.catalog import Role
from llamafile_mgr.config import ModelConfig
from llamafile_mgr.embedding.space import fingerprint_space
from llamafile_mgr.engine_settings import LoraConfig, RopeConfig, YarnConfig
from llamafile_mgr.engines.toolbox import Toolbox
from llamafile_mgr.errors import PlanError
from llamafile_mgr.planner.model_specs import ModelSpec, SideFile, SideFiles
from llamafile_mgr.planner.planning import plan_models
from llamafile_mgr.planner.plans import Plan
from tests.planner import samples

CLIP = samples.gguf(architecture="clip", kind="mmproj", vocab_size=None)
ADAPTER = replace(samples.MISTRAL, kind="adapter", vocab_size=None)
SMALL = replace(samples.MISTRAL, block_count=4, tokenizer_model="llama")
MODEL = samples.weights("m", replace(samples.MISTRAL, tokenizer_model="llama"), 4_420_000_000, Role.GENERATE)
EMBEDDER = samples.weights("e", replace(samples.MISTRAL, pooling="last"), 4_420_000_000)
RUNTIME = samples.with_runtimes(samples.RUNTIME)


def side(name: str, header: object, size: int = 10**8) -> SideFile:
    return SideFile(name, Path(f"/side/{name}"), header, size, f"digest of {name}")  # type: ignore[arg-type]


def plan(spec: ModelSpec, toolbox: Toolbox = samples.EMBEDDED_ONLY, **told: Any) -> Plan:
    (made,) = plan_models((spec,), samples.DESKTOP_32GB, toolbox, {}, {spec.name: ModelConfig(**told)})
    return made


def with_files(spec: ModelSpec, **files: Any) -> ModelSpec:
    return replace(spec, beside=SideFiles(**files))


def reason(made: Plan, setting: str) -> str:
    return next(f"{each.value}: {each.why}" for each in made.reasons if each.setting == setting)


@pytest.mark.parametrize("toolbox", [samples.EMBEDDED_ONLY, RUNTIME])
def test_everything_at_once_is_passed_planned_for_and_explained(toolbox: Toolbox) -> None:
    files = {"mmproj": side("p.gguf", CLIP), "draft": side("d.gguf", SMALL)}
    spec = with_files(MODEL, lora=(side("a.gguf", ADAPTER), side("b.gguf", ADAPTER)), **files)
    told = {
        "mmproj": "p.gguf",
        "draft": "d.gguf",
        "lora": (LoraConfig("a.gguf"), LoraConfig("b.gguf", 0.5)),
        "cache_type": ("q8_0",),
        "chat_template": "llama2",
        "reasoning_budget": 0,
        "yarn": YarnConfig(4.0, original_context=32768),
        "engine_args": ("--top-k=5", "--cache-ram", "0"),
    }
    made, bare = plan(spec, toolbox, **told), plan(MODEL, toolbox)
    words = " ".join(made.command(1, None))
    for part in (
        "--mmproj /side/p.gguf",
        "--lora-scaled /side/a.gguf:1,/side/b.gguf:0.5",
        "--model-draft /side/d.gguf --spec-type draft-simple",
        "--cache-type-k q8_0 --cache-type-v q8_0",
        "--chat-template llama2 --no-jinja",
        "--reasoning-budget 0",
        "--rope-scaling yarn --rope-freq-scale 0.25 --yarn-orig-ctx 32768",
        "-fa on",
        "--top-k 5 --cache-ram 0",
    ):
        assert part.split()[0] in words
        assert all(word in words for word in part.split()), part
    assert words.count("--cache-ram") == 1
    assert any("--cache-ram" in warning for warning in made.warnings)
    assert made.memory is not None
    assert bare.memory is not None
    assert made.memory.kv_cache == bare.memory.kv_cache * 34 // 64
    assert made.memory.beside > 4 * 10**8
    assert made.memory.total == bare.memory.total - bare.memory.kv_cache + made.memory.kv_cache + (
        made.memory.beside + made.memory.prompt_cache - bare.memory.prompt_cache
    )
    for setting in ("mmproj", "lora", "draft", "cache_type", "yarn", "chat_template", "reasoning_budget"):
        assert "set in the configuration" in reason(made, setting)
    assert "b.gguf x 0.5" in reason(made, "lora")
    assert "need it" in reason(made, "flash_attention")


def test_one_type_for_keys_and_another_for_values() -> None:
    words = plan(MODEL, cache_type=("q8_0", "f16")).command(1, None)
    assert words[words.index("--cache-type-k") + 1] == "q8_0"
    assert words[words.index("--cache-type-v") + 1] == "f16"
    assert "-fa" not in words


def test_chatml_is_known_to_jinja_and_other_names_are_not() -> None:
    assert "--no-jinja" not in plan(MODEL, chat_template="chatml").command(1, None)
    spec = with_files(MODEL, chat_template=Path("/side/t.jinja"))
    words = plan(spec, chat_template="t.jinja").command(1, None)
    assert words[words.index("--chat-template-file") + 1] == "/side/t.jinja"
    assert "--no-jinja" not in words


def test_a_longer_context_is_planned_with_yarn() -> None:
    short, long = samples.qwen_embed, replace(samples.qwen_embed, stretch=2.0)
    assert long.text_limit == 2 * short.text_limit
    told = {"yarn": YarnConfig(2.0), "context": 65536}
    (made,) = plan_models(
        (long,),
        samples.SERVER_192,
        samples.EMBEDDED_ONLY,
        {},
        {long.name: ModelConfig(**told)},  # type: ignore[arg-type]
    )
    assert made.max_tokens == 65536


@pytest.mark.parametrize(
    ("spec", "files", "told", "message", "cause"),
    [
        (samples.minilm, {}, {"reasoning_budget": 0}, "reasoning_budget is for models that gen", "embed"),
        (
            EMBEDDER,
            {"mmproj": side("p", CLIP)},
            {"mmproj": "p"},
            "mmproj is for models that generate",
            "embed",
        ),
        (samples.minilm, {}, {"cache_type": ("q8_0",)}, "has no key/value cache", "at once"),
        (samples.minilm, {}, {"yarn": YarnConfig(2.0)}, "no rotary positions", ""),
        (
            samples.weights("n", replace(samples.MISTRAL, head_count=256), 10**9, Role.GENERATE),
            {},
            {"cache_type": ("f16", "q4_0")},
            "values of n cannot be q4_0",
            "",
        ),
        (
            samples.weights("n", replace(samples.MISTRAL, key_length=80), 10**9, Role.GENERATE),
            {},
            {"cache_type": ("q8_0", "f16")},
            "keys of n cannot be q8_0",
            "a head has 80",
        ),
        (MODEL, {"mmproj": side("p", SMALL)}, {"mmproj": "p"}, "mmproj: p cannot be used", "no projector"),
        (
            MODEL,
            {"lora": (side("a", SMALL),)},
            {"lora": (LoraConfig("a"),)},
            "lora: a cannot be used",
            "no adapter",
        ),
        (
            MODEL,
            {"lora": (side("a", replace(ADAPTER, architecture="qwen3")),)},
            {"lora": (LoraConfig("a"),)},
            "lora: a cannot be used",
            "for qwen3",
        ),
        (
            MODEL,
            {"lora": (side("a,b", ADAPTER),)},
            {"lora": (LoraConfig("a,b"),)},
            "lora: a,b cannot be used",
            "comma",
        ),
        (
            MODEL,
            {"draft": side("d", replace(SMALL, vocab_size=50_000))},
            {"draft": "d"},
            "draft: d cannot be used",
            "50000 tokens",
        ),
        (
            samples.weights("n", replace(samples.MISTRAL, add_eos=True, eos_id=2), 10**9, Role.GENERATE),
            {"draft": side("d", replace(samples.MISTRAL, add_eos=True, eos_id=3))},
            {"draft": "d"},
            "draft: d cannot be used",
            "begin or end with other tokens",
        ),
        (MODEL, {"draft": side("d", CLIP)}, {"draft": "d"}, "draft: d cannot be used", "no model"),
        (MODEL, {}, {"engine_args": ("--host", "::")}, "models.m.engine_args: --host", "address"),
        (MODEL, {}, {"engine_args": ("--numa", "isolate")}, "nothing that is installed", "--numa"),
    ],
)
def test_what_makes_no_sense_is_refused(
    spec: ModelSpec, files: dict[str, Any], told: dict[str, Any], message: str, cause: str
) -> None:
    with pytest.raises(PlanError, match=message) as caught:
        plan(with_files(spec, **files), **told)
    assert cause in str(caught.value.cause or "")


@pytest.mark.parametrize(
    ("told", "files", "why"),
    [
        ({"reasoning_budget": 0}, {}, "it has no reasoning_budget"),
        ({"mmproj": "p"}, {"mmproj": side("p", CLIP)}, "it has no mmproj: its chat route takes no images"),
        ({"lora": (LoraConfig("a"),)}, {"lora": (side("a", ADAPTER),)}, "format before GGUF alone"),
        ({"draft": "d"}, {"draft": side("d", SMALL)}, "it has no draft"),
        ({"cache_type": ("q8_0",)}, {}, "q8_0 need flash attention"),
        ({"cache_type": ("bf16", "f16")}, {}, "cannot be bf16"),
        ({"engine_args": ("--top-k", "5")}, {}, "--top-k is not passed on"),
    ],
)
def test_an_old_engine_says_what_it_lacks_and_a_newer_one_takes_its_weights(
    told: dict[str, Any], files: dict[str, Any], why: str
) -> None:
    header = replace(samples.MISTRAL, tokenizer_model="llama")
    old = with_files(samples.subject("m", Role.GENERATE, version="0.8.4", header=header), **files)
    with pytest.raises(PlanError, match="nothing that is installed can run m") as caught:
        plan(old, samples.NOTHING, **told)
    assert why in str(caught.value.cause)
    made = plan(old, RUNTIME, **told)
    assert made.family.value == "v10"
    assert why in reason(made, "engine")


def test_an_old_engine_has_its_own_names() -> None:
    old = samples.subject("m", Role.GENERATE, version="0.8.4", header=samples.MISTRAL)
    told = {"cache_type": ("q8_0", "f16"), "chat_template": "llama2", "rope": RopeConfig(scale=2.0)}
    words = " ".join(plan(old, samples.NOTHING, engine_args=("-gan", "2"), **told).command(1, None))
    assert "--cache-type-k q8_0 --cache-type-v f16" in words
    assert "--rope-scaling linear --rope-freq-scale 0.5 --chat-template llama2 -gan 2" in words


def test_early_runtimes_do_not_draft() -> None:
    early = replace(samples.RUNTIME, name="llamafile-0.10.1", version="0.10.1")
    spec = with_files(MODEL, draft=side("d", SMALL))
    with pytest.raises(PlanError) as caught:
        plan(spec, samples.with_runtimes(early), draft="d")
    assert "calls drafting" in str(caught.value.cause)


def test_what_changes_vectors_changes_their_space() -> None:
    adapter = with_files(EMBEDDER, lora=(side("a.gguf", ADAPTER),))
    made = [
        plan(EMBEDDER),
        plan(EMBEDDER, rope=RopeConfig(freq_base=5e5)),
        plan(EMBEDDER, yarn=YarnConfig(2.0)),
        plan(EMBEDDER, cache_type=("q8_0",)),
        plan(adapter, lora=(LoraConfig("a.gguf"),)),
        plan(adapter, lora=(LoraConfig("a.gguf", 0.5),)),
        plan(EMBEDDER, RUNTIME, engine_args=("--override-kv", "tokenizer.ggml.add_eos_token=bool:true")),
    ]
    spaces = [fingerprint_space(each) for each in made]
    assert len(set(spaces)) == len(spaces)
    # What is not asked for is no part of it: spaces of before stay what they were.
    assert fingerprint_space(plan(EMBEDDER, cache_type=("f16",))) == spaces[0]
    assert fingerprint_space(plan(EMBEDDER, threads=1, engine_args=("--poll", "0"))) == spaces[0]
