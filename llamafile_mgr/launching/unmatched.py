"""Tables of settings that no model has: a mistyped name would have them ignored without a word."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from llamafile_mgr.catalog import Role, load_catalog
from llamafile_mgr.config import Config
from llamafile_mgr.paths import Paths
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.store import Store


def unmatched_settings(config: Config, plans: Sequence[Plan], paths: Paths) -> tuple[str, ...]:
    """Return what to tell of each ``[models."NAME"]`` that none of these plans is made with.

    A model that the catalog or the store has may be run another time, and nothing is said of it unless one of
    its variants runs now. Blocks on the store.
    """
    planned = {plan.name for plan in plans}
    unused = [name for name in config.models if name not in planned]
    if not unused:
        return ()
    known = {*load_catalog().models, *(entry.name for entry in Store(paths.store).entries())}
    # A model that is named by its file has the file's name.
    known |= {Path(name).stem for role in Role for name in getattr(config.serve, role.value)}
    told: list[str] = []
    for name in unused:
        variant = next((each for each in planned if _base(each) == _base(name)), None)
        if variant is not None and variant not in config.models:
            told.append(
                f'[models."{name}"] does not count for {variant}: name the table as the model is named'
            )
        elif name not in known:
            near = difflib.get_close_matches(name, sorted(planned | known), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            told.append(f'[models."{name}"] matches no model that is known here{hint}')
    return tuple(told)


def _base(name: str) -> str:
    """Return the model of a variant's name, such as ``all-minilm-l6-v2:pypi-q8_0``."""
    return name.partition(":")[0]
