"""What embedded arguments would do, in words."""

from __future__ import annotations

import pytest

from llamafile_mgr.engines.arguments import ArgumentSyntax, parse_arguments
from llamafile_mgr.llamafile import ArgumentEffect, Family, explain_arguments


def explain(raw: str, version: str | None = "0.8.4", **more: object) -> tuple[ArgumentEffect, ...]:
    from llamafile_mgr.engines.families import family_of_version

    family = family_of_version(version) if version else None
    return explain_arguments(
        parse_arguments(raw, None),
        family=family,
        version=version,
        **more,  # type: ignore[arg-type]
    )


def test_each_flag_takes_its_value() -> None:
    effects = explain("-m\nx.gguf\n--nobrowser\n--host\n127.0.0.1\nstray\n--new-thing\n7\n...\n")
    assert [effect.arguments for effect in effects] == [
        ("-m", "x.gguf"),
        ("--nobrowser",),
        ("--host", "127.0.0.1"),
        ("stray",),
        ("--new-thing", "7"),
    ]
    assert effects[0].meaning == "loads the model x.gguf"
    assert all(effect.warning is None for effect in effects)


@pytest.mark.parametrize(
    ("raw", "version", "warning"),
    [
        ("--host\n0.0.0.0", "0.8.4", "every machine"),
        ("--host\n192.168.1.2", "0.10.5", "every machine"),
        ("--host\n127.0.0.1", "0.8.4", None),
        ("--host\nlocalhost", "0.8.4", None),
        ("--host\n::1", "0.10.5", None),
        ("-l\n0.0.0.0:8080", "0.9.3", "every machine"),
        ("-l\n127.0.0.1:8080", "0.9.3", None),
        ("-l\n127.0.0.1:8080", "0.10.5", "refuses to start"),
        ("-ngl\n9999", "0.8.4", "GPU"),
        ("-ngl\n9999", "0.10.5", "automatic fit"),
        ("-ngl\n0", "0.8.4", None),
        ("-ngl\nauto", "0.10.5", None),
        ("--no-mmap", "0.8.4", "b11100"),
        ("--no-mmap", "0.10.6", "b11100"),
        ("--server", "0.9.3", "does not count"),
        ("--v2", "0.9.3", "does not count"),
        ("--server", "0.10.5", None),
        ("--nobrowser", "0.8.4", None),
        ("--nobrowser", "0.10.5", "refuses to start"),
        ("--fast", "0.10.5", "refuses to start"),
        ("--embedding", "0.9.0", "503"),
        ("--embedding", "0.8.0", "wrong"),
        ("--embedding", "0.8.4", None),
        ("-np\n4", "0.8.4", "slot"),
        ("-np\n4", "0.10.5", None),
        ("-b\n2048", "0.8.4", "shrink"),
        ("-c\n0", "0.10.5", "whole training context"),
        ("-c\n512", "0.10.5", None),
        ("--unsecure", "0.8.4", "flaw"),
        ("-hf\nsome/repo", "0.10.5", "network"),
        ("--api-key\nsecret", "0.8.4", "readable"),
        ("-c", "0.8.4", "caller's first argument"),
        ("--threads\n8", "0.8.4", "planner"),
    ],
)
def test_warnings(raw: str, version: str, warning: str | None) -> None:
    (effect,) = explain(raw, version)
    if warning is None:
        assert effect.warning is None
    else:
        assert effect.warning is not None
        assert warning in effect.warning


def test_a_model_that_is_not_in_the_file() -> None:
    inside = frozenset({"a.gguf"})
    assert explain("-m\na.gguf", members=inside)[0].warning is None
    assert explain("-m\n/zip/a.gguf", members=inside)[0].warning is None
    assert "not in this file" in str(explain("-m\n../b.gguf", members=inside)[0].warning)


def test_variables_are_called_out() -> None:
    effects = explain("-m $WHERE/x.gguf -c 512 ... --port 1", "0.10.5")
    assert effects[-1].arguments == ()
    assert "$WHERE" in effects[-1].meaning
    assert [e.arguments for e in effects[:-1]] == [("-m", "$WHERE/x.gguf"), ("-c", "512"), ("--port", "1")]


def test_what_stands_behind_ours_counts_and_is_said_to() -> None:
    before, behind = explain("--host 0.0.0.0 ... --port 1", "0.10.5")
    assert "serve passes its own value, which counts" in str(before.warning)
    assert "counts instead of it, so serve does not start this engine" in str(behind.warning)
    ours = explain_arguments(
        parse_arguments("--host 0.0.0.0 ... --port 1", ArgumentSyntax.SHELL), family=Family.EMBEDDED
    )
    assert all("serve passes its own value, which counts" in str(effect.warning) for effect in ours)


def test_flash_attention_with_and_without_a_word() -> None:
    assert [e.arguments for e in explain("-fa\non\n-fa\n-c\n1", "0.10.5")] == [
        ("-fa", "on"),
        ("-fa",),
        ("-c", "1"),
    ]


def test_the_embedded_engine_knows_no_removed_flag() -> None:
    effects = explain_arguments(parse_arguments("--nobrowser", None), family=Family.EMBEDDED)
    assert "refuses" in str(effects[0].warning)
