"""A GPU vendor is one object in one file: nothing else names it, and a new one needs nothing else."""

from __future__ import annotations

import ast
import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import llamafile_mgr
from llamafile_mgr.bulk.ray.cluster import hide_gpus
from llamafile_mgr.config import Config
from llamafile_mgr.endpoints.sharing_terms import service_key
from llamafile_mgr.launching.wanted import WantedModels
from llamafile_mgr.machine import Cpu, Gpu, Machine, Memory, System, vendors
from llamafile_mgr.machine.checks import diagnose
from llamafile_mgr.machine.gpu_vendor import DrmCard, GpuBackend, GpuVendor
from llamafile_mgr.machine.launch import LaunchFacts, launch_facts
from llamafile_mgr.machine.linux_gpu import find_gpus
from llamafile_mgr.machine.snapshot import machine_from_dict, machine_to_dict
from llamafile_mgr.paths import resolve_paths
from llamafile_mgr.planner.planning import plan_models
from llamafile_mgr.planner.plans import Plan
from llamafile_mgr.service.definition import Scope, ServiceSpec
from llamafile_mgr.service.finding import find_definition, find_target
from tests.planner import samples

PACKAGE = Path(llamafile_mgr.__file__).parent
GB = 10**9
TABLE = "machine/vendors.py"
#: Words that mean the maker of the whole computer or of its system, not of a GPU.
OTHER_MEANINGS = {
    ("machine/check_system.py", "apple"),  # a Python for Apple silicon, against Rosetta
    ("store/quarantine.py", "apple"),  # the name of a file attribute of macOS
}


def words_of(vendor: GpuVendor) -> frozenset[str]:
    """Return the lower-case words that stand for this vendor in code, with those of its backend."""
    words: list[str | None] = [vendor.name, *vendor.marks]
    backend = vendor.backend
    if backend is not None:
        words += [backend.word, backend.hiding, *backend.also_hiding, *backend.variables]
        words.append((backend.module or "").removeprefix("ggml-"))
    return frozenset(word.lower() for word in words if word)


def words_in(path: Path) -> Iterator[str]:
    """Yield the names and texts of the code of a file in lower case, its comments and docstrings left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    spoken = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in spoken:
            yield node.value.lower()
        elif isinstance(node, ast.Name):
            yield node.id.lower()
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.alias)):
            yield node.name.lower()
        elif isinstance(node, ast.Attribute):
            yield node.attr.lower()


def files_that_name(vendor: GpuVendor) -> set[str]:
    """Return the files of the product whose code names this vendor."""
    pattern = re.compile(
        "|".join(rf"(?<![a-z0-9]){re.escape(word)}(?![a-z0-9])" for word in words_of(vendor))
    )
    return {
        name
        for path in PACKAGE.rglob("*.py")
        if any(
            (name := path.relative_to(PACKAGE).as_posix(), found) not in OTHER_MEANINGS
            for text in words_in(path)
            for found in pattern.findall(text)
        )
    }


@pytest.mark.parametrize("vendor", vendors.VENDORS, ids=lambda vendor: vendor.name)
def test_a_vendor_is_named_in_its_file_and_the_table_alone(vendor: GpuVendor) -> None:
    assert files_that_name(vendor) == {f"machine/{vendor.name}.py", TABLE}


def test_the_variables_of_vulkan_are_named_in_its_file_alone() -> None:
    backend = vendors.backend_of("vulkan")
    assert backend is not None
    assert files_that_name(GpuVendor(backend.hiding or "")) == {"machine/vulkan.py"}


# --- one that nobody knows ------------------------------------------------------------------------

CARD = Gpu("voodoo", "Voodoo 6000", 0, 24 * GB, 23 * GB, backend="glide")
TWIN = dataclasses.replace(CARD, index=1)


def inspect_cards(cards: object, sys_root: Path, dev_root: Path) -> list[DrmCard]:
    """Know one thing more of each card than the kernel tells."""
    assert isinstance(cards, list)
    return [dataclasses.replace(card, name="Voodoo 5500", direct=True) for card in cards]


VOODOO = GpuVendor(
    name="voodoo",
    fix="install the Glide driver",
    pci=(0x121A,),
    marks=("3dfx",),
    container="--device /dev/3dfx",
    backend=GpuBackend(
        "glide",
        module="ggml-glide",
        hiding="GLIDE_VISIBLE_DEVICES",
        also_hiding=("GLIDE_HIDDEN",),
        variables=("GLIDE_RESOLUTION",),
        numbering=(("GLIDE_ORDER", "SLOT"),),
    ),
    integrated=lambda name: "banshee" in name.lower(),
    quick_unified=True,
    probe=lambda: (CARD,),
    inspect_cards=inspect_cards,
    devices=("3dfx[0-9]*",),
    helpers=("3dfx-control",),
    late=("3dfx-late",),
)


@pytest.fixture
def _voodoo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vendors, "VENDORS", (*vendors.VENDORS, VOODOO))


def machine(*gpus: Gpu, container: str | None = None) -> Machine:
    """A computer with these GPUs."""
    return Machine(
        System.LINUX,
        architecture="x86_64",
        cpu=Cpu(physical_cores=8, logical_cpus=16, features=("avx", "avx2")),
        memory=Memory(total=64 * GB, available=48 * GB),
        gpus=gpus,
        container=container,
    )


def plan_on(computer: Machine, environ: dict[str, str]) -> Plan:
    """Plan a model for a runtime whose library knows the new backend."""
    runtime = dataclasses.replace(samples.RUNTIME, gpu_modules=("ggml-glide.so",))
    toolbox = samples.with_runtimes(runtime)
    (plan,) = plan_models((samples.mistral,), computer, toolbox, environ, {})
    return plan


@pytest.mark.usefixtures("_voodoo")
def test_a_new_vendor_is_probed(tmp_path: Path) -> None:
    assert CARD in find_gpus(tmp_path / "sys", tmp_path / "dev")
    assert machine_from_dict(machine_to_dict(machine(CARD))).gpus == (CARD,)


def test_a_new_vendors_cards_are_read_from_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = dataclasses.replace(VOODOO, probe=tuple)
    monkeypatch.setattr(vendors, "VENDORS", (*vendors.VENDORS, quiet))
    device = tmp_path / "sys/class/drm/card0/device"
    (device / "drm/renderD128").mkdir(parents=True)
    (device / "uevent").write_text("DRIVER=tdfx\nPCI_ID=121A:0009\nPCI_SLOT_NAME=0000:03:00.0\n")
    (tmp_path / "dev/dri").mkdir(parents=True)
    (tmp_path / "dev/dri/renderD128").touch()
    (gpu,) = find_gpus(tmp_path / "sys", tmp_path / "dev")
    assert (gpu.vendor, gpu.name, gpu.index, gpu.backend) == ("voodoo", "Voodoo 5500", 0, "glide")


@pytest.mark.usefixtures("_voodoo")
def test_a_new_vendors_gpu_is_used_and_hidden() -> None:
    assert plan_on(machine(CARD), {}).settings.gpu == "glide"
    hidden = plan_on(machine(CARD), {"GLIDE_VISIBLE_DEVICES": ""})
    assert (hidden.settings.gpu, hidden.device) == ("disable", "cpu")
    one_of_two = plan_on(machine(CARD, TWIN), {})
    assert one_of_two.environment["GLIDE_VISIBLE_DEVICES"] in ("0", "1")
    assert one_of_two.environment["GLIDE_ORDER"] == "SLOT"


@pytest.mark.usefixtures("_voodoo")
def test_a_new_vendors_variables_reach_engines_services_and_keys(tmp_path: Path) -> None:
    environ = {"GLIDE_RESOLUTION": "4k", "GLIDE_HIDDEN": "1", "SECRET": "x"}
    told = plan_on(machine(CARD), environ).environment
    assert (told["GLIDE_RESOLUTION"], told["GLIDE_HIDDEN"]) == ("4k", "1")
    assert "SECRET" not in told
    target = find_target(Scope.USER, None, resolve_paths({"LLAMAFILE_MGR_HOME": str(tmp_path)}), environ)
    kept = find_definition(
        ServiceSpec("default", (), (), ("127.0.0.1",), 0, 30.0), target, environ
    ).environment
    assert (kept["GLIDE_RESOLUTION"], kept["GLIDE_HIDDEN"]) == ("4k", "1")
    assert "SECRET" not in kept
    none = WantedModels(())
    assert service_key(none, (), Config(), None, environ) != service_key(none, (), Config(), None, {})


@pytest.mark.usefixtures("_voodoo")
def test_a_new_vendors_gpus_are_hidden_from_the_engines_of_a_process_without_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hidden = (
        "CUDA_VISIBLE_DEVICES",
        "HIP_VISIBLE_DEVICES",
        "GGML_VK_VISIBLE_DEVICES",
        "GLIDE_VISIBLE_DEVICES",
    )
    for name in (*hidden, "GLIDE_HIDDEN"):
        monkeypatch.setenv(name, "0")
    hide_gpus()
    assert [os.environ[name] for name in hidden] == [""] * len(hidden)
    assert os.environ["GLIDE_HIDDEN"] == "0"


@pytest.mark.usefixtures("_voodoo")
def test_a_new_vendor_is_explained(tmp_path: Path) -> None:
    idle = dataclasses.replace(CARD, backend=None)

    def fix(computer: Machine) -> str:
        (found,) = [check for check in diagnose(computer, LaunchFacts()) if check.name == "gpu"]
        return found.fix or ""

    assert fix(machine(idle)) == "install the Glide driver"
    assert "docker run --device /dev/3dfx" in fix(machine(idle, container="docker"))
    facts = launch_facts(
        resolve_paths({"LLAMAFILE_MGR_HOME": str(tmp_path)}),
        port=0,
        environ={"PATH": os.environ["PATH"], "GLIDE_HIDDEN": "1"},
    )
    assert facts.gpu_variables == (("GLIDE_HIDDEN", "1"),)


@pytest.mark.usefixtures("_voodoo")
def test_a_new_vendors_device_files_are_found(tmp_path: Path) -> None:
    assert vendors.engine_files(tmp_path) == ()
    for name in ("3dfx0", "3dfx-control"):
        (tmp_path / name).touch()
    assert vendors.gpu_files(tmp_path) == (tmp_path / "3dfx0",)
    assert [path.name for path in vendors.engine_files(tmp_path)] == ["3dfx0", "3dfx-control", "3dfx-late"]
