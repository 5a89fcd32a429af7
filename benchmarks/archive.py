"""An archive of many studies through one `edgeseg infer`: does memory stay flat, does time grow in proportion?

    python benchmarks/archive.py [--studies 100 300 1000] [--slices 5] [--series pre flair post] [--format NAME ...]

The archive holds synthetic copies of some slices of the example study: new UIDs, and FLAIR values of another scale, so
that no two studies have the same bytes. Every size is a fresh process, and then run again, where every study is done
already. Memory is the process's resident set when a study ends, and its peak; processor time does not hang on what else
the machine is doing. ``--engine``, ``--work`` and ``--json`` say with what, where, and what becomes of the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import studies

from edgeseg import machine


@dataclass(frozen=True)
class Sample:
    """The process when a study had ended: seconds since its start, processor time in s, resident MB now and at most."""

    seconds: float
    cpu_s: float
    mb: float
    peak_mb: float


def main() -> None:
    """Print the figures and keep them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--studies", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--slices", type=int, default=5, help="of each series, from the middle of the example's 15")
    parser.add_argument("--series", nargs="+", default=["pre", "flair", "post"], help="FLAIR alone needs no alignment")
    parser.add_argument("--engine", help="a bundle's name or folder; the default one without it")
    parser.add_argument("--format", dest="formats", nargs="+", default=[], help="all that infer writes without it")
    parser.add_argument("--work", type=Path, help="folder for archive and results; a temporary one without it")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "archive.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        originals = middle(arguments.slices, arguments.series)
        options = [word for name in arguments.formats for word in ("--format", name)]
        options += ["--engine", arguments.engine] if arguments.engine else []
        for figures in measure(sorted(arguments.studies), originals, Path(work), options):
            figures = {"slices": arguments.slices, "series": arguments.series, "options": options, **figures}
            arguments.json.parent.mkdir(exist_ok=True)
            arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def measure(
    sizes: list[int], originals: list[tuple[Path, Any]], work: Path, options: list[str]
) -> Iterator[dict[str, Any]]:
    """Figures of an archive that grows to each size, and of a second run over each: they are longer with every size."""
    runs: list[dict[str, Any]] = []
    archive, output = work / "archive", work / "results"
    made = 0
    for size in sizes:
        for number in range(made, size):
            copy_study(archive / f"{number:05d}", number, originals)
        made = size
        shutil.rmtree(output, ignore_errors=True)
        for already_done in (False, True):
            figures = {"studies": size, "already_done": already_done, **_figures(_run(archive, output, options), size)}
            runs.append(figures)
            print(json.dumps(figures), flush=True)
        yield {"machine": machine.facts(), "runs": runs}


def copy_study(folder: Path, number: int, originals: list[tuple[Path, Any]]) -> None:
    """Write the example's slices as another study."""
    for path, original in originals:
        place = folder / path.relative_to(studies.EXAMPLE)
        place.parent.mkdir(parents=True, exist_ok=True)
        studies.numbered(original, number).save_as(place)


def middle(slices: int, series: list[str]) -> list[tuple[Path, Any]]:
    """The example's files of the slices in the middle, read."""
    import pydicom

    read = [(path, pydicom.dcmread(path)) for name in series for path in sorted((studies.EXAMPLE / name).glob("*.dcm"))]
    places = sorted({float(dataset.SliceLocation) for _, dataset in read})
    first = (len(places) - slices) // 2
    kept = places[first : first + slices]
    return [(path, dataset) for path, dataset in read if float(dataset.SliceLocation) in kept]


def _run(archive: Path, output: Path, options: list[str]) -> list[Sample]:
    """One cold run; the first sample is taken when the engine is about to be opened."""
    command = [sys.executable, "-c", "from edgeseg.cli import main; main()", "infer", str(archive), "-o", str(output)]
    command += options
    started = time.perf_counter()
    samples = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr or ():
            if "slices marked" in line or "already done" in line or line.startswith("Non-commercial"):
                samples.append(Sample(time.perf_counter() - started, *_cpu_and_memory(process.pid)))
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} left with {process.returncode}")
    return samples


def _cpu_and_memory(process: int) -> tuple[float, float, float]:
    """Processor time in s, resident set now and at its largest in MB."""
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    peak_kb = Path(f"/proc/{process}/status").read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0]
    user, system = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[11:13]
    ticks = int(user) + int(system)
    return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") / 2**20, int(peak_kb) / 1024


def _figures(samples: list[Sample], studies: int) -> dict[str, Any]:
    """Time and memory of a run; ``mb_by_study`` is the resident set after so many studies."""
    found, ended = samples[0], samples[1:]
    if len(ended) != studies:
        raise SystemExit(f"{len(ended)} of {studies} studies came to an end")
    early = ended[max(0, studies // 10 - 1)]
    middle_s = ended[studies // 2].cpu_s
    halves = (middle_s - ended[0].cpu_s) / (studies // 2), (ended[-1].cpu_s - middle_s) / (studies - 1 - studies // 2)
    mb = np.asarray([sample.mb for sample in ended])
    per_study = np.polyfit(np.arange(studies), mb, 1)[0]
    shown = sorted({*range(0, studies, max(1, studies // 20)), studies - 1})
    return {
        "find_s": round(found.seconds, 2),
        "total_s": round(ended[-1].seconds, 1),
        "cpu_s": round(ended[-1].cpu_s, 1),
        "cpu_s_a_study_by_half": [round(half, 4) for half in halves],
        "mb_after_a_tenth": round(early.mb, 1),
        "mb_at_the_end": round(ended[-1].mb, 1),
        "mb_largest": round(float(mb.max()), 1),
        "mb_peak": round(ended[-1].peak_mb, 1),
        "kb_more_by_study": round(1024 * float(per_study), 2),
        "mb_by_study": {str(k + 1): round(float(mb[k]), 1) for k in shown},
    }


if __name__ == "__main__":
    main()
