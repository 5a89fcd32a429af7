"""What packages import for uses that edgeseg has not, left out while a command runs that has to start fast."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

UNUSED = (
    "gdcm",  # pydicom only looks whether it is there: `edgeseg.readers.apart` decodes with it, in a process of its own
    "openvino.tools.ovc",  # makes networks of other frameworks' files
    "requests",  # pydicom would fetch test files with it,
    "tqdm",  # and show how far that is
)
"""Their importers do without each of these where it is not installed."""


@contextmanager
def imports() -> Iterator[None]:
    """Let `UNUSED` look as if it were not installed; what has been imported already stays."""
    hidden = [name for name in UNUSED if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # Python's own mark for "not there"
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
