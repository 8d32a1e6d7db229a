"""NVIDIA GPUs: through NVML when ``nvidia-ml-py`` is installed, else through ``nvidia-smi``.

``parse_smi`` is pure. The NVML edge was never run on a computer with such a GPU by its author.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from llamafile_mgr.machine.gpu_vendor import GpuBackend, GpuVendor
from llamafile_mgr.machine.hardware import Gpu
from llamafile_mgr.machine.reading import run_tool, whole_number

_FIELDS = ("index", "name", "memory.total", "memory.free", "driver_version")
#: Where the tool lies when PATH does not say: WSL mounts it there, Windows drivers install it there.
_PLACES = ("/usr/lib/wsl/lib/nvidia-smi", "C:\\Windows\\System32\\nvidia-smi.exe")
#: Words in the names of GPUs that have no memory of their own (DGX Spark, Jetson).
_INTEGRATED = ("gb10", "orin", "xavier", "tegra", "thor", "n1x")
_MIB = 1024 * 1024


def find_nvidia() -> tuple[Gpu, ...]:
    """Return the NVIDIA GPUs of this computer, none when neither way tells of any."""
    found = _ask_nvml()
    return found if found is not None else _ask_smi()


def parse_smi(text: str) -> tuple[Gpu, ...]:
    """Read ``nvidia-smi --query-gpu=index,name,memory.total,memory.free,driver_version[,compute_cap]``
    in the form ``--format=csv,noheader,nounits``, sizes in MiB; a line of another form is left out."""
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) not in (len(_FIELDS), len(_FIELDS) + 1) or whole_number(cells[0]) is None:
            continue
        index, name, total, free, driver, capability = (*cells, "")[:6]
        sizes = _mebibytes(total), _mebibytes(free)
        found.append(_gpu(whole_number(index), name, sizes, _known(capability), _known(driver)))
    return tuple(found)


def _gpu(
    index: int | None,
    name: str,
    sizes: tuple[int | None, int | None],
    capability: str | None,
    driver: str | None,
) -> Gpu:
    """Return a GPU; ``sizes``: of its memory, total and free."""
    return Gpu(NVIDIA.name, name, index, *sizes, _shares_memory(name), capability, driver, _CUDA.word)


def _shares_memory(name: str) -> bool:
    lowered = name.lower()
    return any(word in lowered for word in _INTEGRATED)


def _known(cell: str) -> str | None:
    """Return a cell's text, ``None`` for ``[N/A]``, ``[Not Supported]`` and their like."""
    return None if not cell or cell.startswith("[") or cell == "N/A" else cell


def _mebibytes(cell: str) -> int | None:
    known = whole_number(cell)
    return None if known is None else known * _MIB


def _ask_smi() -> tuple[Gpu, ...]:
    tool = _find_tool()
    if tool is None:
        return ()
    # Drivers before 510 do not know compute_cap, and then refuse the whole query.
    for fields in ((*_FIELDS, "compute_cap"), _FIELDS):
        argv = [tool, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
        text = run_tool(argv, timeout_seconds=5.0)
        if text is not None:
            return parse_smi(text)
    return ()


def _find_tool() -> str | None:
    return shutil.which("nvidia-smi") or next((place for place in _PLACES if Path(place).is_file()), None)


def find_process_memory(pids: Collection[int]) -> int | None:
    """Return the GPU memory of these processes, None where nothing tells.

    The driver numbers processes as the host does, so that those of a container do not find themselves: none
    listed is none only where the numbers are the same. nvidia-smi leaves out what computes by Vulkan.
    """
    listed = _list_nvml_processes()
    complete = listed is not None and _numbers_as_host()
    if listed is None:
        tool = _find_tool()
        argv = [tool or "", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
        text = run_tool(argv, timeout_seconds=5.0) if tool is not None else None
        listed = () if text is None else parse_process_memory(text)
    own = [size for pid, size in listed if pid in pids]
    if not own:
        return 0 if complete else None
    sizes = [size for size in own if size is not None]
    return sum(sizes) if sizes else None


def _numbers_as_host() -> bool:
    """Tell whether this process is in the first namespace of process numbers, whose file Linux numbers so."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino == 0xEFFFFFFC
    except OSError:
        return False


def parse_process_memory(text: str) -> tuple[tuple[int, int | None], ...]:
    """Read ``nvidia-smi --query-compute-apps=pid,used_memory`` in the form ``--format=csv,noheader,nounits``:
    processes and their bytes, None for ``[N/A]`` and its like; other lines are left out."""
    rows = ([cell.strip() for cell in line.split(",")] for line in text.splitlines())
    numbered = ((whole_number(row[0]), row[1]) for row in rows if len(row) == 2)
    return tuple((pid, _mebibytes(size)) for pid, size in numbered if pid is not None)


def _list_nvml_processes() -> tuple[tuple[int, int | None], ...] | None:
    """Return the processes on all GPUs, with their bytes; None without the package or the driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        found: dict[tuple[int, int], int | None] = {}
        for number, handle in enumerate(handles):
            # Vulkan's processes stand in the second list; one that stands in both holds its memory once.
            for ask in (
                pynvml.nvmlDeviceGetComputeRunningProcesses,
                pynvml.nvmlDeviceGetGraphicsRunningProcesses,
            ):
                found |= {(number, int(each.pid)): each.usedGpuMemory for each in ask(handle)}
        return tuple((pid, size) for (_, pid), size in found.items())
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _ask_nvml() -> tuple[Gpu, ...] | None:
    """Return the GPUs that NVML counts, ``None`` when the package or the driver's library is missing."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        return tuple(_ask_device(index, driver) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _ask_device(index: int, driver: str | None) -> Gpu:
    import pynvml

    sizes: tuple[int | None, int | None]
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    name = _text(pynvml.nvmlDeviceGetName(handle)) or "NVIDIA GPU"
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        sizes = (int(memory.total), int(memory.free)) if memory.total else (None, None)
    except pynvml.NVMLError:  # not supported on GPUs without memory of their own
        sizes = None, None
    try:
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        capability: str | None = f"{major}.{minor}"
    except pynvml.NVMLError:
        capability = None
    return _gpu(index, name, sizes, capability, driver)


def _text(value: object) -> str | None:
    """Return a text of NVML, which older packages give as bytes."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return value if isinstance(value, str) else None


_CUDA = GpuBackend(
    word="nvidia",
    module="ggml-cuda",
    in_old_engines=True,
    hiding="CUDA_VISIBLE_DEVICES",
    variables=("CUDA_DEVICE_ORDER",),
    # CUDA numbers the fastest first unless it is told to number them as the driver does.
    numbering=(("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),),
)
NVIDIA = GpuVendor(
    name="nvidia",
    fix="install NVIDIA's driver, so that nvidia-smi lists the GPU",
    pci=(0x10DE,),
    marks=("nvidia",),
    container="--gpus all",
    backend=_CUDA,
    integrated=_shares_memory,
    quick_unified=True,
    probe=find_nvidia,
    process_memory=find_process_memory,
    devices=("nvidia[0-9]*",),
    helpers=("nvidia*", "nvidia-caps/*"),
    late=("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"),
)
