"""The user's own folder for what can be made again at any time, and may be deleted at any time."""

from __future__ import annotations

import os
import stat
from pathlib import Path

VARIABLE = "EDGESEG_CACHE"
"""Environment variable: a folder in place of the default one, or ``off``."""


def folder(name: str) -> Path | None:
    """Where things of this name are kept, which need not exist; None where the user wants no cache, or has no home."""
    given = os.environ.get(VARIABLE)
    if given is not None:
        return None if given.strip().lower() in ("", "off") else Path(given) / name
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "edgeseg" / name
    except RuntimeError:  # a service's user may have no home
        return None


def own_folder(name: str) -> Path | None:
    """As `folder`, made where it was missing, for what is as good as code: nobody but the user can have written there.

    None besides where it cannot be made, is a link, belongs to somebody else, or is open to others.
    """
    place = folder(name)
    if place is None:
        return None
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = place.lstat()
    except OSError:
        return None
    if not stat.S_ISDIR(facts.st_mode):
        return None
    # Windows has neither; a user's profile is the user's own there.
    private = not hasattr(os, "geteuid") or (facts.st_uid == os.geteuid() and not stat.S_IMODE(facts.st_mode) & 0o077)
    return place if private else None
