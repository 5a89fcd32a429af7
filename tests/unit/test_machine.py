"""What is said of the machine, here and from files of other machines."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from edgeseg import machine

INTEL = "processor\t: 0\nmodel name\t: A Xeon\nflags\t\t: fpu avx2 avx512f avx512_vnni amx_int8\n\nprocessor\t: 1\n"
ARM = "processor\t: 0\nBogoMIPS\t: 62.5\nFeatures\t: fp asimd asimddp\n\n"


@pytest.mark.parametrize(
    ("text", "cpu", "sets"),
    [
        (INTEL, "A Xeon", ("avx2", "avx512f", "avx512_vnni", "amx_int8")),
        (ARM, "aarch64", ("asimddp",)),
        ("", "aarch64", ()),
    ],
)
def test_the_processor(
    text: str, cpu: str, sets: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(text, encoding="utf-8")
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert (machine.cpu(), machine.instruction_sets()) == (cpu, sets)


def test_a_system_without_these_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_CPUINFO", "_STATUS", "_RESET"):
        monkeypatch.setattr(machine, name, tmp_path / "no" / name)
    assert machine.instruction_sets() == ()
    assert machine.resident_mb() is None
    assert not machine.reset_peak()


def test_the_facts() -> None:
    facts = machine.facts()
    assert facts["cores"] == machine.cores() >= 1
    assert facts["versions"]["numpy"] == np.__version__
    assert facts["versions"]["openvino"] == metadata.version("openvino")


def test_memory_that_was_taken_and_given_back_is_in_the_peak() -> None:
    if not machine.reset_peak():
        pytest.skip("this system does not let a process reset its peak")
    before = machine.resident_mb()
    held = np.ones(25_000_000)
    del held
    peak = machine.resident_mb(peak=True)
    assert before is not None
    assert peak is not None
    assert 150 < peak - before < 400
