"""Causes in words, from exit codes, signals and the last lines."""

from __future__ import annotations

import signal

import pytest

from llamafile_mgr.supervisor.diagnosis import Diagnosis, diagnose


@pytest.mark.parametrize(
    ("code", "lines", "uptime", "cause", "permanent"),
    [
        (1, ["error: invalid argument: --frob"], 1, "does not know the flag --frob", True),
        (1, ["unknown argument: -ub"], 1, "does not know the flag -ub", True),
        (1, ["error: the cpu feature AVX was required on x86-64"], 0.1, "processors with AVX", True),
        (
            1,
            ["ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory"],
            3,
            "memory",
            False,
        ),
        (1, ["srv start: couldn't bind HTTP server socket, hostname: 127.0.0.1"], 1, "port was taken", False),
        (1, ["srv load_model: failed to load model, 'x.gguf'"], 1, "could not load the model", True),
        (
            1,
            [
                "common_init_result: failed to load lora adapter '/a.gguf'",
                "srv load_model: failed to load model, 'x.gguf'",
            ],
            1,
            "LoRA adapter: it was made for another model",
            True,
        ),
        (
            1,
            ["mismatch between text model (n_embd = 64) and mmproj (n_embd = 128)", "failed to load model"],
            1,
            "it gives 128 numbers a token where the model takes 64",
            True,
        ),
        (-6, ["GGML_ASSERT(llama_add_eos_token(model) != 1) failed"], 1, "llama_add_eos_token", False),
        (1, ["multiple .gguf files found"], 1, "more than one GGUF", True),
        (
            2,
            ["error: the embedded engine needs xllamacpp: pip install 'llamafile-mgr[embedded]'"],
            1,
            "not installed",
            True,
        ),
        (127, [], 0.1, "the shell could not run it", False),
        (126, [], 0.1, "exit code 126", False),
        (0, [], 0.1, "ended with exit code 0 and printed nothing", False),
        (-signal.SIGILL, [], 0.1, "lacks an instruction", True),
        (-signal.SIGKILL, [], 0.1, "first second", False),
        (-signal.SIGKILL, [], 100, "killed from outside", False),
        (-signal.SIGSEGV, [], 100, "SIGSEGV", False),
        (-200, [], 100, "signal 200", False),
        (3, [], 100, "exit code 3", False),
        (None, [], 100, "no sign of life", False),
    ],
)
def test_cause(code: int | None, lines: list[str], uptime: float, cause: str, permanent: bool) -> None:
    found = diagnose(code, lines, uptime)
    assert cause in found.cause
    assert found.permanent is permanent


USAGE = ["usage: server [options]", "", "options:", *("  -x, --xyz   a flag" for _ in range(70))]


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        # llama.cpp's server of May 2024.
        (["error: invalid parameter for argument: -c", *USAGE], "does not take that value for -c"),
        (
            [
                "error: the supplied chat template is not supported: zzz",
                "note: llama.cpp does not use jinja parser, we only support commonly used templates",
                "error: invalid parameter for argument: --chat-template",
                *USAGE,
            ],
            "does not take that value for --chat-template",
        ),
        (
            ["terminate called after throwing an instance of 'std::invalid_argument'", "  what():  stoi"],
            "something else than a number where one belongs, in a flag perhaps",
        ),
        (["error: unknown argument: --foo", *USAGE], "does not know the flag --foo"),
        # llama-server of 2026.
        (['error while handling argument "-c": stoi', "", "usage:"], "that value for -c (stoi)"),
        (
            ['error while handling argument "--pooling": invalid value', "", "usage:"],
            "that value for --pooling (invalid value)",
        ),
        (
            ['error while handling argument "-ctk": Unsupported cache type: zz', "", "usage:"],
            "that value for -ctk (Unsupported cache type: zz)",
        ),
        (["error: invalid argument: --foo"], "does not know the flag --foo"),
        # The embedded engine.
        (
            ["error: invalid value for argument --pooling: 'foo' is not one of none, mean, cls"],
            "does not take that value for --pooling",
        ),
    ],
)
def test_bad_flags_in_the_words_of_each_generation(lines: list[str], cause: str) -> None:
    found = diagnose(1, lines, 0.1)
    assert found.cause.endswith(cause)
    assert found.permanent or "perhaps" in cause  # the last may come later than from its flags


def test_what_stands_in_the_way_is_told_where_the_program_never_ran() -> None:
    obstacle = Diagnosis("/x is on a mount with noexec", permanent=True)
    for code in (0, 126, 127):
        assert diagnose(code, [], 0.1, obstacle=obstacle) is obstacle
    assert diagnose(1, [], 0.1, obstacle=obstacle) is not obstacle


@pytest.mark.parametrize(
    ("code", "external"),
    [
        (-signal.SIGKILL, True),
        (-signal.SIGTERM, True),
        (-signal.SIGSEGV, False),
        (-signal.SIGABRT, False),
        (0, True),
        (1, False),
    ],
)
def test_what_others_did_is_no_fault_of_a_request(code: int, external: bool) -> None:
    assert diagnose(code, [], 100).external is external
    assert not diagnose(code, [], 100, oom_killed=True).external or code != -signal.SIGKILL
