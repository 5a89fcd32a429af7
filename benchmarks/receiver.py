"""How fast `edgeseg receive` takes instances from DCMTK's storescu, and what is lost when it is killed meanwhile.

    python benchmarks/receiver.py [--instances 1000] [--survivors 10000] [--kills 10] [--folder DIR] [--json FILE]

The receiver runs in its own process, as in the service. Beside each rate stands what the disk alone takes for the same
files, each safe before the next one begins: no receiver that answers when an instance is safe is faster than that. A
speed is the time from the start of storescu to its end, its association included.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.scanner.incoming import Incoming
from edgeseg.scanner.listening import Listening
from edgeseg.scanner.monitor import Monitor
from edgeseg.scanner.receive import Listener

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "dicom" / "example-study"
STORESCU = shutil.which("storescu", path="/usr/bin:/usr/local/bin:/opt/homebrew/bin")
LARGE, SMALL = 512, 128
"""Pixels along a side: 0.5 MB and 33 KB an instance."""
SENDERS = 4
ROUNDS = 5
PACE_S, AGAIN_S = 0.2, 6.0


def main() -> None:
    """Print the figures and keep them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--survivors", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="On the disk to be measured.")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "receiver.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        figures: dict[str, Any] = {
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "python": platform.python_version(),
            "speed": speed(Path(folder), arguments.instances),
            "kills": survive(Path(folder), arguments.survivors, arguments.kills, arguments.seed),
        }
    print(json.dumps(figures, indent=2))
    arguments.json.parent.mkdir(exist_ok=True)
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


# --- speed


def speed(folder: Path, instances: int) -> dict[str, Any]:
    """Rates of one association, of four, and of one while the network computes on the same machine, by turns."""
    files = make(folder / "large", instances, LARGE)
    size = files[0].stat().st_size
    rows: dict[str, list[dict[str, float]]] = {"one": [], "four": [], "one_while_segmenting": []}
    for number in range(ROUNDS):
        for name, row in rows.items():
            with receiving(folder / f"{name}-{number}") as (service, root):
                if name == "one_while_segmenting":
                    with segmenting(folder):
                        row.append(_send(service, root, files, 1))
                else:
                    row.append(_send(service, root, files, SENDERS if name == "four" else 1))
            shutil.rmtree(folder / f"{name}-{number}")
    middle = {name: statistics.median(row["instances_per_s"] for row in found) for name, found in rows.items()}
    return {"instance_bytes": size, "instances": instances, "rounds": rows, "median_instances_per_s": middle}


def _send(service: Listening, root: Path, files: Sequence[Path], senders: int) -> dict[str, float]:
    """Send files by storescu, in as many associations; with what the disk alone takes just before and after."""
    before, cpu = disk_ms(root.parent / "disk", files[0].stat().st_size), cpu_s(service.pid)
    started = time.perf_counter()
    programs = [subprocess.Popen(_command(service.port, files[k::senders])) for k in range(senders)]
    codes = [program.wait() for program in programs]
    seconds = time.perf_counter() - started
    kept = len(list(root.rglob("*.dcm")))
    if any(codes) or kept != len(files):
        raise RuntimeError(f"storescu ended with {codes}, {kept} of {len(files)} instances are there")
    after = disk_ms(root.parent / "disk", files[0].stat().st_size)
    return {
        "instances_per_s": len(files) / seconds,
        "mb_per_s": len(files) * files[0].stat().st_size / seconds / 1e6,
        "ms_per_instance": 1000 * seconds / len(files),
        "load": os.getloadavg()[0],
        "disk_alone_ms": (before + after) / 2,
        "receiver_cpu_ms": 1000 * (cpu_s(service.pid) - cpu) / len(files),
    }


def disk_ms(folder: Path, size: int, count: int = 100) -> float:
    """Milliseconds for a file of this size through `Incoming`, without a network."""
    kept, content = Incoming(folder), os.urandom(size)
    started = time.perf_counter()
    for number in range(count):
        kept.store("disk", str(number), (content,))
    milliseconds = 1000 * (time.perf_counter() - started) / count
    shutil.rmtree(folder)
    return milliseconds


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def segmenting(folder: Path) -> Iterator[None]:
    """Segment the example study again and again meanwhile, in another process."""
    code = (
        "from pathlib import Path; from edgeseg import readers, segment\n"
        f"study = readers.find_studies(Path({str(EXAMPLE)!r}))[0]\n"
        "with segment.open_engine() as opened:\n"
        "    print('ready', flush=True)\n"
        f"    while True: segment.segment(study, opened, Path({str(folder / 'out')!r}), segment.Options(('nifti',)))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


# --- kills


def survive(folder: Path, instances: int, kills: int, seed: int) -> dict[str, Any]:
    """Four send until all is acknowledged while the receiver is killed: what was acknowledged, and is not there."""
    draw, root = random.Random(seed), folder / "killed"
    files = make(folder / "small", instances, SMALL)
    contents = dict(map(identity, files))
    acknowledged: set[Path] = set()
    with receiving(root) as (service, kept):
        senders = [
            threading.Thread(target=_until_all, args=(service, files[k::SENDERS], acknowledged)) for k in range(SENDERS)
        ]
        for sender in senders:
            sender.start()
        missing, done = 0, 0
        for number in range(kills):
            goal = (number + draw.random()) * instances / kills
            while len(acknowledged) < goal:
                time.sleep(0.01)
            promised = set(acknowledged)
            os.kill(service.pid, signal.SIGKILL)
            done += 1
            time.sleep(AGAIN_S)  # until the receiver has begun again, and moved what was safe
            missing += len({identity(path) for path in promised} - {identity(path) for path in kept.rglob("*.dcm")})
        for sender in senders:
            sender.join()
        found = dict(identity(path) for path in kept.rglob("*.dcm"))
        partial = len([path for path in (kept / ".arriving").iterdir() if path.stat().st_size])
    return {
        "instances": instances,
        "associations_at_once": SENDERS,
        "kills": done,
        "acknowledged": len(acknowledged),
        "acknowledged_and_missing_after_a_kill": missing,
        "lost": len(contents.items() - found.items()),
        "foreign_or_damaged": len(found.items() - contents.items()),
        "partial_files_left": partial,
    }


def _until_all(service: Listening, files: Sequence[Path], acknowledged: set[Path]) -> None:
    """Send what was not acknowledged yet, as a scanner does, until there is nothing of that."""
    waiting = list(files)
    while waiting:
        command = _command(service.port, waiting, "-v")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as sender:
            assert sender.stdout is not None
            current = Path()
            for line in sender.stdout:
                if "Sending file:" in line:
                    current = Path(line.split("Sending file: ", 1)[1].strip())
                elif "Received Store Response (Success)" in line:
                    acknowledged.add(current)
        waiting = [path for path in waiting if path not in acknowledged]
        time.sleep(PACE_S)


def identity(path: Path) -> tuple[str, int]:
    """An instance's SOPInstanceUID, and a hash of its pixels; reading fails where the file is damaged."""
    import pydicom

    dataset = pydicom.dcmread(path)
    return str(dataset.SOPInstanceUID), hash(dataset.PixelData)


# --- both


@contextmanager
def receiving(root: Path) -> Iterator[tuple[Listening, Path]]:
    """The receiver in its own process on a free port, with its folder."""
    with Listening(Listener(0), root / "in", Monitor(io.StringIO())) as service:
        yield service, root / "in"


def _command(port: int, files: Sequence[Path], *options: str) -> list[str]:
    if STORESCU is None:
        raise RuntimeError("DCMTK's storescu is missing: apt-get install dcmtk")
    return [STORESCU, *options, "127.0.0.1", str(port), *map(str, files)]


def make(folder: Path, count: int, side: int) -> list[Path]:
    """Write MR instances of one study: noise of this many pixels along a side."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    dataset = pydicom.dcmread(next((EXAMPLE / "flair").glob("*.dcm")))
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.Rows = dataset.Columns = side
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.StudyInstanceUID = generate_uid()
    folder.mkdir(parents=True)
    paths = []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 4096, (side, side), dtype=np.uint16)
        dataset.PixelData = pixels.tobytes()
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        paths.append(folder / f"{number:05d}.dcm")
        dataset.save_as(paths[-1])
    return paths


if __name__ == "__main__":
    main()
