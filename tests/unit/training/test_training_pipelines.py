from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from edgeseg.errors import BackendMissing, ConfigError
from edgeseg.training import pipelines, transforms
from edgeseg.types import BoolArray, ByteArray

SEED_FIELD = (
    '{"__version__": "1.1.0", "transform": {"__class_fullname__": "Compose", "p": 1.0, "transforms": '
    '[{"__class_fullname__": "Resize", "always_apply": true, "p": 1, "height": IMAGE_HEIGHT, "width": IMAGE_WIDTH, '
    '"interpolation": 1}], "bbox_params": null, "keypoint_params": null, "additional_targets": {}}}'
)
"""The published run's own value, and the one that Hydrogen Torch writes where nobody chose another."""
SIZE = 64


def _text(*inside: dict[str, Any], resize: bool = True, **around: Any) -> str:
    last = [{"__class_fullname__": "Resize", "height": "IMAGE_HEIGHT", "width": "IMAGE_WIDTH"}] if resize else []
    compose = {"__class_fullname__": "Compose", "p": 1.0, "transforms": [*inside, *last], **around}
    return json.dumps({"__version__": "1.1.0", "transform": compose})


def _named(name: str, **arguments: Any) -> dict[str, Any]:
    return {"__class_fullname__": name, **arguments}


def _pair(size: int = SIZE) -> tuple[ByteArray, BoolArray]:
    """Noise with an off-centre rectangle that all channels and the mask share."""
    mask = np.zeros((size, size), dtype=bool)
    mask[size // 8 : size // 2, size // 5 : size // 3] = True
    slice_ = np.random.default_rng(1).integers(0, 100, (3, size, size), dtype=np.uint8)
    return np.where(mask, np.uint8(250), slice_), mask


def _parse(*inside: dict[str, Any], size: int = SIZE) -> pipelines.Pipeline:
    return pipelines.parse(_text(*inside), size, size)


def test_the_published_pipeline_leaves_a_slice_of_its_size_alone() -> None:
    slice_, mask = _pair()
    same, same_mask = pipelines.parse(SEED_FIELD, SIZE, SIZE)(slice_, mask, 3)
    assert np.array_equal(same, slice_)
    assert np.array_equal(same_mask, mask)


def test_the_image_size_stands_in_the_text() -> None:
    slice_, mask = _pair()
    small, small_mask = pipelines.parse(SEED_FIELD, 32, 48)(slice_, mask, 3)
    assert small.shape == (3, 32, 48)
    assert small.dtype == np.uint8
    assert small_mask.shape == (32, 48)
    assert small_mask.dtype == bool
    assert np.array_equal(small_mask, mask[::2, [round(k * 64 / 48 - 0.1) for k in range(48)]])


def test_the_seed_decides() -> None:
    pipeline = _parse(_named("ShiftScaleRotate", p=1.0), _named("GaussNoise", p=1.0))
    first, again, other = (pipeline(*_pair(), seed) for seed in (1, 1, 2))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[1], other[1])


def test_transforms_are_drawn_independently() -> None:
    pipeline = _parse(_named("HorizontalFlip"), _named("VerticalFlip"))
    slice_, mask = _pair()
    ways = [slice_, slice_[..., ::-1], slice_[:, ::-1], slice_[:, ::-1, ::-1]]
    counts = [0, 0, 0, 0]
    for seed in range(200):
        result = pipeline(slice_, mask, seed)[0]
        counts[next(k for k, way in enumerate(ways) if np.array_equal(way, result))] += 1
    assert min(counts) > 30


def test_slice_and_mask_move_together_and_the_given_ones_stay() -> None:
    slice_, mask = _pair()
    moved, moved_mask = _parse(_named("Flip", always_apply=True), _named("Transpose", always_apply=True))(
        slice_, mask, 5
    )
    assert np.array_equal((moved == 250).all(0), moved_mask)
    assert not np.array_equal(moved_mask, mask)
    assert np.array_equal(slice_, _pair()[0])
    assert np.array_equal(mask, _pair()[1])


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_do_not_change_a_batch(workers: int) -> None:
    pipeline = _parse(_named("OneOf", transforms=[_named("Rotate"), _named("GridDistortion")], p=0.9), _named("CLAHE"))
    slice_, mask = _pair()
    slices, masks = np.stack([slice_] * 12), np.stack([mask] * 12)
    seeds = range(12)
    alone, threads = (pipelines.apply_batch(pipeline, slices, masks, seeds, count) for count in (0, workers))
    assert np.array_equal(alone[0], threads[0])
    assert np.array_equal(alone[1], threads[1])
    assert len({image.tobytes() for image in alone[0]}) > 6


@pytest.mark.parametrize("name", sorted(transforms._TRANSFORMS))
def test_every_known_transform_runs_with_the_defaults_of_1_1_0(name: str) -> None:
    import albumentations

    needed = {"height": SIZE, "width": SIZE, "min_max_height": [32, 48]}
    known = transforms._TRANSFORMS[name].arguments
    arguments = {key: needed[key] for key, value in known.items() if value is transforms._NEEDED}
    written = _named(name, always_apply=True, **arguments, **({"alpha_affine": 0} if "alpha_affine" in known else {}))
    node = transforms.translate(written, "here")
    assert node.arguments["p"] == 1.0
    if not node.transforms:
        assert node.arguments.keys() <= inspect.signature(getattr(albumentations, node.name)).parameters.keys()
    image, mask = _parse(written)(*_pair(), 4)
    assert image.shape == (3, SIZE, SIZE)
    assert mask.any()


@pytest.mark.parametrize(
    ("written", "name", "arguments"),
    [
        (
            _named(
                "albumentations.augmentations.crops.transforms.RandomResizedCrop", height=9, width=7, scale=[0.5, 1]
            ),
            "RandomResizedCrop",
            {"size": (9, 7), "scale": (0.5, 1), "ratio": (0.75, 4 / 3), "interpolation": 1, "p": 1.0},
        ),
        (
            _named("CoarseDropout", max_holes=8, max_height=0.1, max_width=16, min_holes=2, min_width=4, p=0.3),
            "CoarseDropout",
            {"num_holes_range": (2, 8), "hole_height_range": (0.1, 0.1), "hole_width_range": (4, 16), "p": 0.3}
            | {"fill": 0, "fill_mask": None},
        ),
        (
            _named("Cutout", num_holes=3),
            "CoarseDropout",
            {"num_holes_range": (3, 3), "hole_height_range": (8, 8), "hole_width_range": (8, 8), "fill": 0, "p": 0.5},
        ),
        (
            _named("Rotate", limit=[-9, 9], value=None, always_apply=True, p=0.1),
            "Rotate",
            {"limit": (-9, 9), "interpolation": 1, "border_mode": 4, "fill": 0, "fill_mask": 0, "p": 1.0},
        ),
        (
            _named("GaussNoise", var_limit=[0, 65.025]),
            "GaussNoise",
            {
                "std_range": (0.0, pytest.approx(65.025**0.5 / 255)),
                "mean_range": (0.0, 0.0),
                "per_channel": True,
                "p": 0.5,
            },
        ),
        (_named("MedianBlur"), "MedianBlur", {"blur_limit": (3, 7), "p": 0.5}),
        (
            _named("RandomBrightness"),
            "RandomBrightnessContrast",
            {"brightness_limit": 0.2, "contrast_limit": (0, 0), "p": 0.5},
        ),
        (_named("RandomGamma", eps=None), "RandomGamma", {"gamma_limit": (80, 120), "p": 0.5}),
        (_named("RandomRotate90"), "RandomRotate90", {"p": 0.5}),
    ],
)
def test_names_and_arguments_are_translated(written: dict[str, Any], name: str, arguments: dict[str, Any]) -> None:
    node = transforms.translate(written, "here")
    assert node.name == name
    assert node.arguments == arguments


def test_a_blur_without_sigma_takes_the_one_of_its_size() -> None:
    node = transforms.translate(_named("GaussianBlur", blur_limit=[3, 7], sigma_limit=[0, 0], p=0.4), "here")
    assert (node.name, node.arguments) == ("OneOf", {"p": 0.4})
    assert [t.arguments["blur_limit"] for t in node.transforms] == [(3, 3), (5, 5), (7, 7)]
    assert [t.arguments["sigma_limit"][0] for t in node.transforms] == pytest.approx([0.8, 1.1, 1.4])


def test_some_of_takes_what_it_takes_for_certain() -> None:
    inside = [_named("HorizontalFlip"), _named("VerticalFlip"), _named("Transpose")]
    node = transforms.translate(_named("SomeOf", n=3, replace=False, transforms=inside), "here")
    assert node.arguments == {"p": 1.0, "n": 3, "replace": False}
    assert [t.arguments["p"] for t in node.transforms] == [1.0, 1.0, 1.0]
    slice_, mask = _pair()
    changed, _ = _parse(_named("SomeOf", n=3, replace=False, transforms=inside))(slice_, mask, 1)
    turned = np.rot90(slice_, 2, (1, 2)).transpose(0, 2, 1)
    assert np.array_equal(changed, turned)


def test_one_or_other_and_nothing_at_all() -> None:
    flips = {"first": _named("HorizontalFlip"), "second": _named("VerticalFlip")}
    slice_, mask = _pair()
    seen = {_parse(_named("OneOrOther", **flips))(slice_, mask, seed)[0].tobytes() for seed in range(20)}
    assert seen == {np.ascontiguousarray(way).tobytes() for way in (slice_[..., ::-1], slice_[:, ::-1])}
    assert np.array_equal(_parse(_named("Compose", transforms=[]))(slice_, mask, 1)[0], slice_)


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        (_named("RandomSnow"), "the transform 'RandomSnow' is not supported"),
        (_named("HorizontalFlip", speed=1), "HorizontalFlip has the argument 'speed'"),
        (_named("RandomResizedCrop", height=3), "RandomResizedCrop lacks the argument 'width'"),
        (_named("Normalize", mean=[0, 0, 0]), "image.image_normalization"),
        (_named("pytorch.ToTensorV2"), "edgeseg makes tensors itself"),
        (_named("ElasticTransform", alpha=3), "ElasticTransform: alpha_affine is 50"),
        (_named("OpticalDistortion", shift_limit=3), "shift_limit is 3"),
        (_named("Rotate", limit="far"), "Rotate does not take these arguments"),
        (_named("Blur", blur_limit=[3]), "Blur has arguments that cannot be read"),
        (_named("GaussianBlur", blur_limit=[4, 4]), "GaussianBlur: blur_limit is (4, 4)"),
        (_named("OneOf", transforms=3), "OneOf has no list of transforms"),
        (_named("SomeOf", n=9, replace=False, transforms=[_named("Transpose")]), "SomeOf has n 9"),
        (_named("SomeOf", n=1, transforms=[_named("Transpose", p=1), _named("Flip")]), "unlike p"),
        (_named("Sequential", speed=1), "Sequential has the argument 'speed'"),
    ],
)
def test_what_is_not_known_is_refused(inside: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=r"augmentation\.custom_train_augmentations") as caught:
        _parse(inside)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no serialised Albumentations pipeline"),
        ("[1]", "it has no transform"),
        ('{"transform": {"__class_fullname__": "Resize", "height": 3', "at character"),
        ('{"__version__": "2.0.8", "transform": {}}', "written by Albumentations 2.0.8"),
        (_text(bbox_params={"format": "coco"}), "Compose has bbox_params"),
        (_text(additional_targets={"image0": "image"}), "Compose has additional_targets"),
    ],
)
def test_what_is_no_pipeline_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"^here") as caught:
        pipelines.parse(text, SIZE, SIZE, field="here")
    assert said in str(caught.value)


def test_a_single_transform_is_a_pipeline() -> None:
    single = json.dumps({"transform": _named("Resize", height=20, width=30)})
    assert pipelines.parse(single, 20, 30)(*_pair(), 1)[0].shape == (3, 20, 30)


def test_another_size_than_the_configured_one_is_refused() -> None:
    crop = _text(_named("RandomCrop", height=20, width=30), resize=False)
    with pytest.raises(ConfigError, match=r"returns 20 x 30, and .* is 64 x 64: end it with a Resize"):
        pipelines.parse(crop, SIZE, SIZE)(*_pair(), 1)


def test_a_pipeline_that_fails_says_on_what() -> None:
    with pytest.raises(ConfigError, match=r"fails on a slice of 64 x 64: .*[Cc]rop"):
        _parse(_named("CenterCrop", height=200, width=200))(*_pair(), 1)


def test_missing_albumentations_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "albumentations", None)
    with pytest.raises(BackendMissing, match=r"pip install 'edgeseg\[train\]'"):
        pipelines.parse(SEED_FIELD, SIZE, SIZE)


def test_nothing_is_warned_of_and_no_network_asked() -> None:
    """In a process of its own: Albumentations asks for a newer version, and warns, when it is imported."""
    code = (
        "import socket\n"
        "def refuse(*_, **__): raise SystemExit('asked the network')\n"
        "socket.getaddrinfo = socket.create_connection = refuse\n"
        "from edgeseg.training import pipelines\n"
        f"pipelines.parse({_text(_named('ShiftScaleRotate'))!r}, 64, 64)\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout == ""
