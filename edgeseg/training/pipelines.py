"""Custom augmentations: the Albumentations 1.1.0 pipelines of a Hydrogen Torch file, run by Albumentations 2.

Hydrogen Torch writes a pipeline as Albumentations serialises it, `IMAGE_HEIGHT` and `IMAGE_WIDTH` standing for the
image size. Names, arguments and defaults have changed since: `edgeseg.training.transforms` translates them.
"""

from __future__ import annotations

import copy
import json
import os
import random
import re
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseg.errors import BackendMissing, ConfigError
from edgeseg.training.transforms import Node, translate
from edgeseg.types import BoolArray, ByteArray


class Pipeline:
    """A pipeline that changes a slice and its mask alike; may be called from several threads.

    Parameters
    ----------
    root
        The translated pipeline.
    height, width
        What it must return, in pixels.
    field
        The configuration's field, for messages.
    """

    def __init__(self, root: Node, height: int, width: int, field: str) -> None:
        self._height, self._width, self._field = height, width, field
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Albumentations warns of transforms that it would rather have renamed
            self._pattern = _import_albumentations().Compose([_build(root, field)])
        self._idle: list[Any] = []

    def __call__(self, slice_: ByteArray, mask: BoolArray, seed: int) -> tuple[ByteArray, BoolArray]:
        """Run the pipeline; the same seed gives the same result.

        Parameters
        ----------
        slice_
            uint8 (3, height, width) of any size, 0..255; left as it is.
        mask
            bool (height, width) of the same size; left as it is.
        seed
            Not negative; everything random in the pipeline comes from it.

        Returns
        -------
        tuple
            uint8 (3, H, W) and bool (H, W) of the configured size.

        Raises
        ------
        ConfigError
            When the pipeline fails on the slice, or returns another size or type.
        """
        compose = self._take()
        # set_random_seed would give every transform the same draws: flips would always come together
        compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        image = np.ascontiguousarray(slice_.transpose(1, 2, 0))
        try:
            result = compose(image=image, mask=mask.astype(np.uint8))
        except Exception as error:  # a transform raises what it likes
            raise ConfigError(
                f"{self._field} fails on a slice of {mask.shape[0]} x {mask.shape[1]}: {_one_line(error)}"
            ) from error
        finally:
            self._idle.append(compose)
        return self._checked(result["image"], result["mask"])

    def _take(self) -> Any:
        """A copy that no other thread uses: each holds its own random state."""
        try:
            return self._idle.pop()
        except IndexError:
            return copy.deepcopy(self._pattern)

    def _checked(self, image: npt.NDArray[Any], mask: npt.NDArray[Any]) -> tuple[ByteArray, BoolArray]:
        expected = (self._height, self._width)
        if image.shape != (*expected, 3) or mask.shape[:2] != expected:
            raise ConfigError(
                f"{self._field} returns {image.shape[0]} x {image.shape[1]}, and image.image_height x image.image_width"
                f" is {self._height} x {self._width}: end it with a Resize to IMAGE_HEIGHT and IMAGE_WIDTH"
            )
        if image.dtype != np.uint8:
            raise ConfigError(f"{self._field} returns {image.dtype}, not uint8: take out what converts or normalises")
        return np.ascontiguousarray(image.transpose(2, 0, 1)), mask.reshape(expected) > 0


def parse(text: str, height: int, width: int, field: str = "augmentation.custom_train_augmentations") -> Pipeline:
    """Read a serialised pipeline; nothing in it is dropped in silence.

    Parameters
    ----------
    text
        The field's value: JSON, in which IMAGE_HEIGHT and IMAGE_WIDTH may stand where a number should.
    height, width
        ``image.image_height`` and ``image.image_width``.
    field
        The field's name, for messages.

    Raises
    ------
    ConfigError
        When it is no serialised pipeline, or names the transform or argument that edgeseg does not know.
    BackendMissing
        When Albumentations is not installed.
    """
    for name, number in (("IMAGE_HEIGHT", height), ("IMAGE_WIDTH", width)):
        text = re.sub(rf'"{name}"|\b{name}\b', str(number), text)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{field} is no serialised Albumentations pipeline: {error.msg} at character {error.pos}"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("transform"), dict):
        raise ConfigError(f"{field} is no serialised Albumentations pipeline: it has no transform")
    version = str(content.get("__version__", "1.1.0"))
    if not version.startswith("1."):
        raise ConfigError(f"{field} is written by Albumentations {version}: edgeseg reads those of version 1")
    return Pipeline(translate(content["transform"], field), height, width, field)


def apply_batch(
    pipeline: Pipeline, slices: ByteArray, masks: BoolArray, seeds: Sequence[int], workers: int
) -> tuple[ByteArray, BoolArray]:
    """Run the pipeline over a batch; the result does not depend on the number of workers.

    Parameters
    ----------
    pipeline
        From `parse`.
    slices, masks
        uint8 (N, 3, height, width) and bool (N, height, width).
    seeds
        N of them, not negative: one for each slice.
    workers
        Threads; 0 runs in the caller's.

    Returns
    -------
    tuple
        uint8 (N, 3, H, W) and bool (N, H, W) of the configured size.
    """
    jobs = slices, masks, seeds
    if workers == 0:
        results = list(map(pipeline, *jobs))
    else:
        with ThreadPoolExecutor(workers) as threads:
            results = list(threads.map(pipeline, *jobs))
    return np.stack([image for image, _ in results]), np.stack([mask for _, mask in results])


def _build(node: Node, field: str) -> Any:
    kind = getattr(_import_albumentations(), node.name)
    try:
        if node.transforms:
            return kind(transforms=[_build(transform, field) for transform in node.transforms], **node.arguments)
        return kind(**node.arguments)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{field}: {node.name} does not take these arguments: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _import_albumentations() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer version
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import albumentations
            import cv2
    except ImportError as error:
        raise BackendMissing(
            f"custom augmentations need Albumentations ({error.name} is not installed): pip install 'edgeseg[train]'"
        ) from error
    cv2.setNumThreads(1)  # the threads are ours
    return albumentations
