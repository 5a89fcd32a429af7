"""`edgeseg` in a process of its own, with a mark on standard error at both ends of a phase: see `edgeseg.startup`.

Nothing is imported at the top: what the command imports has to come after the first mark.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

MARK = "edgeseg-trace"
COMMAND = "the rest"
PHASES = (
    ("edgeseg.readers", "find_studies", "find the study"),
    ("edgeseg.bundle", "read", "verify the engine"),
    ("edgeseg.compiled", "read", "open the engine"),
    ("edgeseg.backends", "open_engine", "open the engine"),
    ("edgeseg.compiled", "keep", "open the engine"),
    ("edgeseg.readers", "read_study", "read the study"),
    ("edgeseg.preprocess", "to_network", "preprocess"),
    ("edgeseg.backends.base:Engine", "predict_logits", "network"),
    ("edgeseg.preprocess", "to_segmentation", "postprocess"),
    ("edgeseg.writers", "write", "write"),
    ("edgeseg.results", "publish", "write"),
)
"""Where each phase is: a module, or a class in it, the name of its function, and what the phase is called."""


def main() -> None:
    """Run the command line with the phases marked."""
    _mark("begin", COMMAND)
    from importlib import import_module

    for place, name, phase in PHASES:
        module, _, cls = place.partition(":")
        owner: Any = import_module(module)
        owner = getattr(owner, cls) if cls else owner
        setattr(owner, name, _marked(getattr(owner, name), phase))
    try:
        import_module("edgeseg.cli").main()
    finally:
        _mark("end", COMMAND)


def _marked(function: Callable[..., Any], phase: str) -> Callable[..., Any]:
    def marked(*given: Any, **named: Any) -> Any:
        _mark("begin", phase)
        try:
            return function(*given, **named)
        finally:
            _mark("end", phase)

    return marked


def _mark(what: str, phase: str) -> None:
    sys.stderr.write(f"{MARK} {time.monotonic_ns()} {what} {phase}\n")
