"""Which keys of a body may reach an engine, per route, and which values may not.

Engines read private switches from the same JSON (a negative ``n_discard`` wrote out of bounds in one), and
fetch images from any address. What is not listed here never leaves the proxy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamafile_mgr.errors import RequestError

_SAMPLING = """
    temperature top_k top_p min_p typical_p typ_p tfs_z top_n_sigma xtc_probability xtc_threshold
    dynatemp_range dynatemp_exponent seed stop stream stream_options n_probs min_keep repeat_penalty
    repeat_last_n penalize_nl presence_penalty frequency_penalty mirostat mirostat_tau mirostat_eta
    dry_multiplier dry_base dry_allowed_length dry_penalty_last_n dry_sequence_breakers logit_bias grammar
    json_schema ignore_eos cache_prompt samplers n_predict max_tokens max_completion_tokens n_keep
    t_max_predict_ms logprobs top_logprobs n sse_ping_interval timings_per_token return_progress
    return_tokens response_fields model user
"""
_CHAT = """
    messages tools tool_choice parallel_tool_calls parse_tool_calls response_format reasoning_effort
    reasoning_format chat_template_kwargs add_generation_prompt
"""
_COMPLETION = """
    prompt echo suffix best_of input_prefix input_suffix
"""
_RESPONSES = """
    input instructions max_output_tokens metadata previous_response_id reasoning store text truncation
    include
"""

_KEYS: Mapping[str, frozenset[str]] = {
    "/completion": frozenset((_SAMPLING + _COMPLETION).split()),
    "/v1/completions": frozenset((_SAMPLING + _COMPLETION).split()),
    "/v1/chat/completions": frozenset((_SAMPLING + _CHAT).split()),
    "/v1/responses": frozenset((_SAMPLING + _CHAT + _RESPONSES).split()),
}
_NOT_NEGATIVE = ("top_k", "n_probs", "min_keep", "top_logprobs")


def allowed_body(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of ``body`` an engine may read on ``path``.

    Raises:
        RequestError: a number below what engines survive, or an image that the engine would have to fetch.
    """
    kept = {key: value for key, value in body.items() if key in _KEYS[path] and value is not None}
    for key in _NOT_NEGATIVE:
        value = kept.get(key)
        if isinstance(value, (int, float)) and value < 0:
            raise RequestError(f"{key!r} must not be negative")
    for key in ("messages", "input"):
        _refuse_remote(kept.get(key))
    return kept


def _refuse_remote(value: object) -> None:
    """Refuse pictures and sounds by address: the engine would fetch them, from wherever it can reach."""
    if isinstance(value, list):
        for each in value:
            _refuse_remote(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key in ("image_url", "video_url", "audio_url"):
                address = each.get("url") if isinstance(each, dict) else each
                if not (isinstance(address, str) and address.startswith("data:")):
                    raise RequestError(f"{key!r} must hold its data itself", hint="use a data: URL")
            elif key == "content":
                _refuse_remote(each)
