"""Two workers of one core against one on a Ray cluster of this machine: how many more studies a second?

    python benchmarks/cluster.py [--studies 24] [--slices 15] [--rounds 5] [--engine NAME] [--json FILE]

Each round segments the same new DICOM studies, three series each, with one worker and with two, by turns, on a cluster
that is begun for it with as many cores; each worker is pinned to its own. What Ray and the engine take to begin is told
apart: the speed is that of the studies between the first `SKIPPED` outcomes and the last. Who hands the studies out is
a third process, which waits. The ratio is the median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

import archive

from edgeseg import bundle, cluster, machine, readers

BAR = 1.8
SKIPPED = 2
"""Outcomes at either end that are not counted: workers begin at other moments, and end alone."""


def main() -> None:
    """Print the figures and keep them."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # by this name Ray lets a cluster stay on loopback
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--studies", type=int, default=24)
    parser.add_argument("--slices", type=int, default=15, help="of each series, from the middle of the example's 15")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engine", default=bundle.DEFAULT_ENGINE)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "cluster.json")
    arguments = parser.parse_args()
    if arguments.studies < 4 * SKIPPED:
        parser.error(f"--studies has to be at least {4 * SKIPPED}")
    with tempfile.TemporaryDirectory() as work:
        originals = archive.middle(arguments.slices, ["pre", "flair", "post"])
        for number in range(arguments.studies):
            archive.copy_study(Path(work) / "archive" / f"{number:05d}", number, originals)
        rounds = [_round(Path(work), arguments.engine, number) for number in range(arguments.rounds)]
    figures = {
        "machine": {**machine.facts(), "ray": metadata.version("ray")},
        "engine": arguments.engine,
        "studies": arguments.studies,
        "slices": arguments.slices,
        "ratio": round(statistics.median(one["ratio"] for one in rounds), 3),
        "bar": BAR,
        "rounds": rounds,
    }
    print(f"two workers against one: {figures['ratio']:.2f} times (bar {BAR})")
    arguments.json.parent.mkdir(exist_ok=True)
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _round(work: Path, engine: str, number: int) -> dict[str, Any]:
    """One and two workers, the first of them by turns."""
    found = {}
    for workers in (1, 2) if number % 2 == 0 else (2, 1):
        found[workers] = _run(work, engine, workers)
    ratio = found[2]["studies_per_second"] / found[1]["studies_per_second"]
    row = {"one": found[1], "two": found[2], "ratio": round(ratio, 3)}
    print(json.dumps(row), flush=True)
    return row


def _run(work: Path, engine: str, workers: int) -> dict[str, float]:
    """Studies a second of so many workers, and seconds until the first outcome and to the end."""
    found, output = readers.find_studies(work / "archive"), work / "results"
    with _ray(workers) as address:
        started, ended = time.perf_counter(), []
        for outcome in cluster.run(found, cluster.workers(address, 1, engine), output):
            if outcome.error is not None:
                raise SystemExit(str(outcome.error))
            ended.append(time.perf_counter() - started)
    shutil.rmtree(output)
    # An even number of studies: two workers that keep step end theirs in pairs.
    counted = (len(ended) - 2 * SKIPPED - 1) // 2 * 2
    return {
        "studies_per_second": round(counted / (ended[SKIPPED + counted] - ended[SKIPPED]), 4),
        "first_s": round(ended[0], 2),
        "total_s": round(ended[-1], 2),
    }


@contextmanager
def _ray(cores: int) -> Iterator[str]:
    """A cluster of this machine with so many cores, on loopback."""
    from ray.cluster_utils import Cluster

    given = {"num_cpus": cores, "node_ip_address": "127.0.0.1", "include_dashboard": False}
    machines = Cluster(initialize_head=True, head_node_args={**given, "object_store_memory": 100_000_000})
    try:
        yield machines.address
    finally:
        machines.shutdown()


if __name__ == "__main__":
    main()
