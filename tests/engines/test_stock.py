"""The stock program of llama.cpp: what it prints is read, and it is told what its help lists and no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafile_mgr.catalog import Pooling, Role
from llamafile_mgr.engines.families import Family, family_rules
from llamafile_mgr.engines.launch_settings import LaunchSettings
from llamafile_mgr.engines.toolbox import InstalledProgram
from llamafile_mgr.machine import Cpu
from tests.support.llama_programs import HELP, VERSION

RULES = family_rules(Family.LLAMA_CPP)
KNOWN = RULES.read_flags(HELP.read_text(encoding="utf-8"))
EMBED = LaunchSettings(
    role=Role.EMBED,
    port=0,
    context=512,
    threads=4,
    slots=4,
    batch=512,
    pooling=Pooling.CLS,
    gpu="disable",
    flash_attention=True,
    model=Path("/m.gguf"),
    alias="-strange name",
    api_key_file=Path("/k"),
    known_flags=KNOWN,
)
#: The forms of a build of spring 2025, by llama.cpp's ``common/arg.cpp`` of that time.
OLD_HELP = """\
----- common params -----

-h,    --help, --usage                  print usage and exit
-t,    --threads N                      number of threads to use during generation (default: -1)
-c,    --ctx-size N                     size of the prompt context (default: 4096, 0 = loaded from model)
-b,    --batch-size N                   logical maximum batch size (default: 2048)
-ub,   --ubatch-size N                  physical maximum batch size (default: 512)
-fa,   --flash-attn                     enable Flash Attention (default: disabled)
                                        (env: LLAMA_ARG_FLASH_ATTN)
-np,   --parallel N                     number of parallel sequences to decode (default: 1)
-ngl,  --gpu-layers, --n-gpu-layers N   number of layers to store in VRAM
-m,    --model FNAME                    model path (default: `models/$filename` with filename from `--hf-file`
                                        --not-a-flag at the start of a line that goes on

----- example-specific params -----

-a,    --alias STRING                   set alias for model name (to be used by REST API)
--host HOST                             ip address to listen, or bind to an UNIX socket if the address ends
--port PORT                             port to listen (default: 8080)
--no-webui                              Disable the Web UI (default: enabled)
--embedding, --embeddings               restrict to only support embedding use case; use only with dedicated
--reranking, --rerank                   enable reranking endpoint on server (default: disabled)
--pooling {none,mean,cls,last,rank}     pooling type for embeddings, use model default if unspecified
--api-key-file FNAME                    path to file containing API keys (default: none)
"""
OLD = RULES.read_flags(OLD_HELP)


def program(flags: frozenset[str]) -> InstalledProgram:
    return InstalledProgram("llama-server", ("/bin/llama-server",), "1", flags)


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        (VERSION, "0.5.0-dev (build 1)"),
        (
            "ggml_vulkan: Found 1 Vulkan devices:\nversion: 6795 (unknown)\n"
            "built with FreeBSD clang version 19.1.7 for x86_64-unknown-freebsd14.3\n",
            "b6795",
        ),
        ("version: 3259 (e57dc620)\nbuilt with cc (Ubuntu 11.4.0) 11.4.0 for x86_64-linux-gnu\n", "b3259"),
        ("llamafile v0.10.5\n", None),
        ("version: 1.2 (stable)\n", None),
        ("llama 3.1\n", None),
        ("", None),
    ],
)
def test_versions(printed: str, version: str | None) -> None:
    assert RULES.read_version(printed) == version


def test_the_recorded_help_is_read() -> None:
    assert {"-fa", "--flash-attn", "-fa *", "-fa on", "-fa off", "-fa auto"} <= KNOWN
    assert {f"--pooling {pooling.value}" for pooling in Pooling} <= KNOWN
    assert {"-kvo", "--no-kv-offload", "-lm", "--load-mode", "--fit", "--fit on"} <= KNOWN
    assert {"--cache-type-k q8_0", "-ctv f16"} <= KNOWN
    assert not {"--no-mmap", "--mlock", "-kvo *", "--embedding *", "--server", "--gpu"} & KNOWN
    assert all(word.startswith("-") for word in KNOWN)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("gpu", ["disable", "nvidia", None])
@pytest.mark.parametrize("flash", [True, False, None])
@pytest.mark.parametrize("known", [KNOWN, OLD], ids=["recorded", "old"])
def test_every_flag_is_in_the_help(
    role: Role, gpu: str | None, flash: bool | None, known: frozenset[str]
) -> None:
    pooling = {Role.EMBED: Pooling.CLS, Role.RERANK: Pooling.RANK, Role.GENERATE: None}[role]
    settings = replace(EMBED, role=role, gpu=gpu, pooling=pooling, flash_attention=flash, known_flags=known)
    words = [*RULES.arguments(replace(settings, prompt_cache_mib=64))]
    while words:
        flag = words.pop(0)
        assert flag in known
        value = words.pop(0) if f"{flag} *" in known else None
        named = {word for word in known if word.startswith(f"{flag} ")} - {f"{flag} *"}
        assert not named or f"{flag} {value}" in named
    assert RULES.find_lack(program(known), role, pooling) is None


def test_what_the_current_build_is_told() -> None:
    assert RULES.arguments(EMBED) == (
        *("--host", "127.0.0.1", "--port", "0", "-m", "/m.gguf", "-c", "2048", "-np", "4", "-t", "4"),
        *("-b", "512", "-ub", "512", "--embedding", "--pooling", "cls", "-fa", "on", "--device", "none"),
        *("--alias", "-strange name", "--api-key-file", "/k", "--no-webui"),
    )


def test_what_an_older_build_is_told() -> None:
    words = RULES.arguments(replace(EMBED, known_flags=OLD, prompt_cache_mib=64))
    assert words[words.index("-fa") + 1] == "-ngl"  # a switch there
    assert words[words.index("-ngl") + 1] == "0"
    assert "--cache-ram" not in words
    assert "-fa" not in RULES.arguments(replace(EMBED, known_flags=OLD, flash_attention=False))


def test_layers_are_left_to_a_build_that_fits_them() -> None:
    gpu = replace(EMBED, gpu="nvidia")
    assert not {"-ngl", "--device", "--gpu"} & set(RULES.arguments(gpu))
    old = RULES.arguments(replace(gpu, known_flags=OLD))
    assert old[old.index("-ngl") + 1] == "999"
    few = RULES.arguments(replace(gpu, gpu_layers=16))
    assert few[few.index("-ngl") + 1] == "16"


@pytest.mark.parametrize(
    ("gone", "role", "pooling", "lack"),
    [
        ({"--pooling rank"}, Role.RERANK, Pooling.RANK, "--pooling rank"),
        ({"--pooling", "--pooling cls"}, Role.EMBED, Pooling.CLS, "--pooling cls"),
        ({"--embedding", "--embeddings"}, Role.EMBED, Pooling.CLS, "--embedding"),
        ({"--embedding"}, Role.EMBED, Pooling.CLS, None),
        ({"--api-key-file"}, Role.GENERATE, None, "--api-key-file"),
        ({"--pooling", "--rerank"}, Role.GENERATE, None, None),
    ],
)
def test_a_build_that_lacks_what_a_role_needs(
    gone: set[str], role: Role, pooling: Pooling | None, lack: str | None
) -> None:
    why = RULES.find_lack(program(KNOWN - gone), role, pooling)
    assert why == (f"its build has no {lack}" if lack else None)


def test_devices() -> None:
    """Lines as ollama's and llama.cpp's users report them (ollama issue 16508, llama.cpp issue 16659)."""
    printed = (
        "ggml_cuda_init: found 2 CUDA devices (Total VRAM: 35936 MiB):\n"
        "  Device 0: NVIDIA GeForce RTX 3080 Ti, compute capability 8.6, VMM: yes, VRAM: 11909 MiB\n"
        "Available devices:\n"
        "  CUDA0: NVIDIA GeForce RTX 3080 Ti (11909 MiB, 11650 MiB free)\n"
        "  CUDA1: NVIDIA RTX PRO 4000 Blackwell SFF Edition (24026 MiB, 23795 MiB free)\n"
        "  Vulkan0: NVIDIA GeForce RTX 2060 (6144 MiB, 5136 MiB free)\n"
    )
    devices = RULES.read_devices(printed)
    assert devices[0] == "CUDA0: NVIDIA GeForce RTX 3080 Ti (11909 MiB, 11650 MiB free)"
    assert len(devices) == 3
    found = replace(program(KNOWN), devices=devices)
    assert found.gpu_modules == ("ggml-cuda", "ggml-vulkan")
    assert RULES.read_devices("Available devices:\n  (none)\n") == ()


@given(st.text(max_size=400))
def test_any_text_is_read(text: str) -> None:
    RULES.read_version(text)
    RULES.read_devices(text)
    assert all(word.startswith("-") for word in RULES.read_flags(text))


def test_on_a_gpu_its_log_tells_where_layers_lie_and_no_text_of_callers() -> None:
    on_gpu = replace(EMBED, gpu="nvidia")
    words = RULES.arguments(on_gpu)
    assert words[words.index("-lv") + 1] == "4"
    assert "-lv" not in RULES.arguments(EMBED)
    # Builds without the level may mean debugging by its number, which prints what callers send.
    lines = HELP.read_text(encoding="utf-8").replace("- 4: trace (more info)", "- 4: debug")
    assert "-lv" not in RULES.arguments(replace(on_gpu, known_flags=RULES.read_flags(lines)))
    assert "-lv" not in RULES.arguments(replace(on_gpu, known_flags=OLD))


def test_with_amx_it_copies_nearly_all_weights() -> None:
    plain, amx = Cpu(features=("avx2",)), Cpu(features=("avx2", "amx_int8"))
    assert "F16" not in RULES.repacked_types(plain)
    assert {"F16", "Q8_0"} <= RULES.repacked_types(amx)
    assert family_rules(Family.EMBEDDED).repacked_types(amx) == RULES.repacked_types(plain)
    assert "Q8_0" in RULES.repacked_types(Cpu(features=("neon",)))
