"""Room for one more model, without a process: what is unloaded, who waits for whom, and who is refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llamafile_mgr.changes import Changes
from llamafile_mgr.errors import NotReadyError
from llamafile_mgr.planner.memory import MemoryEstimate
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.supervisor.memory_admission import MemoryAdmission
from llamafile_mgr.supervisor.pool import Pool, PoolOptions
from tests.support.lives import fake_plan


@dataclass
class Member:
    over: bool = False


@dataclass(eq=False)
class Model:
    """A pool as the budget sees it: how much it was predicted to take, and takes once it is loaded."""

    name: str
    predicted: int
    grown: int = 0
    pinned: bool = False
    busy: bool = False
    idle_seconds: float = 1.0
    engines: tuple[Member, ...] = ()
    plan: Plan = field(init=False)
    on_unload: Callable[[Model], None] = lambda _: None

    def __post_init__(self) -> None:
        memory = MemoryEstimate(base=self.predicted, weights=0, kv_cache=0, compute=0, output=0)
        self.plan = replace(fake_plan(), name=self.name, memory=memory)
        self.options = PoolOptions(pinned=self.pinned)

    def load(self) -> Model:
        self.engines = (Member(),)
        return self

    async def unload(self) -> None:
        self.on_unload(self)
        self.engines, self.grown = (), 0


class House:
    """Models in the memory of one machine."""

    def __init__(self, memory: int, *models: Model, limit: int | None = None, patience: float = 0.2) -> None:
        self.memory = memory
        self.models = models
        self.unloaded: list[str] = []
        self.looks = 0
        self.changes = Changes()
        self.budget = MemoryAdmission(self.changes, limit, measure=self.measure, patience_seconds=patience)
        for model in models:
            model.on_unload = lambda gone: self.unloaded.append(gone.name)

    def measure(self, pools: Sequence[Any]) -> tuple[list[int], int]:
        self.looks += 1
        return [pool.grown for pool in pools], self.memory - sum(model.grown for model in self.models)

    async def admit(self, newcomer: Model) -> None:
        await self.budget.make_room(cast("Pool", newcomer), cast("Sequence[Pool]", self.models))
        newcomer.load()


def loaded(name: str, size: int, **more: Any) -> Model:
    return Model(name, size, grown=size, **more).load()


@pytest.mark.parametrize(
    ("memory", "models", "limit", "unloaded", "outcome"),
    [
        (30, [loaded("a", 10)], None, [], "starts"),
        (
            15,
            [loaded("a", 10, idle_seconds=5.0), loaded("b", 5, idle_seconds=9.0)],
            None,
            ["b", "a"],
            "starts",
        ),
        (20, [loaded("a", 10, pinned=True, idle_seconds=99.0), loaded("b", 10)], None, ["b"], "starts"),
        # What was promised but not taken yet is not free.
        (20, [Model("a", 15).load()], None, ["a"], "starts"),
        # What took more than was promised counts as it is.
        (20, [Model("a", 1, grown=15).load()], None, ["a"], "starts"),
        (100, [loaded("a", 10), loaded("b", 10, idle_seconds=2.0)], 25, ["b"], "starts"),
        (100, [loaded("a", 10, pinned=True)], 15, [], "does not fit into serve.memory_limit"),
        (15, [loaded("a", 10, pinned=True)], None, [], "starts"),  # predictions err
        (15, [loaded("a", 10, busy=True)], None, [], "the other models are busy"),
        # One that has failed takes nothing.
        (10, [Model("a", 10, engines=(Member(over=True),))], None, [], "starts"),
    ],
)
async def test_a_newcomer_of_ten(
    memory: int, models: list[Model], limit: int | None, unloaded: list[str], outcome: str
) -> None:
    newcomer = Model("new", 10)
    house = House(memory, *(replace(model) for model in models), newcomer, limit=limit)
    try:
        await house.admit(newcomer)
        said = "starts"
    except NotReadyError as error:
        said = error.message
    assert outcome in said
    assert house.unloaded == unloaded


async def test_one_without_a_prediction_just_starts() -> None:
    newcomer = Model("new", 10)
    newcomer.plan = replace(newcomer.plan, memory=None)
    house = House(0, newcomer)
    await house.admit(newcomer)
    assert house.looks == 0


async def test_the_end_of_a_call_is_heard_at_once_and_nothing_is_measured_meanwhile() -> None:
    busy, newcomer = loaded("a", 10, busy=True), Model("new", 10)
    house = House(15, busy, newcomer, patience=30.0)
    waiting = asyncio.create_task(house.admit(newcomer))
    await asyncio.sleep(0.1)
    assert house.looks == 1
    for _ in range(20):
        house.changes.announce()  # calls of others
        await asyncio.sleep(0)
    assert house.looks == 1
    busy.busy = False
    began = time.monotonic()
    house.changes.announce()
    await waiting
    assert time.monotonic() - began < 0.5
    assert house.unloaded == ["a"]


async def test_memory_that_another_program_gives_back_is_seen() -> None:
    busy, newcomer = loaded("a", 10, busy=True), Model("new", 10)
    house = House(15, busy, newcomer, patience=30.0)
    waiting = asyncio.create_task(house.admit(newcomer))
    await asyncio.sleep(0.1)
    house.memory = 20
    await asyncio.wait_for(waiting, 5)
    assert house.unloaded == []


async def test_newcomers_move_in_one_after_the_other() -> None:
    """Two at once would both be promised the same memory."""
    first, second = Model("first", 10), Model("second", 10)
    house = House(15, first, second)
    await asyncio.gather(house.admit(first), house.admit(second))
    assert house.unloaded == ["first"]
    assert [bool(each.engines) for each in (first, second)] == [False, True]


class Houses(RuleBasedStateMachine):
    """Models come, load, are called and grow idle in any order; the memory they were promised is there."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {"pinned": 20, "a": 30, "b": 50, "c": 10, "d": 70}
        self.models = {name: Model(name, size, pinned=name == "pinned") for name, size in sizes.items()}
        self.house = House(100, *self.models.values(), limit=100, patience=0.0)
        for model in self.models.values():
            model.on_unload = self.check_unload

    def check_unload(self, model: Model) -> None:
        assert model.engines
        assert not model.busy
        assert not model.pinned
        idle = [each for each in self.models.values() if each.engines and not (each.busy or each.pinned)]
        assert model.idle_seconds == max(each.idle_seconds for each in idle)

    names = st.sampled_from(["pinned", "a", "b", "c", "d"])

    @rule(name=names)
    def is_called(self, name: str) -> None:
        model = self.models[name]
        if model.engines:
            model.idle_seconds = 0.0
            return
        before = {each.name for each in self.models.values() if each.engines}
        try:
            asyncio.run(self.house.admit(model))
        except NotReadyError:
            stay = [each for each in self.models.values() if each.engines and (each.busy or each.pinned)]
            assert sum(each.predicted for each in stay) + model.predicted > 100
            assert {each.name for each in self.models.values() if each.engines} <= before

    @rule(name=names)
    def loads(self, name: str) -> None:
        model = self.models[name]
        if model.engines:
            model.grown = model.predicted

    @rule(name=names, busy=st.booleans())
    def works_or_rests(self, name: str, busy: bool) -> None:
        model = self.models[name]
        model.busy = busy and bool(model.engines)

    @precondition(lambda self: any(model.engines for model in self.models.values()))
    @rule(seconds=st.floats(0.1, 100))
    def time_passes(self, seconds: float) -> None:
        for model in self.models.values():
            model.idle_seconds = 0.0 if model.busy else model.idle_seconds + seconds

    @invariant()
    def nobody_takes_what_is_not_there(self) -> None:
        assert sum(model.predicted for model in self.models.values() if model.engines) <= 100


TestHouses = Houses.TestCase
