"""`edgeseg watch` under SIGKILL: benchmarks/interruptions.py does this a hundred times."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def interruptions(repository: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("interruptions", repository / "benchmarks" / "interruptions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "interruptions", module)
    spec.loader.exec_module(module)
    return module


def test_a_few_kills(interruptions: ModuleType, tmp_path: Path) -> None:
    found = interruptions.interrupt(tmp_path, kills=4, seed=1)
    assert found["studies"] > 1
    assert found["exit_code_at_the_end"] == 0
    bad = ("partial_results", "studies_lost", "results_written_twice", "studies_done_twice", "damaged_queues")
    assert {name: found[name] for name in (*bad, "jobs_more_than_studies", "leftovers")} == dict.fromkeys(
        (*bad, "jobs_more_than_studies", "leftovers"), 0
    )
