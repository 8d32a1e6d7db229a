"""Which file type of a model is the fastest with the engine that would run it. Pure.

Types of one model are of one source, so that only their rounding differs; their vectors are near each other
and not equal, so no file takes the place of another unless somebody chooses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llamafile_mgr.catalog import Artifact, Model
from llamafile_mgr.engines.families import Family, family_rules
from llamafile_mgr.machine import Cpu
from llamafile_mgr.planner.plans import Reason
from llamafile_mgr.planner.tuning import MeasuredType

#: What is less is not worth other vectors.
_LEAST_GAIN = 1.1


@dataclass(frozen=True, slots=True)
class FasterFile:
    """A file of the same model that an engine computes ``gain`` times as fast."""

    artifact: Artifact
    gain: float


def file_types(model: Model) -> tuple[Artifact, ...]:
    """Return the files of ``model`` that differ in their type alone; the recommended one is among them."""
    first = model.artifacts[0]
    return tuple(each for each in model.artifacts if (each.source, each.kind) == (first.source, first.kind))


def fastest_file(model: Model, quantisation: str | None, family: Family, cpu: Cpu) -> FasterFile | None:
    """Return the file that this engine computes the fastest on this processor, None where none is known to be
    faster than one of type ``quantisation``."""
    rules = family_rules(family)
    own = None if quantisation is None else rules.type_speed(quantisation, cpu)
    if own is None:
        return None
    speeds = [(rules.type_speed(each.quantisation or "", cpu) or 0.0, each) for each in file_types(model)]
    best, artifact = max(speeds, key=lambda pair: pair[0])
    gain = best / own
    return FasterFile(artifact, gain) if gain >= _LEAST_GAIN else None


def explain_file_type(
    model: Model | None,
    quantisation: str | None,
    family: Family,
    cpu: Cpu,
    measured: Sequence[MeasuredType] = (),
) -> Reason | None:
    """Return what is known of the speed of weights of this type on the processor, None where nothing is.

    ``measured``: what tune found here, which counts before what was found elsewhere.
    """
    if measured and quantisation is not None:
        return _explain_measured(model, quantisation, measured)
    rules = family_rules(family)
    speed = None if quantisation is None else rules.type_speed(quantisation, cpu)
    if quantisation is None or speed is None:
        return None
    types: Sequence[Artifact] = file_types(model) if model is not None else ()
    why = f"the {family.value} engine computes it at {speed:.0%} of the speed of the fastest type here"
    if speed >= 1.0:
        why = f"the fastest type of the {family.value} engine on this processor"
    faster = fastest_file(model, quantisation, family, cpu) if model is not None and types else None
    if model is not None and faster is not None:
        why += f"; about {faster.gain:.1f} times as fast is {faster.artifact.quantisation}"
        why += _how_to_get(model, faster.artifact)
    return Reason("file type", quantisation, why)


def _explain_measured(model: Model | None, quantisation: str, measured: Sequence[MeasuredType]) -> Reason:
    best = max(measured, key=lambda each: each.gain)
    why = "measured on this machine by tune: "
    if best.gain < _LEAST_GAIN:
        return Reason("file type", quantisation, why + "no other type that was tried is faster")
    why += (
        f"{best.quantisation} is {best.gain:.2f} times as fast, with cosines of {best.least_cosine:.4f} and "
    )
    why += "more to known vectors"
    types = file_types(model) if model is not None else ()
    artifact = next((each for each in types if each.quantisation == best.quantisation), None)
    if model is not None and artifact is not None:
        why += _how_to_get(model, artifact)
    return Reason("file type", quantisation, why)


def _how_to_get(model: Model, artifact: Artifact) -> str:
    name = f"{model.id}:{artifact.name}"
    return f": llamafile-mgr pull {name}, then serve {name} (other vectors: index again)"
