"""How long each decoder takes for a slice, transfer syntax by transfer syntax, and which one edgeseg takes.

    python benchmarks/decoding.py [--rounds 20] [--json FILE]

The example's FLAIR slices are written in every lossless form that can be written here, and decoded by turns by every
plugin that pydicom finds, and by GDCM in a process of its own, as edgeseg runs it. Milliseconds of wall time a slice of
256 x 256, medians; all decode to the same pixels, or the run ends.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import forms
import numpy as np
import studies

from edgeseg import machine
from edgeseg.readers import apart, pixels

APART = "gdcm, a process of its own"


def main() -> None:
    """Print the table and keep it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "decoding.json")
    arguments = parser.parse_args()
    source = forms.in_place(studies.EXAMPLE / "flair")[7]
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for form in forms.LOSSLESS:
            if missing := forms.missing_encoder(form):
                print(f"{form}: not written, {missing} is missing")
                continue
            path = Path(folder) / "file"
            forms.convert(source, path, form)
            found[form] = _measure(path, arguments.rounds)
            times = ", ".join(f"{name} {ms:.2f}" for name, ms in found[form]["ms"].items())
            print(f"{form}: {times}; edgeseg takes {found[form]['taken']}")
    figures = {"machine": machine.facts(), "rounds": arguments.rounds, "forms": found}
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _measure(path: Path, rounds: int) -> dict[str, Any]:
    """Milliseconds by decoder, fastest first, and the one that edgeseg takes."""
    import pydicom
    from pydicom.pixels import pixel_array
    from pydicom.pixels.decoders.base import get_decoder

    dataset = pydicom.dcmread(path)
    syntax = dataset.file_meta.TransferSyntaxUID
    plugins = get_decoder(syntax).available_plugins
    ways: dict[str, Callable[[], Any]] = {
        name: partial(pixel_array, dataset, decoding_plugin=name) for name in plugins if name != "gdcm"
    }
    if "gdcm" in plugins:
        ways[APART] = partial(apart.decode, path)
    expected = [way() for way in ways.values()]
    if any(not np.array_equal(one, expected[0]) for one in expected):
        raise SystemExit(f"decoders of {syntax.name} do not agree")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    ms = {name: round(1000 * statistics.median(taken), 3) for name, taken in seconds.items()}
    taken = next(name for name in pixels.PLUGINS if name in plugins)
    return {"ms": dict(sorted(ms.items(), key=lambda one: one[1])), "taken": APART if taken == "gdcm" else taken}


if __name__ == "__main__":
    main()
