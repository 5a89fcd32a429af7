"""What the edge command costs: start-up, time and memory of a cold run, size of the installation.

    python benchmarks/footprint.py [--runs 5] [--json FILE]

Run it with the Python of an environment that holds the edge package alone. Every run is a fresh process; memory is the
largest resident set of the process, as the kernel reports it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = {"DICOM": "examples/dicom/example-study", "TIFF": "examples/tiff/TCGA_HT_7884_19980913"}


def main() -> None:
    """Print the figures and keep them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "footprint.json")
    arguments = parser.parse_args()
    figures: dict[str, object] = {
        "cpu": f"{os.cpu_count()} cores, {platform.machine()}",
        "python": platform.python_version(),
        "installed_mb": _installed_mb(),
        "help_s": _median([_run(["--help"])[0] for _ in range(arguments.runs)]),
    }
    for name, study in EXAMPLES.items():
        with tempfile.TemporaryDirectory() as folder:
            runs = [_run(["infer", str(ROOT / study), "-o", folder]) for _ in range(arguments.runs)]
        figures[f"infer_{name}_s"] = _median([run[0] for run in runs])
        figures[f"infer_{name}_peak_mb"] = max(run[1] for run in runs)
    for key, value in figures.items():
        print(f"{key:22} {value}")
    arguments.json.parent.mkdir(exist_ok=True)
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _run(arguments: list[str]) -> tuple[float, float]:
    """Seconds and peak memory (MB) of one edgeseg command in a fresh process."""
    command = [sys.executable, "-c", "from edgeseg.cli import main; main()", *arguments]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} left with {process.returncode}")
    return seconds, _rss_mb(usage)


def _rss_mb(usage: resource.struct_rusage) -> float:
    return round(usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2), 1)


def _median(values: list[float]) -> float:
    return round(statistics.median(values), 3)


def _installed_mb() -> float | None:
    """Size of this environment's site-packages in MB, without pip and setuptools; None outside of one."""
    if sys.prefix == sys.base_prefix:
        return None
    folder = next(Path(sys.prefix).glob("lib/python*/site-packages"), None)
    if folder is None:
        return None
    tools = ("pip", "setuptools", "_distutils_hack", "pkg_resources")
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return round(sum(f.stat().st_size for f in files if not f.relative_to(folder).parts[0].startswith(tools)) / 1e6, 1)


if __name__ == "__main__":
    main()
