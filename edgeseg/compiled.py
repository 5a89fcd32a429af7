"""Networks as a runtime compiled them, kept in the user's cache, so that a second start need not compile again.

What is kept is as good as code, and a runtime takes it unchecked: a damaged one gives other masks without a word. It
lies in a folder that nobody else can write to, under the hash of the network file and of everything else that it hangs
on, and begins with the SHA-256 of its content, which is verified before a runtime sees a byte.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from edgeseg import cache, machine
from edgeseg.types import Manifest

_DIGEST = hashlib.sha256().digest_size


def read(manifest: Manifest, backend: str | None, device: str) -> bytes | None:
    """The network as it was kept by `keep` on this machine; None where there is none, or it is damaged.

    Parameters
    ----------
    manifest
        Of a bundle whose network file was verified.
    backend, device
        As in `edgeseg.backends.open_engine`.
    """
    place = _place(manifest, backend, device)
    try:
        content = place.read_bytes() if place else b""
    except OSError:
        return None
    digest, kept = content[:_DIGEST], content[_DIGEST:]
    return kept if kept and hashlib.sha256(kept).digest() == digest else None


def keep(manifest: Manifest, backend: str | None, device: str, content: bytes | None) -> None:
    """Keep what a runtime compiled; where that cannot be, nothing is lost but the next start's time.

    Parameters
    ----------
    manifest, backend, device
        As in `read`.
    content
        From `edgeseg.backends.Engine.compiled`; None is not kept.
    """
    place = _place(manifest, backend, device)
    if place is None or content is None:
        return
    part = place.with_suffix(f".{os.getpid()}.part")
    try:
        part.write_bytes(hashlib.sha256(content).digest() + content)
        part.replace(place)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _place(manifest: Manifest, backend: str | None, device: str) -> Path | None:
    """File of this network on this machine, which a runtime of another version replaces (it says its own inside)."""
    own = cache.own_folder("compiled")
    if own is None:
        return None
    around = (backend or manifest.runtimes[0], device, manifest.inference_precision, machine.cpu())
    hangs_on = "\n".join((manifest.sha256, *around, *machine.instruction_sets()))
    return own / f"{hashlib.sha256(hangs_on.encode()).hexdigest()}.bin"
