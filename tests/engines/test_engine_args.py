"""``engine_args``: what families let pass, in which forms, and why the rest does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.catalog import Role
from llamafile_mgr.engines.embedded import FLAGS, parse_options
from llamafile_mgr.engines.engine_args import (
    ExtraFlag,
    drop_flags,
    parse_flag_table,
    read_engine_args,
    take_flags,
)
from llamafile_mgr.engines.families import Family, family_rules
from llamafile_mgr.engines.launch_settings import LaunchSettings
from llamafile_mgr.errors import PlanError

TABLE = parse_flag_table("-k --top-k int\n--temp float\n--grammar text\n-nkvo --no-kv-offload\n--kv text !")
#: What must never be passed on, whatever a family's table says.
_FORBIDDEN = """
    --host --port -l --listen --api-key --api-key-file --ssl-key-file --ssl-cert-file --log-file
    --log-disable --log-prompts-dir -m --model -mu -hf -hfr --hf-repo --hf-file --docker-repo
    --mmproj -mm --mmproj-url --lora --lora-scaled --lora-base -md --model-draft --spec-draft-model
    --spec-draft-hf -hfd --chat-template --chat-template-file --grammar-file --json-schema-file -jf
    --control-vector --control-vector-scaled --slot-save-path --media-path --path -lcs
    --lookup-cache-static --lookup-cache-dynamic -lcd --models-dir --models-preset -spf
    --system-prompt-file -f --file --rpc --tools --mcp-servers-config --mcp-servers-json --agent -ag
    --props --unsecure --trust --video-ffmpeg-dir --ui-config-file --embedding --pooling
    --embd-normalize --server -v -lv --verbose --version --help -h --reuse-port --api-prefix
    --url-prefix --fim-qwen-3b-default --gpt-oss-20b-default --hf-token --db --www-root
"""
FORBIDDEN = _FORBIDDEN.split()


@pytest.mark.parametrize(
    ("words", "passed"),
    [
        (["--top-k", "20"], ["--top-k", "20"]),
        (["--top-k=20"], ["--top-k", "20"]),
        (["-k=-1"], ["-k", "-1"]),
        (["-k", "-1", "--temp", "0.5"], ["-k", "-1", "--temp", "0.5"]),
        (["--no-kv-offload"], ["--no-kv-offload"]),
        (["--grammar=root ::= a=b"], ["--grammar", "root ::= a=b"]),
        ([], []),
    ],
)
def test_both_forms_are_read(words: list[str], passed: list[str]) -> None:
    assert [word for each in read_engine_args(words, TABLE) for word in each.words] == passed


@pytest.mark.parametrize(
    ("words", "message", "cause"),
    [
        (["--host", "0.0.0.0"], "--host is not passed on", "address"),
        (["--host=0.0.0.0"], "--host is not passed on", "address"),
        (["--api-key", "x"], "--api-key is not passed on", "key"),
        (["--ssl-key-file=x"], "is not passed on", "TLS"),
        (["--log-file", "x"], "is not passed on", "log"),
        (["-c", "1"], "-c is not passed on", "use the key context"),
        (["--top-q", "1"], "--top-q is not passed on", "no flag of the list"),
        (["20"], "'20' is no flag", "text of its own"),
        (["--top-k 20"], "--top-k 20 is not passed on", "list"),
        ([""], "'' is no flag", "text"),
        (["--top-k"], "--top-k lacks its value", None),
        (["--top-k", "many"], "must be a whole number", None),
        (["--temp=nan"], "must be a number", None),
        (["--temp", "inf"], "must be a number", None),
        (["--grammar", "a\0b"], "must be a text", None),
        (["--grammar", "--server"], "must be a text that does not begin like a flag", None),
        (["--grammar=--host"], "must be a text that does not begin like a flag", None),
        (["-nkvo=1"], "takes no value", None),
        (["--top-k", "1", "-k", "2"], "-k is there twice", None),
        (["--no-kv-offload", "-nkvo"], "-nkvo is there twice", None),
    ],
)
def test_the_rest_is_refused_with_its_reason(words: list[str], message: str, cause: str | None) -> None:
    with pytest.raises(PlanError, match=message) as caught:
        read_engine_args(words, TABLE)
    assert cause is None or cause in str(caught.value.cause)


def test_a_mistyped_flag_is_told_its_neighbour() -> None:
    with pytest.raises(PlanError) as caught:
        read_engine_args(["--top-kk", "1"], TABLE)
    assert caught.value.hint == "did you mean --top-k?"


@given(st.lists(st.text(max_size=12) | st.sampled_from([*TABLE, *FORBIDDEN]), max_size=5))
def test_any_words_are_read_or_refused(words: list[str]) -> None:
    try:
        found = read_engine_args(words, TABLE)
    except PlanError:
        return
    assert all(each.words[0] in TABLE for each in found)


@pytest.mark.parametrize("family", Family)
def test_no_family_lets_pass_what_leaves_the_model(family: Family) -> None:
    allowed = family_rules(family).extra_flags
    assert set(FORBIDDEN).isdisjoint(allowed)
    assert not [name for name in allowed if "file" in name or "path" in name or "url" in name]


def test_the_embedded_engine_reads_all_that_its_family_lets_pass() -> None:
    values = {"int": "1", "float": "0.5", "text": None}
    #: Words for the flags that take certain ones.
    texts = {
        **dict.fromkeys(("-fa", "--flash-attn", "--reasoning", "-rea"), "on"),
        **dict.fromkeys(("-ngl", "--gpu-layers", "--n-gpu-layers"), "all"),
        "--spec-type": "ngram-simple",
        "--chat-template-kwargs": '{"a": 1}',
    }
    allowed: dict[str, ExtraFlag] = dict(family_rules(Family.EMBEDDED).extra_flags)
    assert len(allowed) > 60
    for name, flag in allowed.items():
        assert (FLAGS[name].read is None) == (flag.value is None), name
        value = () if flag.value is None else (values[flag.value] or texts.get(name, "x"),)
        parse_options([name, *value])


def test_flags_and_their_values_are_dropped_and_taken() -> None:
    own = ("--server", "-c", "512", "-fa", "off", "--cache-ram", "8", "--no-webui")
    names = {"-fa", "--cache-ram", "-cram"}
    assert drop_flags(own, names) == ("--server", "-c", "512", "--no-webui")
    assert take_flags(own, names) == ("-fa", "off", "--cache-ram", "8")


def test_what_is_asked_for_stands_in_the_place_of_the_same_flag_of_ours() -> None:
    rules = family_rules(Family.V10)
    settings = LaunchSettings(Role.GENERATE, 0, 512, 2, prompt_cache_mib=64, asked=("-cram", "0", "-cb"))
    flags = rules.command_flags(settings)
    assert flags[-3:] == settings.asked
    assert "--cache-ram" not in flags
    assert "64" not in flags
    assert rules.replaced_flags(settings) == ("--cache-ram", "64")
