"""Mixed precision where the machine has it, FP32 where it would be emulated."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeseg.training import config as configuration
from edgeseg.training import precision

PUBLISHED = replace(configuration.load(), mixed_precision=True, mixed_precision_validation=True)


@pytest.mark.parametrize("there", [True, False])
def test_a_cpu_trains_in_bfloat16_only_where_it_computes_in_it(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: there)
    found = precision.affordable(PUBLISHED, torch.device("cpu"))
    assert (found.mixed_precision, found.mixed_precision_validation) == (there, there)
    said = precision.describe(PUBLISHED, "CPU, 2 threads")
    assert said == "mixed, bfloat16" if there else said.startswith("float32: ") and "BF16" in said


def test_a_gpu_takes_the_configurations_own_type(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: False)
    assert precision.affordable(PUBLISHED, torch.device("cuda")) is PUBLISHED
    assert precision.half_type(torch.device("cuda"), "float16") == torch.float16
    assert precision.describe(PUBLISHED, "GPU 0") == "mixed, float16"


def test_single_precision_is_left_alone() -> None:
    assert precision.describe(replace(PUBLISHED, mixed_precision=False), "CPU") == "float32"


def test_this_cpu_says_which_it_has() -> None:
    import torch

    assert precision.cpu_has_bfloat16() in (True, False)
    assert precision.half_type(torch.device("cpu"), "float16") == torch.bfloat16
