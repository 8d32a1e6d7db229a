"""The argv of every family against the flags that its releases know (reference tables of llamafile 0.8.4,
0.9.3 and 0.10.6, and the embedded engine's own list)."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamafile_mgr.engines.embedded import FLAGS, parse_options
from llamafile_mgr.machine import Machine
from llamafile_mgr.planner.model_specs import ModelSpec
from llamafile_mgr.planner.planning import plan_models
from llamafile_mgr.planner.plans import Plan
from tests.planner import samples

#: Flag -> whether it takes a value.
V1 = {
    **dict.fromkeys(("--host", "--port", "-m", "--alias", "-c", "-t", "-tb", "-np", "-ngl", "--gpu"), True),
    "--api-key-file": True,
    "--server": False,
    "--nobrowser": False,
    "--embedding": False,
}
V2 = {
    **dict.fromkeys(("-l", "--trust", "-m", "-c", "-s", "-t", "-tb", "-ngl", "--gpu"), True),
    "--server": False,
    "--v2": False,
}
V10 = {
    **dict.fromkeys(("--host", "--port", "-m", "-c", "-np", "-t", "-b", "-ub", "--pooling", "--gpu"), True),
    **dict.fromkeys(("--alias", "--api-key-file", "-fa", "--cache-ram"), True),
    **dict.fromkeys(("--server", "--embedding", "--no-webui"), False),
}
EMBEDDED = {name: flag.read is not None for name, flag in FLAGS.items()} | {"-m": True}
KNOWN = {"v1": V1, "v2": V2, "v10": V10, "embedded": EMBEDDED}

MACHINES = (samples.DESKTOP_32GB, samples.GPU_24GB, samples.GPU_4GB, samples.MAC_16GB, samples.WSL)
LAST_TOKEN_093 = samples.subject("e5-mistral-7b-instruct", version="0.9.3", header=samples.MISTRAL)
MODELS = (
    samples.mxbai,
    samples.minilm,
    samples.sfr_gguf,
    samples.llama_1b,
    samples.qwen,
    samples.mistral_v1,
    LAST_TOKEN_093,
)


def flags_of(plan: Plan) -> dict[str, str | None]:
    """Read the argv as the family's own parser would; an unknown flag fails."""
    rest = list(plan.command(8081, Path("/key"))[len(plan.program) :])
    found: dict[str, str | None] = {}
    while rest:
        name = rest.pop(0)
        assert name in KNOWN[plan.family.value], f"{plan.family.value} does not know {name}"
        found[name] = rest.pop(0) if KNOWN[plan.family.value][name] else None
    return found


@pytest.mark.parametrize(
    "toolbox", [samples.NOTHING, samples.EMBEDDED_ONLY, samples.with_runtimes(samples.RUNTIME)]
)
@pytest.mark.parametrize("machine", MACHINES)
def test_every_flag_is_known_to_its_family(machine: Machine, toolbox: object) -> None:
    seen = set()
    for model in MODELS:
        if model.facts.family is None and toolbox is samples.NOTHING:
            continue
        (plan,) = plan_models((model,), machine, toolbox, {}, {})  # type: ignore[arg-type]
        flags_of(plan)
        seen.add(plan.family.value)
    assert "v1" in seen


@pytest.mark.parametrize("subject", [samples.mxbai, samples.e5])
def test_v1_embedding_flags(subject: ModelSpec) -> None:
    (plan,) = plan_models((subject,), samples.GPU_24GB, samples.NOTHING, {}, {})
    flags = flags_of(plan)
    assert flags["-np"] == "1"
    assert "-b" not in flags
    assert flags["--gpu"] == "nvidia"
    assert flags["-ngl"] == "999"
    assert int(flags["-c"] or 0) == (512 if subject is samples.mxbai else 4096)


def test_the_embedded_engine_reads_what_is_planned_for_it() -> None:
    for model in (samples.minilm, samples.mistral):
        (plan,) = plan_models((model,), samples.DESKTOP_32GB, samples.EMBEDDED_ONLY, {}, {})
        options = parse_options(plan.command(0, None)[len(plan.program) :])
        assert options.settings["n_parallel"] == plan.settings.slots
        assert options.settings["n_ctx"] == plan.settings.slots * plan.settings.context
