"""The values that travel between the rooms: frozen dataclasses, with arrays named by their axes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgeseg.verdict import Agreement as Agreement
from edgeseg.verdict import ParityReport as ParityReport
from edgeseg.verdict import Part as Part

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
Vector = npt.NDArray[np.float64]

ChannelName = Literal["pre", "flair", "post"]
CHANNELS: tuple[ChannelName, ...] = ("pre", "flair", "post")
"""Order of the network's input channels: T1 before contrast, FLAIR, T1 after contrast."""


@dataclass(frozen=True)
class Geometry:
    """Where a volume lies in the patient (DICOM patient coordinates: x to the left, y to posterior, z to the head).

    The centre of voxel ``(s, r, c)`` lies at ``origin_mm + direction @ (spacing_mm * (s, r, c))``.

    Parameters
    ----------
    origin_mm
        Shape (3,), float64: centre of the first voxel, in mm, LPS.
    spacing_mm
        Shape (3,), float64: distance of neighbouring voxel centres along (slice, row, column), in mm.
    direction
        Shape (3, 3), float64, orthonormal: column k is the unit vector, in LPS, along which index k of
        (slice, row, column) grows.
    """

    origin_mm: Vector
    spacing_mm: Vector
    direction: Vector

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in ml."""
        return float(np.prod(self.spacing_mm)) / 1000.0

    def position_mm(self, index: Vector) -> Vector:
        """Patient coordinates in mm, LPS, of an index (..., 3) in (slice, row, column); fractions are allowed."""
        return np.asarray(self.origin_mm + (index * self.spacing_mm) @ self.direction.T)


@dataclass(frozen=True)
class Volume:
    """One sequence.

    Parameters
    ----------
    voxels
        Shape (slice, row, column), float32, in the scanner's own units (rescale slope and intercept applied).
    geometry
        None where the files do not say it (TIFF).
    instance_ids
        One for each slice: SOPInstanceUID, or the file's stem (NIfTI: the file's stem for all).
    """

    voxels: FloatArray
    geometry: Geometry | None
    instance_ids: tuple[str, ...]


@dataclass(frozen=True)
class Alignment:
    """How a T1 came onto the FLAIR grid.

    Parameters
    ----------
    method
        ``"same grid"``, ``"resampled"`` (headers' geometry was right), ``"registered"`` (a rigid motion was added)
        or ``"left out"`` (not to be aligned: the channel is filled with FLAIR).
    shift_mm, rotation_deg
        Size of the rigid motion found: mean displacement of the head's voxels in mm, and rotation angle in degrees.
    similarity_before, similarity_after
        Mutual information (natural logarithm, nats; larger is better) by the headers' geometry and with the motion.
    """

    method: Literal["same grid", "resampled", "registered", "left out"]
    shift_mm: float = 0.0
    rotation_deg: float = 0.0
    similarity_before: float | None = None
    similarity_after: float | None = None


@dataclass(frozen=True)
class ChannelOrigin:
    """How one channel of the network's input was filled.

    Parameters
    ----------
    filled_with
        ``"own"`` when the sequence was there, ``"flair"`` when FLAIR stands in for it.
    series
        Which files: series number and first hash digits for DICOM, file name for NIfTI, position in the file for TIFF.
    reason
        One sentence: why this series was chosen, or why FLAIR stands in.
    alignment
        None where there was nothing to align.
    score
        Points that the rules gave the series; None where there was none, or no choice (TIFF).
    """

    filled_with: Literal["own", "flair"]
    series: str
    reason: str
    alignment: Alignment | None = None
    score: int | None = None


@dataclass(frozen=True)
class Considered:
    """One of the series among which the channels were chosen.

    Parameters
    ----------
    series
        As in `ChannelOrigin`.
    kind
        What the rules took it for.
    score
        Their points for that.
    slices
        How many it has.
    channel
        Which channel it was chosen for, or None.
    """

    series: str
    kind: str
    score: int
    slices: int
    channel: ChannelName | None = None


@dataclass(frozen=True)
class Study:
    """One examination, ready for preprocessing: ``pre`` and ``post`` lie on the FLAIR series' grid already.

    Parameters
    ----------
    uid
        StudyInstanceUID, or the folder's own name.
    name
        Name of the study's output folder: the input folder's name, or the first 12 hex digits of the SHA-256 of the
        StudyInstanceUID.
    source
        Kind of files that it was read from.
    flair, pre, post
        Volumes of the same shape; ``pre`` and ``post`` are None where missing or left out.
    channels
        How each channel was filled.
    headers
        DICOM only: the FLAIR series' pydicom datasets in slice order (one for each slice, or a single one for a
        multi-frame instance), without pixel data; else empty.
    warnings
        Sentences that a person should read.
    considered
        The series among which the channels were chosen; empty for TIFF.
    rules
        Which rules chose: ``"built-in"``, or ``"site"`` and digits of their hash; empty for TIFF.
    """

    uid: str
    name: str
    source: Literal["dicom", "tiff", "nifti"]
    flair: Volume
    pre: Volume | None
    post: Volume | None
    channels: dict[ChannelName, ChannelOrigin]
    headers: tuple[Any, ...] = ()
    warnings: tuple[str, ...] = ()
    considered: tuple[Considered, ...] = ()
    rules: str = ""


@dataclass(frozen=True)
class GridMapping:
    """The way from a FLAIR grid to the network's square slices and back.

    The volume's axes are permuted and flipped to (towards the head, towards posterior, towards the left), which puts
    anterior up and the patient's right at the image's left; each slice is then scaled to square pixels, centred on a
    square and sampled at the network's size.

    Parameters
    ----------
    shape
        The FLAIR grid's (slice, row, column).
    axes
        ``axes[k]`` is the grid's axis that becomes axis k of the oriented volume.
    flips
        Which axes of the oriented volume run backwards in the grid.
    top_px, left_px, height_px, width_px
        Where the slice lies on the network's square, in the network's pixels; fractions are allowed.
    size_px
        Side of the network's square.
    """

    shape: tuple[int, int, int]
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    top_px: float
    left_px: float
    height_px: float
    width_px: float
    size_px: int


@dataclass(frozen=True)
class NetworkInput:
    """What an engine is given: ``slices`` is uint8, (slice, channel, size, size), 0..255, channels pre, FLAIR, post."""

    slices: ByteArray
    mapping: GridMapping


@dataclass(frozen=True)
class Segmentation:
    """What comes out, on the FLAIR series' own grid.

    Parameters
    ----------
    mask
        Shape (slice, row, column), bool: FLAIR abnormality.
    probability
        Shape (slice, row, column), float32, 0..1.
    slice_area_px
        Marked pixels of each slice of the grid.
    volume_ml, slice_area_mm2
        None where the files give no geometry (TIFF).
    timings_ms
        Wall time by step, in ms.
    """

    mask: BoolArray
    probability: FloatArray
    slice_area_px: tuple[int, ...]
    volume_ml: float | None
    slice_area_mm2: tuple[float, ...] | None
    timings_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Preprocessing:
    """How voxels become network input: part of every manifest.

    Parameters
    ----------
    intensity
        ``"volume"``: each sequence is scaled as a whole by the rule of `edgeseg.preprocess.normalise`.
        ``"stored"``: 8-bit values are taken as they are (the published run); others fall back on the rule.
    size_px
        Side of the network's square input.
    version
        Of the rules in `edgeseg.preprocess`: raised when the same voxels would become other input, so that an engine
        that was checked with the earlier rules is refused.
    """

    intensity: Literal["volume", "stored"] = "volume"
    size_px: int = 256
    version: Literal[1] = 1


@dataclass(frozen=True)
class Speed:
    """How fast an engine was, as ``edgeseg benchmark --record`` measured it.

    Parameters
    ----------
    slices_per_second
        At the best batch.
    batch
        The best batch, in slices.
    single_ms
        Median time of a slice at batch 1, in ms.
    runtime, cpu, threads
        What it was measured with: the processor, or the GPU that the engine ran on.
    """

    slices_per_second: float
    batch: int
    single_ms: float
    runtime: str
    cpu: str
    threads: int


@dataclass(frozen=True)
class Manifest:
    """What an engine says of itself (``manifest.json`` of its bundle).

    Parameters
    ----------
    name
        ``<network>-<precision>``.
    network, architecture, encoder
        The network's name, and what segmentation-models-pytorch calls its parts.
    file, sha256
        The network file inside the bundle, and the hash of its bytes.
    weights_sha256
        Hash of the weights that it was exported from.
    precision
        ``fp32``, ``fp16`` or ``int8``: how the file holds its weights.
    inference_precision
        What a runtime has to compute in (OpenVINO's precision hint): ``f32``, ``f16``, ``bf16``.
    runtimes
        Names of the backends that the file is for, best first.
    input, output
        Name, dtype and shape of the network file's input and output.
    preprocessing
        How voxels become input.
    threshold
        Probability at and above which a voxel is marked.
    calibration
        How INT8 ranges arose; None for other precisions.
    tools
        Versions of what built it.
    parity
        Figures of the parity check; None when there was none.
    licence
        Of weights and file.
    files
        SHA-256 of each of the bundle's other files, by name: ``parity.json``, and what a runtime needs besides.
    speed
        How fast it is; None where that was not measured.
    plan
        Facts of the plan that TensorRT runs in place of the network file (its name, hash, runtime, version, GPUs,
        largest batch); None where the network file itself is run.
    verified_on_device
        False until parity has passed where the plan runs; the network file was checked in its place till then.
    format
        Version of this list of fields.
    """

    name: str
    network: str
    architecture: str
    encoder: str
    file: str
    sha256: str
    weights_sha256: str
    precision: Literal["fp32", "fp16", "int8"]
    inference_precision: Literal["f32", "f16", "bf16"]
    runtimes: tuple[str, ...]
    input: dict[str, Any]
    output: dict[str, Any]
    preprocessing: Preprocessing
    threshold: float
    calibration: dict[str, Any] | None
    tools: dict[str, str]
    parity: ParityReport | None
    licence: str
    files: dict[str, str] = field(default_factory=dict)
    speed: Speed | None = None
    plan: dict[str, Any] | None = None
    verified_on_device: bool = True
    format: int = 2
