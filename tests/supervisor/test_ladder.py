"""The way down: each step needs less, ends, and leaves the essential flags alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llamafile_mgr.catalog import Role
from llamafile_mgr.engines.engine_args import drop_flags
from llamafile_mgr.engines.families import family_rules
from llamafile_mgr.engines.launch_settings import LaunchSettings
from llamafile_mgr.llamafile import Family
from llamafile_mgr.supervisor.degradation import degrade
from llamafile_mgr.supervisor.diagnosis import Diagnosis, Kind, diagnose

CHAT = LaunchSettings(Role.GENERATE, 0, 4096, 4, slots=2, gpu="nvidia", gpu_layers=999)
NO_ROOM = diagnose(1, ["CUDA error: out of memory"], 5.0)


def walk(settings: LaunchSettings) -> list[str]:
    """Return the texts of all steps down from these settings."""
    texts = []
    while (step := degrade(settings, NO_ROOM, ())) is not None:
        settings = step.settings
        texts.append(step.text.split(":")[0])
    return texts


def test_out_of_gpu_memory() -> None:
    assert NO_ROOM.kind is Kind.OUT_OF_MEMORY
    assert walk(CHAT) == [
        "16 layers on the GPU",
        "8 layers on the GPU",
        "4 layers on the GPU",
        "2 layers on the GPU",
        "1 layers on the GPU",
        "context cut to 2048 tokens",
        "context cut to 1024 tokens",
        "on the processor",
        "one slot",
    ]
    assert walk(replace(CHAT, role=Role.EMBED, gpu_layers=None))[0] == "on the processor"


def test_an_unknown_flag_is_dropped_once() -> None:
    unknown = diagnose(1, ["error: invalid argument: --no-webui"], 0.1)
    step = degrade(CHAT, unknown, ())
    assert step is not None
    assert step.dropped == "--no-webui"
    assert degrade(CHAT, unknown, ["--no-webui"]) is None


@pytest.mark.parametrize("flag", ["--host", "--api-key-file", "--embedding", "--pooling", "-m"])
def test_a_flag_that_matters_is_never_dropped(flag: str) -> None:
    assert degrade(CHAT, diagnose(1, [f"error: invalid argument: {flag}"], 0.1), ()) is None


def test_other_causes_have_no_step() -> None:
    assert degrade(CHAT, Diagnosis("it crashed"), ()) is None


def test_dropping_flags_takes_their_values_along() -> None:
    arguments = family_rules(Family.V10).arguments(CHAT)
    assert drop_flags(arguments, ()) == arguments
    assert "--gpu" not in drop_flags(arguments, ["--gpu"])
    assert "nvidia" not in drop_flags(arguments, ["--gpu"])
    assert drop_flags(["-a", "--b", "1", "-c"], ["-a", "--b"]) == ("-c",)


def test_what_settings_ask_for_is_never_dropped() -> None:
    asked = replace(CHAT, asked=("--lora-scaled", "/a:1", "--no-webui"))
    for flag in ("--lora-scaled", "--no-webui"):
        assert degrade(asked, diagnose(1, [f"error: invalid argument: {flag}"], 0.1), ()) is None
