"""What a GPU says of itself and of the time that it took, as plain values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DeviceTimes:
    """One batch on a device by its own clock, its steps one after the other.

    Parameters
    ----------
    batch
        Slices at once.
    upload_ms, compute_ms, download_ms
        Copying them to the device, the network alone, and copying the logits back, in ms for the whole batch.
    """

    batch: int
    upload_ms: float
    compute_ms: float
    download_ms: float


@dataclass(frozen=True)
class DeviceLimits:
    """What a GPU's driver says that it can do; 0 where it does not say.

    Parameters
    ----------
    capability
        Compute capability, such as ``8.9``.
    multiprocessors, clock_khz
        How many, and their highest clock.
    memory_clock_khz, memory_bus_bits
        The memory's highest clock, and the width of its bus.
    """

    capability: str
    multiprocessors: int
    clock_khz: int
    memory_clock_khz: int
    memory_bus_bits: int
