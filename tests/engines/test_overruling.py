"""What a llamafile's own arguments may not undo: address, key, and who reaches what."""

from __future__ import annotations

import pytest

from llamafile_mgr.engines.arguments import ArgumentSyntax, parse_arguments
from llamafile_mgr.engines.families import Family, family_rules

LINES, SHELL = ArgumentSyntax.LINES, ArgumentSyntax.SHELL
LLAMAFILES = (Family.V1, Family.V2, Family.V10)


def refuse(family: Family, raw: str, syntax: ArgumentSyntax | None = SHELL) -> str | None:
    return family_rules(family).refuse_embedded(parse_arguments(raw, syntax))


@pytest.mark.parametrize("family", LLAMAFILES)
@pytest.mark.parametrize(
    "raw",
    [
        "-m x.gguf --host 0.0.0.0 ...",
        "-m\nx.gguf\n--host\n0.0.0.0\n-ngl\n9999\n-c\n0\n...\n",
        "-m x.gguf -l 0.0.0.0:8080",
        "-m x.gguf --temp 0.5 # --rpc is not asked for\n...",
    ],
)
def test_what_stands_before_ours_is_replaced_by_ours(family: Family, raw: str) -> None:
    assert refuse(family, raw) is None


@pytest.mark.parametrize("family", LLAMAFILES)
@pytest.mark.parametrize(
    "behind",
    ["--host 0.0.0.0", "-l 0.0.0.0:1", "--port 9", "-m /y.gguf", "-c 8", "-np 8", "-ngl 9", "$X", "word"],
)
@pytest.mark.parametrize("syntax", [SHELL, None])
def test_what_stands_behind_ours_and_would_win_is_refused(
    family: Family, behind: str, syntax: ArgumentSyntax | None
) -> None:
    refusal = refuse(family, f"-m x.gguf ... {behind}", syntax)
    assert refusal == f"its embedded arguments put {behind} behind ours, where they overrule them"


def test_sampling_may_stand_behind_ours() -> None:
    assert refuse(Family.V10, "-m x.gguf ... --temp 0.5 --top-k 20") is None


def test_the_embedded_engine_puts_ours_last_by_itself() -> None:
    assert refuse(Family.EMBEDDED, "-m x.gguf ... --host 0.0.0.0 --port 9") is None


@pytest.mark.parametrize("family", [*LLAMAFILES, Family.EMBEDDED])
@pytest.mark.parametrize(
    ("raw", "word"),
    [
        ("-m x.gguf --api-key sesame ...", "--api-key lets callers in"),
        ("-m x.gguf --api_key sesame ...", "--api-key lets callers in"),
        ("-m x.gguf --api-key=sesame ...", "--api-key lets callers in"),
        ("-m x.gguf ${NONE}--api-${NONE}key sesame ...", "--api-key lets callers in"),
        ("-m x.gguf --api-key-file /zip/keys ...", "--api-key-file lets callers in"),
        ("... --api-key sesame", "--api-key lets callers in"),
        ("-m\nx.gguf\n--path\n/\n...\n", "--path hands out files"),
        ("-m x.gguf --www-root / ...", "--www-root hands out files"),
        ("-m x.gguf --url-prefix /x ...", "--url-prefix moves the routes"),
        ("-m x.gguf --ssl-key-file k --ssl-cert-file c ...", "--ssl-key-file moves"),
        ("-m x.gguf --rpc 10.0.0.1:50052 ...", "--rpc sends texts to other machines"),
        ("-m x.gguf --tools all ...", "--tools lets the model act"),
        ("-m x.gguf --reuse-port ...", "--reuse-port lets other programs"),
    ],
)
def test_what_adds_to_ours_is_refused_wherever_it_stands(family: Family, raw: str, word: str) -> None:
    assert word in str(refuse(family, raw, None))
