"""``show``: what is in a file, or what the catalog knows about a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llamafile_mgr.cli.context import Context
from llamafile_mgr.cli.model_names import complete_models
from llamafile_mgr.cli.output import (
    format_bytes,
    format_table,
    print_json,
    print_line,
    print_rows,
    printable,
)

if TYPE_CHECKING:
    from llamafile_mgr.catalog import Artifact, Model
    from llamafile_mgr.llamafile import ArgumentEffect, EncoderfileFacts, FileFacts, Weights

Rows = list[tuple[str, str]]


@click.command("show")
@click.argument("what", metavar="FILE|MODEL", shell_complete=complete_models)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(context: Context, what: str, as_json: bool) -> None:
    """Say what is in a llamafile, runtime, GGUF or encoderfile without running it, or what the catalog knows.

    \b
    Examples:
      llamafile-mgr show ./mxbai-embed-large-v1-f16.llamafile
      llamafile-mgr show model.gguf --json
      llamafile-mgr show mxbai-embed-large-v1
    """
    path = Path(what)
    if path.exists() or "/" in what or what.lower().endswith((".llamafile", ".gguf", ".encoderfile")):
        _show_file(path, as_json)
    else:
        _show_entry(context, what, as_json)


def _show_file(path: Path, as_json: bool) -> None:
    from llamafile_mgr.launching.local_plans import role_of_file
    from llamafile_mgr.llamafile import explain_arguments, inspect_file, read_encoderfile
    from llamafile_mgr.planner.selection import judge_own_engine

    encoderfile = read_encoderfile(path)
    if encoderfile is not None:
        _show_encoderfile(encoderfile, as_json)
        return
    facts = inspect_file(path)
    effects: tuple[ArgumentEffect, ...] = ()
    if facts.arguments is not None:
        effects = explain_arguments(
            facts.arguments,
            family=facts.family,
            version=facts.engine_version,
            members=frozenset(w.member for w in facts.weights if w.member is not None),
        )
    bad = judge_own_engine(facts, role_of_file(facts))
    if as_json:
        print_json({**_file_as_json(facts, effects), "known_bad": bad})
        return
    print_rows(_file_rows(facts))
    if bad is not None:
        print_line(f"  ! {_warn(bad)}")
    for weights in facts.weights:
        print_line()
        print_rows(_weights_rows(weights))
    if facts.arguments is not None:
        print_line()
        print_line("Embedded arguments")
        _print_effects(effects)


def _show_encoderfile(facts: EncoderfileFacts, as_json: bool) -> None:
    if as_json:
        print_json({**asdict(facts), "kind": "encoderfile", "vectors": facts.vectors, "use": facts.use})
        return
    rows = [
        ("File", str(facts.path)),
        ("Kind", f"encoderfile (format {facts.format}), which is not run by llamafile-mgr"),
        ("Size", f"{format_bytes(facts.size)} ({facts.size} bytes)"),
        ("Name", _or_dash(facts.name or None)),
        ("Version", _or_dash(facts.version or None)),
        ("Model", f"{facts.model_type}: {facts.vectors}"),
        ("Program", format_bytes(facts.program_size)),
    ]
    rows += [
        (part.kind.capitalize(), f"{format_bytes(part.size)}, SHA-256 {part.sha256}")
        for part in facts.artifacts
    ]
    print_rows(rows)
    print_line(f"To use it, {printable(facts.use)}")


def _show_entry(context: Context, name: str, as_json: bool) -> None:
    from llamafile_mgr.catalog import load_catalog
    from llamafile_mgr.errors import NotFoundError
    from llamafile_mgr.planner.prospects import catalog_facts
    from llamafile_mgr.planner.selection import judge_own_engine

    try:
        model, artifact = load_catalog().find(name)
    except NotFoundError as error:
        raise NotFoundError(
            f"there is no file {name}, and no model or runtime of this name", hint=error.hint
        ) from error
    if as_json:
        print_json(artifact if model is None else model)
        return
    if model is None:
        print_rows([("Runtime", artifact.name), *_artifact_rows(artifact)])
        return
    print_rows(_model_rows(model))
    told = context.load_config().models.get(name)
    if told is not None:
        print_line()
        print_line(f'Settings of [models."{name}"] (`llamafile-mgr plan {name}` says what follows)')
        print_rows([(key, _setting(value)) for key, value in asdict(told).items() if value not in (None, ())])
    print_line()
    print_line("Files (the first is the recommended one)")
    header = ("NAME", "KIND", "SIZE", "QUANTISATION", "ENGINE", "SOURCE")
    print_line(format_table(header, [_artifact_cells(entry) for entry in model.artifacts]))
    for entry in model.artifacts:
        facts = catalog_facts(model, entry)
        bad = judge_own_engine(facts, model.role) if facts is not None else None
        if bad is not None:
            print_line()
            print_line(format_table((f"! {entry.name}", _warn(bad)), ()))


def _warn(bad: str) -> str:
    return f"{bad}: plan and serve run its weights on another engine, where one is installed"


def _setting(value: object) -> str:
    """Return a setting as the settings file has it, more or less."""
    if isinstance(value, dict):
        return ", ".join(f"{key} = {_setting(each)}" for key, each in value.items() if each is not None)
    if isinstance(value, tuple):
        return "; ".join(map(_setting, value))
    return str(value)


def _print_effects(effects: Iterable[ArgumentEffect]) -> None:
    for effect in effects:
        words = " ".join(effect.arguments) or "$"
        print_line(f"  {printable(words)}: {printable(effect.meaning)}")
        if effect.warning:
            print_line(f"      ! {printable(effect.warning)}")


def _or_dash(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def _file_rows(facts: FileFacts) -> Rows:
    rows = [
        ("File", str(facts.path)),
        ("Kind", facts.kind.value),
        ("Size", f"{format_bytes(facts.size)} ({facts.size} bytes)"),
    ]
    if facts.head_size:
        rows += [
            ("Engine", _or_dash(facts.engine_version)),
            ("Family", _or_dash(facts.family.value if facts.family else None)),
            ("GPU libraries", ", ".join(facts.gpu_modules) or "-"),
            ("Other members", f"{facts.other_members} ({format_bytes(facts.other_bytes)})"),
        ]
    return rows


def _weights_rows(weights: Weights) -> Rows:
    gguf = weights.gguf
    rows = [("Weights", weights.member)] if weights.member is not None else []
    rows += [
        ("Name", _or_dash(gguf.name)),
        ("Architecture", _or_dash(gguf.architecture)),
        ("Parameters", _count(gguf.parameters)),
        ("Quantisation", _or_dash(gguf.quantisation)),
        ("Tensors", f"{gguf.tensor_count} ({format_bytes(gguf.tensor_bytes)})"),
        ("Context", _or_dash(gguf.context_length)),
        ("Dimensions", _or_dash(gguf.embedding_length)),
        ("Layers", _or_dash(gguf.block_count)),
        ("Heads", f"{_or_dash(gguf.head_count)} (key/value: {_or_dash(gguf.head_count_kv)})"),
        ("Vocabulary", f"{_or_dash(gguf.vocab_size)} ({_or_dash(gguf.tokenizer_model)})"),
        ("Adds BOS / EOS", f"{_or_dash(gguf.add_bos)} / {_or_dash(gguf.add_eos)}"),
        ("Pooling", _or_dash(gguf.pooling)),
        ("Causal", _or_dash(gguf.causal)),
        ("Chat template", _or_dash(gguf.has_chat_template)),
    ]
    if gguf.expert_count:
        rows.append(("Experts", f"{gguf.expert_count} (used: {_or_dash(gguf.expert_used_count)})"))
    if gguf.split is not None:
        rows.append(("Part", f"{gguf.split[0] + 1} of {gguf.split[1]}"))
    if gguf.is_projector:
        rows.append(("Role", "projector of a multimodal model (the key mmproj)"))
    if gguf.is_adapter:
        rows.append(("Role", f"adapter for a model of the architecture {gguf.architecture} (the key lora)"))
    return rows


def _count(value: int) -> str:
    for limit, unit in ((10**9, "B"), (10**6, "M")):
        if value >= limit:
            return f"{value / limit:.3g} {unit} ({value})"
    return str(value)


def _model_rows(model: Model) -> Rows:
    return [
        ("Model", model.id),
        ("Title", model.title),
        ("Summary", model.summary),
        ("Role", model.role.value),
        ("Licence", model.licence + ("" if model.commercial else " (not for commercial use)")),
        ("Homepage", model.homepage),
        ("Architecture", _or_dash(model.architecture)),
        ("Dimensions", _or_dash(model.dimensions)),
        ("Longest text", f"{_or_dash(model.max_tokens)} tokens"),
        ("Pooling", _or_dash(model.pooling.value if model.pooling else None)),
        ("Query prompt", _or_dash(model.query_prompt)),
        ("Document prompt", _or_dash(model.document_prompt)),
    ]


def _artifact_rows(artifact: Artifact) -> Rows:
    return [
        ("Engine", _or_dash(artifact.engine_version)),
        ("Size", format_bytes(artifact.size or artifact.approximate_size)),
        ("SHA-256", _or_dash(artifact.sha256)),
        ("Source", artifact.source),
    ]


def _artifact_cells(artifact: Artifact) -> tuple[str, ...]:
    return (
        artifact.name,
        artifact.kind.value,
        format_bytes(artifact.size or artifact.approximate_size),
        _or_dash(artifact.quantisation),
        _or_dash(artifact.engine_version),
        artifact.source,
    )


def _file_as_json(facts: FileFacts, effects: Iterable[ArgumentEffect]) -> dict[str, Any]:
    value = asdict(facts)
    if facts.arguments is not None:
        value["arguments"]["effects"] = list(effects)
    return value
