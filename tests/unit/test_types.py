"""Geometry's arithmetic, and that the values which travel cannot be changed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgeseg import types
from edgeseg.types import Geometry

GRID = Geometry(
    np.array([10.0, -20.0, 30.0]),
    np.array([5.0, 0.5, 2.0]),
    np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]]),
)


def test_the_centre_of_a_voxel() -> None:
    assert GRID.position_mm(np.array([0.0, 0, 0])).tolist() == [10.0, -20.0, 30.0]
    assert GRID.position_mm(np.array([1.0, 2, 3])).tolist() == [10.0 + 3 * 2.0, -20.0 + 2 * 0.5, 30.0 - 5.0]


def test_many_voxels_and_fractions_at_once() -> None:
    index = np.array([[[0.5, 0, 0], [0, 0.5, 0]], [[0, 0, 0.5], [2, 2, 2]]])
    places = GRID.position_mm(index)
    assert places.shape == (2, 2, 3)
    assert places[0, 0].tolist() == [10.0, -20.0, 27.5]
    assert places[1, 0].tolist() == [11.0, -20.0, 30.0]


def test_volume_of_a_voxel_is_in_ml() -> None:
    assert GRID.voxel_ml == pytest.approx(0.005)


def test_channels_are_in_the_networks_order() -> None:
    assert types.CHANNELS == ("pre", "flair", "post")


def test_what_travels_is_frozen() -> None:
    classes = [c for c in vars(types).values() if isinstance(c, type) and dataclasses.is_dataclass(c)]
    assert len(classes) > 10
    for one in classes:
        assert one.__dataclass_params__.frozen, one.__name__  # type: ignore[attr-defined]
        assert one.__doc__
    with pytest.raises(dataclasses.FrozenInstanceError):
        GRID.origin_mm = np.zeros(3)  # type: ignore[misc]
