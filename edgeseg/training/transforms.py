"""Transforms of Albumentations 1.1.0 in the words of Albumentations 2: names, arguments, and the defaults of then."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from edgeseg.errors import ConfigError


@dataclass(frozen=True)
class Node:
    """A transform of Albumentations 2 with its arguments, or a composition with the transforms in it."""

    name: str
    arguments: dict[str, Any]
    transforms: tuple[Node, ...] = ()


Arguments = dict[str, Any]


@dataclass(frozen=True)
class _Transform:
    """A transform of 1.1.0: its arguments with their defaults, its probability, and how it is said today."""

    arguments: Arguments
    p: float = 0.5
    name: str = ""
    say: Callable[[Arguments], Arguments] = field(default=lambda arguments: arguments)


_NEEDED = object()
_RENAMED = {
    "value": "fill",
    "mask_value": "fill_mask",
    "fill_value": "fill",
    "mask_fill_value": "fill_mask",
    "pad_mode": "border_mode",
    "pad_val": "fill",
    "mask_pad_val": "fill_mask",
}
_BORDER = {"interpolation": 1, "border_mode": 4, "value": None, "mask_value": None}
_SIZE = {"height": _NEEDED, "width": _NEEDED}
_REFUSED = {
    "Normalize": "the network normalises inside: set image.image_normalization, and take it out",
    "ToFloat": "the network takes bytes and normalises inside: take it out",
    "FromFloat": "the network takes bytes and normalises inside: take it out",
    "ToTensor": "edgeseg makes tensors itself: take it out",
    "ToTensorV2": "edgeseg makes tensors itself: take it out",
    "Lambda": "a function cannot be read from a file: take it out",
}


def translate(content: Arguments, where: str) -> Node:
    """A serialised transform, and all in it, as Albumentations 2 builds it.

    Parameters
    ----------
    content
        One ``transform`` of the serialised pipeline, lists and numbers as JSON gives them.
    where
        The configuration's field, for messages.

    Raises
    ------
    ConfigError
        Names the transform or argument that is not known, with the reason where there is one.
    """
    given = {key: _tuples(value) for key, value in content.items() if key != "__class_fullname__"}
    name = str(content.get("__class_fullname__", "")).rpartition(".")[2]
    if name in _REFUSED:
        raise ConfigError(f"{where}: {name} cannot be part of it: {_REFUSED[name]}")
    if name in _COMPOSITIONS:
        return _composition(name, given, where)
    if name not in _TRANSFORMS:
        raise ConfigError(f"{where}: the transform {name!r} is not supported: use of {', '.join(sorted(_TRANSFORMS))}")
    known = _TRANSFORMS[name]
    unknown = sorted(given.keys() - known.arguments.keys() - {"p", "always_apply"})
    if unknown:
        raise ConfigError(
            f"{where}: {name} has the argument {unknown[0]!r}, which Albumentations 1.1.0 does not know: it takes "
            f"{', '.join([*known.arguments, 'p', 'always_apply'])}"
        )
    missing = [key for key, value in known.arguments.items() if value is _NEEDED and key not in given]
    if missing:
        raise ConfigError(f"{where}: {name} lacks the argument {missing[0]!r}")
    p = 1.0 if given.pop("always_apply", False) else given.pop("p", known.p)
    given.pop("p", None)
    try:
        arguments = known.say({**known.arguments, **given})
    except (TypeError, ValueError, IndexError) as error:
        raise ConfigError(f"{where}: {name} has arguments that cannot be read: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{where}: {name}: {error}") from None
    return _node(name, known.name or name, arguments, p)


def _node(old: str, name: str, arguments: Arguments, p: float) -> Node:
    if old == "Flip":
        both = tuple(Node(way, {"p": 1.0}) for way in ("HorizontalFlip", "VerticalFlip"))
        return Node("OneOf", {"p": p}, (*both, Node("Sequential", {"p": 1.0}, both)))
    if old == "GaussianBlur" and arguments["sigma_limit"] == (0, 0):
        return Node("OneOf", {"p": p}, tuple(_gaussian(size) for size in _odd(arguments["blur_limit"])))
    renamed = {_RENAMED.get(key, key): value for key, value in arguments.items()}
    if "border_mode" in renamed:  # None was the default, and black
        renamed.update({key: 0 for key in ("fill", "fill_mask") if renamed[key] is None})
    return Node(name, {**renamed, "p": p})


_COMPOSITIONS: dict[str, tuple[Arguments, float]] = {
    "Compose": (
        {"bbox_params": None, "keypoint_params": None, "additional_targets": None, "is_check_shapes": True},
        1.0,
    ),
    "Sequential": ({}, 0.5),
    "OneOf": ({}, 0.5),
    "SomeOf": ({"n": _NEEDED, "replace": True}, 1.0),
    "OneOrOther": ({"first": None, "second": None}, 0.5),
}


def _composition(name: str, given: Arguments, where: str) -> Node:
    arguments, p = _COMPOSITIONS[name]
    unknown = sorted(given.keys() - arguments.keys() - {"p", "always_apply", "transforms"})
    if unknown:
        raise ConfigError(f"{where}: {name} has the argument {unknown[0]!r}, which edgeseg does not know")
    for key in ("bbox_params", "keypoint_params", "additional_targets"):
        if given.get(key):
            raise ConfigError(f"{where}: {name} has {key}, and there are a slice and its mask alone: set it to null")
    inside = given.get("transforms") or tuple(given[key] for key in ("first", "second") if given.get(key))
    if not isinstance(inside, tuple) or not all(isinstance(transform, dict) for transform in inside):
        raise ConfigError(f"{where}: {name} has no list of transforms")
    transforms = tuple(translate(transform, where) for transform in inside)
    chance = {"p": given.get("p", p)}
    if not transforms:
        return Node("NoOp", chance)
    if name != "SomeOf":
        return Node(name, chance, transforms)
    if len({transform.arguments["p"] for transform in transforms}) > 1:
        raise ConfigError(
            f"{where}: SomeOf holds transforms of unlike p, and Albumentations 2 chooses evenly: equal them"
        )
    count, replace = given.get("n"), bool(given.get("replace", True))
    if not isinstance(count, int) or not count >= 1 or (not replace and count > len(transforms)):
        raise ConfigError(f"{where}: SomeOf has n {count!r}: expected a number from 1 to the {len(transforms)} in it")
    certain = tuple(Node(t.name, {**t.arguments, "p": 1.0}, t.transforms) for t in transforms)
    return Node(name, {**chance, "n": count, "replace": replace}, certain)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _pair(value: Any, low: float) -> tuple[Any, Any]:
    """As 1.1.0 read a range: a number is from ``low`` to it."""
    if isinstance(value, tuple):
        first, last = value
        return first, last
    return min(low, value), max(low, value)


def _odd(limits: tuple[int, int]) -> list[int]:
    return [size for size in range(max(3, limits[0]), max(3, limits[1]) + 1) if size % 2]


def _gaussian(size: int) -> Node:
    """Sigma 0 let OpenCV choose it by the kernel's size."""
    sigma = 0.3 * ((size - 1) * 0.5 - 1) + 0.8
    return Node("GaussianBlur", {"blur_limit": (size, size), "sigma_limit": (sigma, sigma), "p": 1.0})


def _say_blur(a: Arguments) -> Arguments:
    return {**a, "blur_limit": _pair(a["blur_limit"], 3)}


def _say_gaussian_blur(a: Arguments) -> Arguments:
    said = {"blur_limit": _pair(a["blur_limit"], 0), "sigma_limit": _pair(a["sigma_limit"], 0)}
    if said["sigma_limit"] == (0, 0) and not _odd(said["blur_limit"]):
        raise ConfigError(f"blur_limit is {a['blur_limit']}: expected a range with an odd number in it")
    return said


def _say_sized(a: Arguments) -> Arguments:
    rest = {key: value for key, value in a.items() if key not in ("height", "width")}
    return {**rest, "size": (a["height"], a["width"])}


def _say_coarse_dropout(a: Arguments) -> Arguments:
    ranges = {}
    for new, old in (("num_holes", "holes"), ("hole_height", "height"), ("hole_width", "width")):
        high, low = a[f"max_{old}"], a[f"min_{old}"]
        ranges[f"{new}_range"] = (high if low is None else low, high)
    return {**ranges, "fill": a["fill_value"], "fill_mask": a["mask_fill_value"]}


def _say_cutout(a: Arguments) -> Arguments:
    pairs = (("num_holes_range", "num_holes"), ("hole_height_range", "max_h_size"), ("hole_width_range", "max_w_size"))
    return {**{new: (a[old], a[old]) for new, old in pairs}, "fill": a["fill_value"]}


def _say_gauss_noise(a: Arguments) -> Arguments:
    low, high = (math.sqrt(v) / 255 for v in _pair(a["var_limit"], 0))
    return {"std_range": (low, high), "mean_range": (a["mean"] / 255,) * 2, "per_channel": a["per_channel"]}


def _say_elastic(a: Arguments) -> Arguments:
    if a["alpha_affine"]:
        raise ConfigError(
            f"alpha_affine is {a['alpha_affine']}, and Albumentations 2 has none: set it to 0, and add a "
            "ShiftScaleRotate"
        )
    rest = {key: value for key, value in a.items() if key != "alpha_affine"}
    return {**rest, "noise_distribution": "uniform"}


def _say_optical(a: Arguments) -> Arguments:
    if max(map(abs, _pair(a["shift_limit"], 0))) >= 0.5:
        raise ConfigError(f"shift_limit is {a['shift_limit']}, and Albumentations 2 has none: set it to 0")
    return {key: value for key, value in a.items() if key != "shift_limit"}  # below half a pixel it was rounded to none


def _say_affine(a: Arguments) -> Arguments:
    words = {"mode": "border_mode", "cval": "fill", "cval_mask": "fill_mask"}
    return {words.get(key, key): value for key, value in a.items() if value is not None}


_TRANSFORMS: dict[str, _Transform] = {
    "Affine": _Transform(
        {"scale": None, "translate_percent": None, "translate_px": None, "rotate": None, "shear": None}
        | {"interpolation": 1, "mask_interpolation": 0, "cval": 0, "cval_mask": 0, "mode": 0, "fit_output": False},
        say=_say_affine,
    ),
    "Blur": _Transform({"blur_limit": 7}, say=_say_blur),
    "CLAHE": _Transform({"clip_limit": 4.0, "tile_grid_size": (8, 8)}),
    "CenterCrop": _Transform(_SIZE, p=1.0),
    "ChannelDropout": _Transform({"channel_drop_range": (1, 1), "fill_value": 0}),
    "ChannelShuffle": _Transform({}),
    "CoarseDropout": _Transform(
        {"max_holes": 8, "max_height": 8, "max_width": 8, "min_holes": None, "min_height": None, "min_width": None}
        | {"fill_value": 0, "mask_fill_value": None},
        say=_say_coarse_dropout,
    ),
    "Cutout": _Transform(
        {"num_holes": 8, "max_h_size": 8, "max_w_size": 8, "fill_value": 0}, name="CoarseDropout", say=_say_cutout
    ),
    "ElasticTransform": _Transform(
        {"alpha": 1, "sigma": 50, "alpha_affine": 50, **_BORDER, "approximate": False, "same_dxdy": False},
        say=_say_elastic,
    ),
    "Equalize": _Transform({"mode": "cv", "by_channels": True, "mask": None, "mask_params": ()}),
    "Flip": _Transform({}),
    "GaussNoise": _Transform({"var_limit": (10.0, 50.0), "mean": 0, "per_channel": True}, say=_say_gauss_noise),
    "GaussianBlur": _Transform({"blur_limit": (3, 7), "sigma_limit": 0}, say=_say_gaussian_blur),
    "GridDistortion": _Transform(
        {"num_steps": 5, "distort_limit": 0.3, **_BORDER}, say=lambda a: {**a, "normalized": False}
    ),
    "HorizontalFlip": _Transform({}),
    "HueSaturationValue": _Transform({"hue_shift_limit": 20, "sat_shift_limit": 30, "val_shift_limit": 20}),
    "InvertImg": _Transform({}),
    "LongestMaxSize": _Transform({"max_size": 1024, "interpolation": 1}, p=1.0),
    "MedianBlur": _Transform({"blur_limit": 7}, say=_say_blur),
    "MotionBlur": _Transform({"blur_limit": 7}, say=_say_blur),
    "MultiplicativeNoise": _Transform({"multiplier": (0.9, 1.1), "per_channel": False, "elementwise": False}),
    "NoOp": _Transform({}),
    "OpticalDistortion": _Transform({"distort_limit": 0.05, "shift_limit": 0.05, **_BORDER}, say=_say_optical),
    "PadIfNeeded": _Transform(
        {"min_height": 1024, "min_width": 1024, "pad_height_divisor": None, "pad_width_divisor": None}
        | {"position": "center", "border_mode": 4, "value": None, "mask_value": None},
        p=1.0,
    ),
    "Perspective": _Transform(
        {"scale": (0.05, 0.1), "keep_size": True, "pad_mode": 0, "pad_val": 0, "mask_pad_val": 0, "fit_output": False}
        | {"interpolation": 1},
    ),
    "RGBShift": _Transform({"r_shift_limit": 20, "g_shift_limit": 20, "b_shift_limit": 20}),
    "RandomBrightness": _Transform(
        {"limit": 0.2},
        name="RandomBrightnessContrast",
        say=lambda a: {"brightness_limit": a["limit"], "contrast_limit": (0, 0)},
    ),
    "RandomBrightnessContrast": _Transform({"brightness_limit": 0.2, "contrast_limit": 0.2, "brightness_by_max": True}),
    "RandomContrast": _Transform(
        {"limit": 0.2},
        name="RandomBrightnessContrast",
        say=lambda a: {"brightness_limit": (0, 0), "contrast_limit": a["limit"]},
    ),
    "RandomCrop": _Transform(_SIZE, p=1.0),
    "RandomGamma": _Transform({"gamma_limit": (80, 120), "eps": None}, say=lambda a: {"gamma_limit": a["gamma_limit"]}),
    "RandomResizedCrop": _Transform(
        {**_SIZE, "scale": (0.08, 1.0), "ratio": (0.75, 4 / 3), "interpolation": 1}, p=1.0, say=_say_sized
    ),
    "RandomRotate90": _Transform({}),
    "RandomScale": _Transform({"scale_limit": 0.1, "interpolation": 1}),
    "RandomSizedCrop": _Transform(
        {"min_max_height": _NEEDED, **_SIZE, "w2h_ratio": 1.0, "interpolation": 1}, p=1.0, say=_say_sized
    ),
    "Resize": _Transform({**_SIZE, "interpolation": 1}, p=1.0),
    "Rotate": _Transform({"limit": 90, **_BORDER}),
    "SafeRotate": _Transform({"limit": 90, **_BORDER}),
    "Sharpen": _Transform({"alpha": (0.2, 0.5), "lightness": (0.5, 1.0)}),
    "ShiftScaleRotate": _Transform(
        {"shift_limit": 0.0625, "scale_limit": 0.1, "rotate_limit": 45, **_BORDER}
        | {"shift_limit_x": None, "shift_limit_y": None},
    ),
    "SmallestMaxSize": _Transform({"max_size": 1024, "interpolation": 1}, p=1.0),
    "ToGray": _Transform({}),
    "Transpose": _Transform({}),
    "VerticalFlip": _Transform({}),
}
