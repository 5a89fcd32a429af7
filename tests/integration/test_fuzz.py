"""A few hundred damaged inputs of every kind: nothing escapes but edgeseg's own errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

INPUTS = 400
MANY = 40
MEMORY_MB = 2048


def test_damaged_inputs_end_in_errors_of_our_own(repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(repository / "benchmarks" / "fuzz.py"), "--inputs", str(INPUTS), "--seed", "1"]
    run = subprocess.run([*command, "--json", str(tmp_path / "fuzz.json")], capture_output=True, check=False)
    figures = json.loads((tmp_path / "fuzz.json").read_text())
    assert run.returncode == 0, figures
    assert figures["failures"] == 0
    assert figures["inputs"] == INPUTS
    assert figures["peak_memory_mb"] < MEMORY_MB
    for kind, found in figures["kinds"].items():  # both ends are reached: some are refused, of many some are read
        assert found["outcomes"].get("read", 0) < found["inputs"], kind
        assert found["outcomes"].get("read", 0) > 0 or found["inputs"] < MANY, kind
