"""Batches killed at random moments: the benchmark's check on a few kills."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_a_few_kills_leave_nothing_half_lost_or_done_twice(repository: Path, tmp_path: Path) -> None:
    script, figures = repository / "benchmarks" / "interruptions_batch.py", tmp_path / "figures.json"
    options = ["--kills", "4", "--studies", "2", "--seed", "7", "--work", str(tmp_path), "--json", str(figures)]
    run = subprocess.run([sys.executable, str(script), *options], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(figures.read_text())
    assert found["kills"] >= 4
    assert sum(found["killed"].values()) == found["kills"]
    assert found["problems"] == []
