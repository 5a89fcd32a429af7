"""What a figure holds for: the processor, its instruction sets, the versions of what ran, this process's memory."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from edgeseg import __version__

_INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm")
"""What decides how fast a network runs, by Linux's names; AMX tiles count when they multiply something."""
_PACKAGES = ("numpy", "openvino", "onnxruntime", "torch")
_CPUINFO, _STATUS, _RESET = Path("/proc/cpuinfo"), Path("/proc/self/status"), Path("/proc/self/clear_refs")


def facts() -> dict[str, Any]:
    """Processor, cores, instruction sets and versions, as plain values."""
    return {
        "cpu": cpu(),
        "cores": cores(),
        "instruction_sets": list(instruction_sets()),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), "edgeseg": __version__, **_versions()},
    }


def cpu() -> str:
    """The processor's name as Linux gives it, else the machine's kind."""
    return _processor().get("model name", "") or platform.machine()


def cores() -> int:
    """Logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def instruction_sets() -> tuple[str, ...]:
    """The processor's instruction sets for networks, by Linux's names; empty on other systems."""
    processor = _processor()
    flags = f"{processor.get('flags', '')} {processor.get('Features', '')}".split()
    return tuple(name for name in _INSTRUCTIONS if name in flags)


def _processor() -> dict[str, str]:
    """The first processor's lines."""
    if not _CPUINFO.is_file():
        return {}
    first = _CPUINFO.read_text(encoding="utf-8").split("\n\n")[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def resident_mb(peak: bool = False) -> float | None:
    """Memory of this process in MB, now or at its peak since `reset_peak`; None where the system does not say."""
    name = "VmHWM:" if peak else "VmRSS:"
    if not _STATUS.is_file():
        return None
    for line in _STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024 / 1e6
    return None


def reset_peak() -> bool:
    """Let the peak of `resident_mb` start from here; False where the system does not allow it."""
    try:
        _RESET.write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True
