"""How a command is shown before anything is known of its port."""

from __future__ import annotations

from llamafile_mgr.catalog import Role
from llamafile_mgr.config import ModelConfig
from llamafile_mgr.planner.planning import plan_models
from llamafile_mgr.planner.rendering import PORT_PLACEHOLDER, describe_command
from tests.planner import samples


def test_a_number_like_the_placeholders_own_is_shown_as_it_is() -> None:
    spec = samples.weights("mistral", samples.MISTRAL, samples.GB, Role.GENERATE)
    told = {"mistral": ModelConfig(engine_args=("--seed", "999999999"))}
    (plan,) = plan_models((spec,), samples.DESKTOP_32GB, samples.EMBEDDED_ONLY, {}, told)
    words = describe_command(plan)
    assert words[words.index("--seed") + 1] == "999999999"
    assert words[words.index("--port") + 1] == PORT_PLACEHOLDER
