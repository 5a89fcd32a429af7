"""Damaged inputs of every kind: does anything escape but edgeseg's own errors, and how much memory do they take?

python benchmarks/fuzz.py [--inputs 100000] [--seed 0] [--json FILE] [--keep DIR]

Hypothesis draws the damage, from the seed alone. Each share of inputs runs in a process of its own under a limit of
2 GB of address space, so that the end of a C library is an error that is counted, and not the end of the run.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import seeds
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from edgeseg.errors import EdgesegError

SHARES = {"dicom": 0.25, "dicomdir": 0.04, "zip": 0.04, "nifti": 0.15, "tiff": 0.22, "manifest": 0.15, "yaml": 0.15}
MEMORY_BYTES = 2 << 30
A_PROCESS = 1000
"""Inputs that a process takes."""
SECONDS = 30
"""How long one input may take."""

Damage = tuple[str, int, int, bytes]
NUMBERS = (0, 1, -1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 3, 1 << 20)
TEXTS = (
    "",
    "nan",
    "inf",
    "-1",
    "1e999",
    "a" * 300,
    "\\",
    "..",
    "/etc/passwd",
    "0x",
    "\0",
    "é",
    "9" * 40,
    "null",
    "[]",
    "{}",
)


class TooLong(BaseException):
    """An input took longer than it may: no handler of `Exception` hides it."""


def main() -> None:
    """Run all shares one after the other, print what was found and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "fuzz.json")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that failed")
    parser.add_argument("--kind", choices=SHARES, action="append", help="these kinds alone; may be repeated")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        kind, number, inputs = arguments.worker
        _work(kind, int(number), int(inputs), arguments.keep)
        return
    chosen = {kind: SHARES[kind] for kind in arguments.kind or SHARES}
    found = {
        kind: _share(kind, round(arguments.inputs * part / sum(chosen.values())), arguments)
        for kind, part in chosen.items()
    }
    figures = {
        "inputs": sum(one["inputs"] for one in found.values()),
        "seed": arguments.seed,
        "failures": sum(one["failures"] for one in found.values()),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,  # of any, GDCM's process too
        "kinds": found,
    }
    print(json.dumps(figures, indent=2))
    arguments.json.parent.mkdir(exist_ok=True)
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    sys.exit(1 if figures["failures"] else 0)


def _share(kind: str, inputs: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """All inputs of a kind, in processes of `A_PROCESS` each."""
    outcomes: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    peak, done, number = 0, 0, 0
    while done < inputs:
        count = min(A_PROCESS, inputs - done)
        said = _process(kind, arguments.seed * 1_000_003 + number, count, arguments.keep)
        number += 1
        done += max(1, said["done"])
        outcomes.update(said["outcomes"])
        failures.update(said["failures"])
        peak = max(peak, said["peak_memory_mb"])
        print(f"{kind}: {done} of {inputs}, {failures.total()} failed, {peak} MB", file=sys.stderr, flush=True)
    return {
        "inputs": done,
        "failures": failures.total(),
        "peak_memory_mb": peak,
        "outcomes": dict(outcomes.most_common()),
        "failed": dict(failures.most_common(20)),
    }


def _process(kind: str, number: int, count: int, keep: Path | None) -> dict[str, Any]:
    """What a process found; where it ended before its time, how far it came, and that as a failure."""
    with tempfile.TemporaryDirectory(prefix="edgeseg-fuzz-", dir=_memory_disk()) as folder:
        command = [sys.executable, __file__, "--worker", kind, str(number), str(count)]
        command += ["--keep", str(keep.resolve())] if keep else []
        environment = {**os.environ, "TMPDIR": folder, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        run = subprocess.run(
            command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
        )
        try:
            said: dict[str, Any] = json.loads((Path(folder) / "progress.json").read_text())
        except (OSError, ValueError):
            raise SystemExit(f"a process for {kind} did not begin:\n{run.stderr.decode()[-2000:]}") from None
        if run.returncode:
            ending = f"process ended with {run.returncode}: {run.stderr.decode(errors='replace').strip()[-300:]}"
            said["failures"][ending] = said["failures"].get(ending, 0) + 1
            if keep:
                _keep(keep, kind, Path(folder, "current").read_bytes(), ending)
        return said


def _work(kind: str, number: int, count: int, keep: Path | None) -> None:
    """Draw and try inputs in this process; what was found goes to ``progress.json`` of the working folder."""
    warnings.simplefilter("ignore")
    make, run = TARGETS[kind]
    corpus = make(Path("seeds").resolve())
    run(corpus[0])  # valid input, and all imports, before the limit holds
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGALRM, _too_long)
    record: dict[str, Any] = {"done": 0, "outcomes": {}, "failures": {}, "peak_memory_mb": 0}

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(corpus), st.lists(_damages(), min_size=1, max_size=4))
    def one(picked: seeds.Seed, damages: list[Damage]) -> None:
        content = _damaged(picked, damages)
        Path("current").write_bytes(content)
        picked.victim.write_bytes(gzip.compress(content, 1) if picked.packed else content)
        outcome = _try(run, picked, kind, content, keep)
        bucket = record["failures" if outcome.startswith("! ") else "outcomes"]
        bucket[outcome] = bucket.get(outcome, 0) + 1
        record["done"] += 1
        record["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        picked.victim.write_bytes(gzip.compress(picked.content, 1) if picked.packed else picked.content)
        Path("progress.json").write_text(json.dumps(record))

    Path("progress.json").write_text(json.dumps(record))
    one()


def _try(run: Callable[[seeds.Seed], None], picked: seeds.Seed, kind: str, content: bytes, keep: Path | None) -> str:
    """How one input ended: read, the name of an error of edgeseg's, or "! " and what escaped."""
    signal.alarm(SECONDS)
    try:
        run(picked)
    except EdgesegError as error:
        return type(error).__name__
    except (Exception, TooLong) as error:
        place = traceback.extract_tb(error.__traceback__)
        own = next((frame for frame in reversed(place) if "edgeseg" in Path(frame.filename).parts), place[-1])
        said = f"! {type(error).__name__} in {Path(own.filename).name} {own.name}: {str(error)[:100]}"
        if keep:
            _keep(keep, kind, content, "".join(traceback.format_exception(error)))
        return said
    finally:
        signal.alarm(0)
    return "read"


def _keep(folder: Path, kind: str, content: bytes, said: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{kind}-{hashlib.sha256(content).hexdigest()[:12]}"
    (folder / name).write_bytes(content)
    (folder / f"{name}.txt").write_text(said)


def _too_long(*_: object) -> None:
    raise TooLong(f"more than {SECONDS} s")


def _memory_disk() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _damages() -> st.SearchStrategy[Damage]:
    """One damage: what is done, where, how far, and with which bytes."""
    place = st.integers(0, 1 << 24)
    value = st.one_of(
        st.binary(min_size=1, max_size=8),
        st.builds(_number, st.sampled_from(NUMBERS), st.sampled_from((1, 2, 4, 8)), st.booleans()),
        st.sampled_from(TEXTS).map(lambda text: text.encode()),
    )
    kinds = st.sampled_from(
        ("flip", "set", "set", "hot", "hot", "hot", "insert", "delete", "repeat", "swap", "cut", "value")
    )
    return st.tuples(kinds, place, st.integers(1, 64), value)


def _number(value: int, size: int, big: bool) -> bytes:
    return (value & ((1 << (8 * size)) - 1)).to_bytes(size, "big" if big else "little")


def _damaged(picked: seeds.Seed, damages: list[Damage]) -> bytes:
    """The seed's content with the damages applied one after the other."""
    content = bytearray(picked.content)
    for kind, where, length, value in damages:
        at = where % max(1, len(content))
        if kind == "flip" and content:
            content[at] ^= 1 << (length % 8)
        elif kind == "hot" and picked.hot:
            at = picked.hot[where % len(picked.hot)]
            content[at : at + len(value)] = value
        elif kind in ("set", "hot"):
            content[at : at + len(value)] = value
        elif kind == "insert":
            content[at:at] = value
        elif kind == "delete":
            del content[at : at + length]
        elif kind == "repeat":
            content[at:at] = content[at : at + length] * 3
        elif kind == "swap":
            other = content[at : at + length]
            del content[at : at + length]
            content[at // 2 : at // 2] = other
        elif kind == "cut" and length < 8:  # one in eight, as hardly anything is left to be read
            del content[at:]
        elif kind == "value":
            _replace_value(content, where, value)
    return bytes(content)


def _replace_value(content: bytearray, where: int, value: bytes) -> None:
    """Put something else in the place of a value of JSON or YAML: what follows a colon in one of the lines."""
    starts = [k for k, byte in enumerate(content) if byte == ord(":")]
    if starts:
        start = starts[where % len(starts)] + 1
        end = content.find(b"\n", start)
        content[start : end if end > 0 else len(content)] = b" " + value


def _read_studies(picked: seeds.Seed) -> None:
    """Find and read the studies, and make the network's input of them."""
    from edgeseg import preprocess, readers
    from edgeseg.types import Preprocessing

    problem = None
    for files in readers.find_studies(picked.folder):
        try:
            study = readers.read_study(files)
            preprocess.to_network(study, Preprocessing())
            _write_seg(study)
        except EdgesegError as error:
            problem = error
    if problem is not None:
        raise problem


def _write_seg(study: Any) -> None:
    """One in ten DICOM studies' masks becomes a DICOM SEG: its header is made of the damaged ones."""
    if study.source != "dicom" or int.from_bytes(hashlib.sha256(study.flair.voxels.tobytes()).digest()[:2], "big") % 10:
        return
    from edgeseg.types import Segmentation
    from edgeseg.writers import ReportFacts, dicom_seg

    engine = {"name": "fuzz", "sha256": "0" * 64, "weights_sha256": "0" * 64, "runtime": "none", "runtime_version": "0"}
    engine |= {"precision": "fp32", "inference_precision": "f32", "device": "none", "parity": "passed", "licence": ""}
    mask = np.asarray(study.flair.voxels > study.flair.voxels.mean())
    areas = tuple(int(n) for n in mask.sum(axis=(1, 2)))
    found = Segmentation(mask, mask.astype(np.float32), areas, None, None)
    dicom_seg.write(found, study, Path(), ReportFacts(engine, {}, 0.5, {}))


def _read_manifest(picked: seeds.Seed) -> None:
    from edgeseg import bundle

    bundle.read_manifest(picked.folder)


def _read_configuration(picked: seeds.Seed) -> None:
    from edgeseg.training import config

    config.load(picked.folder)


TARGETS: dict[str, tuple[Callable[[Path], list[seeds.Seed]], Callable[[seeds.Seed], None]]] = {
    "dicom": (seeds.dicom, _read_studies),
    "tiff": (seeds.tiff, _read_studies),
    "nifti": (seeds.nifti, _read_studies),
    "zip": (seeds.archive, _read_studies),
    "dicomdir": (seeds.dicomdir, _read_studies),
    "manifest": (seeds.manifest, _read_manifest),
    "yaml": (seeds.configuration, _read_configuration),
}

if __name__ == "__main__":
    main()
