"""The whole way from DICOM folders to results, beside the peers in one run: a plain script, MONAI, and edgeseg.

    python benchmarks/peers.py [--studies 40] [--network NAME ...] [--rounds 1] [--cold 5] [--threads 2]

Each contestant is a fresh process over the same archive of studies (`benchmarks/studies.py`: three aligned,
uncompressed series of 26 slices) and writes DICOM SEG, NIfTI and a report; then each segments one study, cold, which
ends with the last file written. The contestants run by turns, and ratios are medians over the rounds. Their masks are
compared with edgeseg's in FP32: who computes something else is no peer, and ends the run.

Needs the extras train, export and dev, and ``pip install monai``; bundles that do not ship are built once, in
``build/peers``. ``--json`` and ``--chart`` say where figures and chart go.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import peers_chart
import studies

from edgeseg import bundle, machine
from edgeseg.types import BoolArray

ROOT = Path(__file__).resolve().parent.parent
NETWORKS = ("lgg-unet-resnet34", "lgg-unet-efficientnet-lite0")
PRECISIONS = ("fp32", "fp16", "int8")
PLAIN, MONAI, ALL_FORMATS = "plain PyTorch script", "MONAI", "edgeseg INT8, all formats"
LEAST_DICE = {"fp32": 0.9995, "fp16": 0.999, "int8": 0.97}
"""With edgeseg's FP32 masks, over all voxels of the archive, by the contestant's arithmetic."""
BARS = {"lgg-unet-resnet34": 4.5, "lgg-unet-efficientnet-lite0": 4.0}
"""Times that edgeseg INT8 has to be as fast as the plain script, over the archive."""
COLD_BAR_S, COLD_NETWORK_BAR_S = 2.0, 0.3
_EDGESEG = "from edgeseg.cli import main; main()"
_FORMATS = ("--format", "dicom-seg", "--format", "nifti", "--format", "report")


@dataclass
class Contestant:
    """Who runs: a command to which the input and the output folder are added; and what was measured of it."""

    name: str
    precision: str
    command: tuple[str, ...]
    after: tuple[str, ...] = ()
    archive: list[dict[str, float]] = field(default_factory=list)
    cold: list[dict[str, float]] = field(default_factory=list)
    agreement: dict[str, float] = field(default_factory=dict)

    @property
    def is_edgeseg(self) -> bool:
        """Whether it is ours."""
        return self.name.startswith("edgeseg")

    def arguments(self, given: Path, output: Path) -> list[str]:
        """Its command for an input."""
        out = ["-o", str(output)] if self.is_edgeseg else [str(output)]
        return [sys.executable, *self.command, str(given), *out, *self.after]


def main() -> None:
    """Measure, print the tables, and keep figures and chart."""
    arguments = _parsed()
    if hasattr(os, "sched_setaffinity"):  # what is started inherits it: everybody has the same cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    os.environ.update(OMP_NUM_THREADS=str(arguments.threads), PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    if arguments.work:
        arguments.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        work = Path(folder)
        os.environ["EDGESEG_CACHE"] = str(work / "cache")
        studies.write(work / "archive", arguments.studies)
        figures: dict[str, Any] = {
            "machine": {**machine.facts(), "peers": {name: metadata.version(name) for name in ("monai", "highdicom")}},
            "studies": arguments.studies,
            "slices": studies.SLICES,
            "threads": arguments.threads,
            "rounds": arguments.rounds,
            "cold_rounds": arguments.cold,
            "networks": {},
        }
        for network in arguments.network:
            figures["networks"][network] = _measured(network, arguments, work)
            _print(network, figures["networks"][network])
            arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    peers_chart.draw(figures, arguments.chart)


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--studies", type=int, default=40, help="of the archive; at least 2")
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=1, help="turns of each contestant over the archive")
    parser.add_argument("--cold", type=int, default=5, help="turns of each contestant over one study")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, help="folder for archive and results; a temporary one without it")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "peers.json")
    parser.add_argument("--chart", type=Path, default=ROOT / "docs" / "images" / "peers.png")
    arguments = parser.parse_args()
    if arguments.studies < 2:
        parser.error("an archive has at least 2 studies: the first is where the others' time begins")
    return arguments


def _measured(network: str, arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """One network through everybody."""
    contestants = _contestants(network, arguments.threads)
    archive = [one for one in contestants if one.name != ALL_FORMATS]
    for turn in range(arguments.rounds):
        for one in archive:
            print(f"{network}: {one.name}, archive, round {turn + 1}", file=sys.stderr, flush=True)
            output = work / network / one.precision / one.name / f"archive-{turn}"
            one.archive.append(_run(one, work / "archive", output, arguments.studies))
            if turn == 0:
                reference = work / network / "fp32" / "edgeseg FP32" / "archive-0"
                one.agreement = _agreement(one, output, reference, arguments.studies)
    for turn in range(arguments.cold):
        for one in contestants:
            print(f"{network}: {one.name}, one study, round {turn + 1}", file=sys.stderr, flush=True)
            output = work / network / one.precision / one.name / f"cold-{turn}"
            one.cold.append(_run(one, work / "archive" / "00000", output, 1))
    return _figures(network, contestants, arguments.studies)


def _contestants(network: str, threads: int) -> list[Contestant]:
    """Everybody, edgeseg's FP32 first: its masks are what the others' are compared with."""
    engines = {precision: _engine(network, precision) for precision in PRECISIONS}

    def ours(name: str, precision: str, formats: tuple[str, ...]) -> Contestant:
        return Contestant(name, precision, ("-c", _EDGESEG, "infer"), ("--engine", engines[precision], *formats))

    def peer(name: str, script: str) -> Contestant:
        more = ("--network", network, "--threads", str(threads))
        return Contestant(name, "fp32", (str(Path(__file__).with_name(script)),), more)

    return [
        *(ours(f"edgeseg {precision.upper()}", precision, _FORMATS) for precision in PRECISIONS),
        peer(PLAIN, "plain.py"),
        peer(MONAI, "with_monai.py"),
        ours(ALL_FORMATS, "int8", ()),
    ]


def _engine(network: str, precision: str) -> str:
    """A bundle's folder: the shipped one, else one that is built, once."""
    name = f"{network}-{precision}"
    if (bundle.shipped_folder() / name / bundle.MANIFEST).is_file():
        return str(bundle.shipped_folder() / name)
    built = ROOT / "build" / "peers" / name
    if not (built / bundle.MANIFEST).is_file():
        print(f"building {name}", file=sys.stderr, flush=True)
        weights = bundle.shipped_weights(network)
        command = [sys.executable, "-c", _EDGESEG, "build-engine", str(weights), f"--{precision}", "-o", str(built)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return str(built)


def _run(one: Contestant, given: Path, output: Path, expected: int) -> dict[str, float]:
    """One fresh process: how long until each end, in s, and its peak memory, in MB.

    ``first_s`` ends with the archive's first study, ``written_s`` with the last file written.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    log = output.with_suffix(".log")
    began = time.time()
    with log.open("wb") as said:
        process = subprocess.Popen(one.arguments(given, output), stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    ended = time.time()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{one.name} left with {process.returncode}:\n{log.read_text(encoding='utf-8')}")
    reports = {path.parent: path for path in output.glob("*/report.json")}
    if len(reports) != expected:
        raise SystemExit(f"{one.name} wrote {len(reports)} of {expected} reports")
    done = sorted(_written(folder) for folder in reports)
    network = [_network_s(json.loads(path.read_bytes())) for path in reports.values()]
    return {
        "first_s": done[0] - began,
        "written_s": done[-1] - began,
        "process_s": ended - began,
        "network_s": sum(network),
        "peak_mb": usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2),
    }


def _written(folder: Path) -> float:
    """When the last of a study's files was in its place: in s since the epoch."""
    return max(path.stat().st_ctime for path in (folder, *folder.rglob("*")))


def _network_s(report: dict[str, Any]) -> float:
    """What a report says of the network's time."""
    return float(report["network_s"] if "network_s" in report else report["timings_ms"]["network"] / 1000)


def _agreement(one: Contestant, output: Path, reference: Path, expected: int) -> dict[str, float]:
    """Dice over all voxels of the archive, and how many differ; a SEG that holds another mask ends the run."""
    ours, theirs = _masks(reference), _masks(output)
    if ours.keys() != theirs.keys() or len(ours) != expected:
        raise SystemExit(f"{one.name} segmented {len(theirs)} studies, edgeseg {len(ours)}, of {expected}")
    differing = sum(int((ours[key] != theirs[key]).sum()) for key in ours)
    marked = [sum(int(mask.sum()) for mask in masks.values()) for masks in (ours, theirs)]
    dice = 1 - differing / max(1, sum(marked))
    if dice < LEAST_DICE[one.precision]:
        raise SystemExit(f"{one.name} is no peer: its masks' Dice with edgeseg's is {dice:.4f}")
    return {"dice": dice, "voxels_differing": differing, "voxels_marked": marked[1]}


def _masks(output: Path) -> dict[str, BoolArray]:
    """Masks of each study by its FLAIR series, from the NIfTI files; checked against the SEG files."""
    import pydicom
    import SimpleITK

    found: dict[str, BoolArray] = {}
    for path in sorted(output.glob("*/mask.nii.gz")):
        mask = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))) > 0
        seg = pydicom.dcmread(path.with_name("segmentation.dcm"))
        bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
        if int(bits.sum()) != int(mask.sum()):
            raise SystemExit(f"the SEG in {path.parent} holds {bits.sum()} voxels, the NIfTI file {mask.sum()}")
        found[str(seg.ReferencedSeriesSequence[0].SeriesInstanceUID)] = mask
    return found


def _figures(network: str, contestants: list[Contestant], count: int) -> dict[str, Any]:
    """Medians of each contestant, and what the bars are about."""
    by_name = {one.name: one for one in contestants}
    ours, plain = by_name["edgeseg INT8"], by_name[PLAIN]
    speedup = _ratio(plain, ours)
    cold = _medians(by_name[ALL_FORMATS].cold)
    bars = [
        _bar("archive, INT8 over the plain script", speedup, BARS[network], at_least=True),
        _bar("one study, cold, all formats, s", cold["written_s"], COLD_BAR_S, at_least=False),
        _bar("of which the network, s", cold["network_s"], COLD_NETWORK_BAR_S, at_least=False),
    ]
    return {
        "contestants": {one.name: _contestant(one, ours, count) for one in contestants},
        "bars": bars,
    }


def _contestant(one: Contestant, ours: Contestant, count: int) -> dict[str, Any]:
    measured: dict[str, Any] = {"precision": one.precision, "cold": _medians(one.cold)}
    if one.archive:
        archive = _medians(one.archive)
        measured |= {
            "archive": archive,
            "s_a_study": archive["process_s"] / count,
            "s_a_study_without_start": (archive["written_s"] - archive["first_s"]) / (count - 1),
            "int8_is_faster": _ratio(one, ours),
            "agreement": one.agreement,
        }
    return measured


def _ratio(slower: Contestant, faster: Contestant) -> float:
    """Median over the rounds of how many times as long a process took over the archive."""
    pairs = zip(slower.archive, faster.archive, strict=True)
    return statistics.median(a["process_s"] / b["process_s"] for a, b in pairs)


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(run[name] for run in runs), 4) for name in runs[0]}


def _bar(what: str, found: float, bar: float, at_least: bool) -> dict[str, Any]:
    held = found >= bar if at_least else found <= bar
    return {"what": what, "found": round(found, 3), "bar": bar, "at_least": at_least, "held": held}


def _print(network: str, figures: dict[str, Any]) -> None:
    """The tables, in 80 columns."""
    print(f"\n{network}\n{'':26} {'s a study':>9} {'no start':>9} {'cold, s':>8} {'network':>8} {'MB':>6} {'Dice':>7}")
    for name, one in figures["contestants"].items():
        warm = [f"{one[key]:.3f}" if key in one else "-" for key in ("s_a_study", "s_a_study_without_start")]
        dice = f"{one['agreement']['dice']:.5f}" if "agreement" in one else "-"
        cold = one["cold"]
        print(
            f"{name:26} {warm[0]:>9} {warm[1]:>9} {cold['written_s']:8.2f} {cold['network_s']:8.3f} "
            f"{max(cold['peak_mb'], one.get('archive', cold)['peak_mb']):6.0f} {dice:>7}"
        )
    for bar in figures["bars"]:
        sign, verdict = (">=" if bar["at_least"] else "<="), ("held" if bar["held"] else "MISSED")
        print(f"{bar['what']}: {bar['found']:.2f} ({sign} {bar['bar']}: {verdict})")


if __name__ == "__main__":
    main()
