"""llama.cpp's own program as people install and build it: ``llama-server``, or ``llama serve``.

It is told from other programs by what it prints for ``--version``. Its flags come and go between builds: what
its ``--help`` lists decides which are passed. It reads bare GGUF files alone. Sources: ``common/arg.cpp`` and
``common/build-info.cpp.in`` of llama.cpp 0.5.0, and the help of a build of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import ClassVar

from llamafile_mgr.catalog import Pooling, Role
from llamafile_mgr.engines.family import MIB
from llamafile_mgr.engines.known_bad import SEVERAL_MODELS
from llamafile_mgr.engines.launch_settings import LaunchSettings, given
from llamafile_mgr.engines.toolbox import InstalledProgram, Toolbox
from llamafile_mgr.engines.upstream import UpstreamServer, repacked_on
from llamafile_mgr.machine.hardware import Cpu

#: ``version: 0.5.0-dev (build 1, commit 0c1e570)``, before August 2026 ``version: 6795 (1a2b3c4)``.
_VERSION = re.compile(r"^version: (\S{1,40}) \((?:build (\d{1,9}))?[^)\n]*\)\s+built with ", re.MULTILINE)
_FLAG = r"--?[A-Za-z][\w.-]*"
#: One entry of the help: flags, what the value is called, and after a wide gap what it is for.
_ENTRY = re.compile(rf"({_FLAG}(?:,\s+{_FLAG})*)(?: (\S+(?: \S+)*))?(?:\s{{2,}}.*)?")
#: What the value is called where it names all that are taken: ``[on|off|auto]``, ``{none,mean}``.
_CHOICES = re.compile(r"[\[{](\w+(?:[|,]\w+)+)[\]}]")
_ALLOWED = "allowed values: "
_DEVICES = "Available devices:"
_DEVICE = re.compile(r"  ([A-Za-z]+\w*: \S.{0,200})")

#: The verbosity that is listed with this word, since it came between information and debugging.
_TRACE, _TRACE_ENTRY = "4", re.compile(r"\s+- 4: trace\b.*")
#: ``ggml/src/ggml-cpu/amx`` of llama-cpp-python 0.3.36.
_REPACKED_BY_AMX = frozenset({"F16", "Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"})

#: Without these it would serve the wrong thing, or everybody.
_NEEDED = ("--host", "--port", "-m", "-c", "-np", "-t", "--api-key-file")
_NEEDED_FOR = {Role.EMBED: ("--embedding",), Role.RERANK: ("--rerank", "--pooling"), Role.GENERATE: ()}
#: Spellings of one flag in builds of different times.
_SPELLINGS = (("--embedding", "--embeddings"), ("--rerank", "--reranking"), ("--no-webui", "--no-ui"))
_ALL_LAYERS = 999


class LlamaCpp(UpstreamServer):
    """Rules of a stock llama.cpp server."""

    program_names = (("llama-server",), ("llama", "serve"))
    is_in_file = False
    reads_llamafiles = False
    install_hint = "install llama.cpp (https://llama.app), so that llama-server or llama is on PATH"
    known_bad = (SEVERAL_MODELS,)
    flag_notes: ClassVar = {}
    #: A build without GPU code took 14 MiB beside a tiny model, and 66 while eight connections sent texts.
    base_bytes = 24 * MIB
    request_bytes = 56 * MIB
    #: What it leaves by itself (``--fit-target``).
    gpu_margin = 1024 * MIB
    fits_layers = True
    flash_attention_on_cpu = True
    picks_port = True
    serving = ()

    def repacked_types(self, cpu: Cpu) -> frozenset[str]:
        """Return the types of tensors of which it keeps a copy: with AMX nearly all, as was seen with F16."""
        return repacked_on(cpu) | (_REPACKED_BY_AMX if cpu.has("amx_int8") else frozenset())

    def read_version(self, text: str) -> str | None:
        """Return the version, with the build's number where it is told too."""
        found = _VERSION.search(text)
        if found is None:
            return None
        version, build = found.groups()
        return f"b{version}" if build is None else f"{version} (build {build})"

    def read_flags(self, text: str) -> frozenset[str]:
        """Return the flags of a help text, and the values that it names for them."""
        known: set[str] = set()
        flags: list[str] = []
        for line in text.splitlines():
            if line.startswith("-") and (entry := _ENTRY.fullmatch(line.rstrip())):
                flags, value = re.findall(_FLAG, entry[1]), entry[2]
                known.update(flags)
                if value is not None:
                    choices = _CHOICES.fullmatch(value)
                    known.update(f"{flag} *" for flag in flags)
                    _add(known, flags, re.split(r"[|,]", choices[1]) if choices else ())
            elif "-lv" in flags and _TRACE_ENTRY.fullmatch(line):
                known.add(f"-lv {_TRACE}")
            elif _ALLOWED in line:
                _add(known, flags, line.partition(_ALLOWED)[2].split(", "))
        return frozenset(known)

    def read_devices(self, text: str) -> tuple[str, ...]:
        """Return the lines of ``--list-devices``, GPUs and what else it can compute on."""
        lines = text.partition(_DEVICES)[2].splitlines()
        return tuple(found[1] for line in lines if (found := _DEVICE.fullmatch(line.rstrip())))

    def environment(self, toolbox: Toolbox) -> dict[str, str]:
        """Return what the unpacker needs to find this package."""
        return {"PYTHONPATH": str(toolbox.package_root)}

    def find_lack(self, program: InstalledProgram, role: Role, pooling: Pooling | None) -> str | None:
        """Return the first flag that this role cannot do without and that its help does not list."""
        known = program.flags or frozenset()
        needed = [*_NEEDED, *_NEEDED_FOR[role]]
        missing = [flag for flag in needed if not known.intersection(_spellings(flag))]
        if not missing and pooling is not None and f"--pooling {pooling.value}" not in known:
            missing = [f"--pooling {pooling.value}"]
        return f"its build has no {missing[0]}" if missing else None

    def placing(self, settings: LaunchSettings) -> tuple[str, ...]:
        """Return the flags for the processor alone, or for all layers where it fits none to a GPU itself.

        With a GPU its log shall tell where the layers lie: by traces, which print no text of callers. Builds
        without that level would print debugging, with all texts.
        """
        known = settings.known_flags or frozenset()
        if settings.gpu == "disable":
            return ("--device", "none") if "--device" in known else ("-ngl", "0")
        fitted = settings.gpu is None or "--fit" in known
        layers = settings.gpu_layers if fitted else settings.gpu_layers or _ALL_LAYERS
        tells = settings.gpu is not None and f"-lv {_TRACE}" in known
        return (*given("-ngl", layers), *(("-lv", _TRACE) if tells else ()))

    def repacks(self, quantisation: str | None, cpu: Cpu) -> bool | None:
        """Return False for quantised weights where a native build repacks them for AMX: it crashes.

        Seen with llama.cpp 0.5.0 on a Xeon with AMX: SIGSEGV in ``ggml_backend_amx_mul_mat`` with Q8_0 files,
        also of its own ``llama-quantize``; F16 runs, and so does Q8_0 with ``--no-repack``.
        """
        whole = quantisation in (None, "F16", "BF16", "F32")
        return False if "amx_int8" in (cpu.features or ()) and not whole else None

    def arguments(self, settings: LaunchSettings) -> tuple[str, ...]:
        """Return the flags after the program's name, as far as its help lists them."""
        words = super().arguments(settings)
        words += ("--no-repack",) if settings.repack is False else ()
        return words if settings.known_flags is None else tuple(_fit(words, settings.known_flags))


def _add(known: set[str], flags: Sequence[str], values: Sequence[str]) -> None:
    known.update(f"{flag} {value.strip()}" for flag in flags for value in values)


def _spellings(flag: str) -> tuple[str, ...]:
    return next((each for each in _SPELLINGS if flag in each), (flag,))


def _fit(words: Sequence[str], known: frozenset[str]) -> Iterator[str]:
    """Yield the words, each flag in the spelling of this build, without those that it does not list."""
    rest = list(words)
    while rest:
        flag = rest.pop(0)
        name = next((each for each in _spellings(flag) if each in known), None)
        takes_one = f"{name} *" in known
        value = rest.pop(0) if rest and (takes_one or not rest[0].startswith("-")) else None
        if name is None:
            continue
        if not takes_one:  # a switch, as -fa is in builds before September 2025
            yield from (name,) if value in (None, "on") else ()
        elif value is not None and _takes(known, name, value):
            yield from (name, value)


def _takes(known: frozenset[str], flag: str, value: str) -> bool:
    """Tell whether the help names this value, or leaves open what the flag takes."""
    named = any(word.startswith(f"{flag} ") and not word.endswith(" *") for word in known)
    return f"{flag} {value}" in known or not named
