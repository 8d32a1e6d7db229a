"""Tables of settings that no model has are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamafile_mgr.config import Config, ModelConfig, ServeConfig
from llamafile_mgr.launching.unmatched import unmatched_settings
from llamafile_mgr.paths import resolve_paths
from llamafile_mgr.planner.planning import plan_models
from tests.planner import samples

MINILM = samples.weights("all-minilm-l6-v2:pypi-q8_0", samples.MINILM, 46_220_384)


def told(tmp_path: Path, *names: str) -> tuple[str, ...]:
    config = Config(models={name: ModelConfig() for name in names})
    plans = plan_models((MINILM, samples.mxbai_gguf), samples.LAPTOP_8GB, samples.EMBEDDED_ONLY, {}, {})
    return unmatched_settings(config, plans, resolve_paths({"LLAMAFILE_MGR_HOME": str(tmp_path)}))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mxbai-embed-large-v1", None),
        ("all-minilm-l6-v2:pypi-q8_0", None),
        ("e5-mistral-7b-instruct", None),  # of the catalog, and not served now
        (
            "mxbai-embed-large",
            '[models."mxbai-embed-large"] matches no model that is known here; did you mean'
            " mxbai-embed-large-v1?",
        ),
        ("", '[models.""] matches no model that is known here'),
        ("zzz", '[models."zzz"] matches no model that is known here'),
        (
            "all-minilm-l6-v2",
            '[models."all-minilm-l6-v2"] does not count for all-minilm-l6-v2:pypi-q8_0: name the table as the'
            " model is named",
        ),
    ],
)
def test_a_table_that_counts_for_nothing_is_told(tmp_path: Path, name: str, text: str | None) -> None:
    assert told(tmp_path, name) == (() if text is None else (text,))


def test_a_file_of_the_settings_has_its_name(tmp_path: Path) -> None:
    config = Config(serve=ServeConfig(embed=("/models/mine.gguf",)), models={"mine": ModelConfig()})
    assert unmatched_settings(config, (), resolve_paths({"LLAMAFILE_MGR_HOME": str(tmp_path)})) == ()


def test_a_variant_with_a_table_of_its_own_needs_no_other(tmp_path: Path) -> None:
    assert told(tmp_path, "all-minilm-l6-v2:pypi-q8_0", "all-minilm-l6-v2") == ()
