from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeseg import evaluate
from edgeseg.backends.base import Engine
from edgeseg.errors import InputError
from edgeseg.types import ByteArray, FloatArray, Preprocessing


class GreenIsAbnormal(Engine):
    """Marks FLAIR at and above 200, so a test draws what it predicts."""

    runtime, device, inference_precision = "fake 1", "none", "f32"

    def _run(self, slices: ByteArray) -> FloatArray:
        return np.asarray(np.where(slices[:, 1:2] >= 200, 5, -5), dtype=np.float32)

    def _release(self) -> None:
        pass


def _subject(threshold: float = 0.5) -> evaluate.Subject:
    return evaluate.Subject("fake", GreenIsAbnormal(), Preprocessing("stored"), threshold)


def _draw(root: Path, name: str, slices: list[tuple[int, int]]) -> None:
    """A patient: for each slice the side of the marked square, and of the drawn one."""
    folder = root / "kaggle_3m" / name
    folder.mkdir(parents=True)
    for k, (marked, drawn) in enumerate(slices, start=1):
        image, mask = np.full((256, 256, 3), 60, np.uint8), np.zeros((256, 256), np.uint8)
        image[..., 0], image[..., 2] = 50, 70
        image[10, 10] = (1, 2, 3)
        image[100 : 100 + marked, 100 : 100 + marked, 1] = 220
        mask[100 : 100 + drawn, 100 : 100 + drawn] = 255
        Image.fromarray(image).save(folder / f"{name}_{k}.tif")
        Image.fromarray(mask).save(folder / f"{name}_{k}_mask.tif")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A: half found and one false positive. B: all found. C: nothing drawn, nothing marked."""
    root = tmp_path_factory.mktemp("drawn")
    _draw(root, "A", [(0, 0), (10, 20), (3, 0), (0, 0)])
    _draw(root, "B", [(20, 20), (0, 0)])
    _draw(root, "C", [(0, 0), (0, 0)])
    return root


def test_figures_by_hand(drawn: Path) -> None:
    told: list[tuple[str, int, int]] = []
    found = evaluate.evaluate(_subject(), drawn, report=lambda *facts: told.append(facts))
    dice_a = 2 * 100 / (100 + 9 + 400)
    a, b, c = found.patients
    assert (a.patient, a.slices, a.abnormal_slices, a.false_positive_slices) == ("A", 4, 1, 1)
    assert a.dice == pytest.approx(dice_a)
    assert a.iou_abnormal == pytest.approx(0.25)
    assert (b.dice, b.iou_abnormal, b.slices, b.false_positive_slices) == (1, 1, 2, 0)
    assert (c.dice, c.iou_abnormal, c.abnormal_slices, c.false_positive_slices) == (1, None, 0, 0)
    assert found.dice_mean == pytest.approx((dice_a + 2) / 3)
    assert found.dice_median == 1
    assert found.dice_worst == pytest.approx(dice_a)
    assert found.iou_abnormal == pytest.approx((0.25 + 1) / 2)
    assert found.iou_all == pytest.approx((1 + 0.25 + 0 + 1 + 1 + 1 + 1 + 1) / 8)
    assert (found.empty_slices, found.false_positive_slices) == (6, 1)
    assert found.false_positive_share == pytest.approx(1 / 6)
    assert (found.subject, found.threshold) == ("fake", 0.5)
    assert told == [("A", 1, 3), ("B", 2, 3), ("C", 3, 3)]


def test_some_of_the_patients(drawn: Path) -> None:
    found = evaluate.evaluate(_subject(), drawn, ("B",))
    assert [patient.patient for patient in found.patients] == ["B"]
    assert (found.dice_mean, found.iou_abnormal, found.empty_slices) == (1, 1, 1)


def test_an_unknown_patient_is_refused(drawn: Path) -> None:
    with pytest.raises(InputError, match="no patient Z among the 3"):
        evaluate.evaluate(_subject(), drawn, ("A", "Z"))


def test_the_subjects_threshold_is_used(drawn: Path) -> None:
    found = evaluate.evaluate(_subject(threshold=0.999), drawn, ("A", "B"))
    assert found.dice_mean == 0
    assert found.false_positive_slices == 0


def test_figures_are_plain_json(drawn: Path) -> None:
    found = evaluate.evaluate(_subject(), drawn, ("A", "C"))
    written = json.loads(json.dumps(found.to_json()))
    assert written["patients"][1]["iou_abnormal"] is None
    assert written["dice_mean"] == found.dice_mean


def test_masks_of_another_size_than_the_images_are_refused(tmp_path: Path) -> None:
    _draw(tmp_path, "A", [(10, 10)])
    mask = tmp_path / "kaggle_3m" / "A" / "A_1_mask.tif"
    Image.fromarray(np.zeros((128, 128), np.uint8)).save(mask)
    with pytest.raises(InputError, match=r"A: masks are \(1, 128, 128\), images \(1, 256, 256\)"):
        evaluate.evaluate(_subject(), tmp_path)


def test_a_bundle_and_its_weights_give_the_same_figures(
    tiny_bundle: Path, tiny_weights: Path, lgg_folder: Path
) -> None:
    patients = ("TCGA_XX_0002_20000101",)
    figures = []
    for what in (str(tiny_bundle), str(tiny_weights)):
        subject = evaluate.open_subject(what)
        assert subject.preprocessing == Preprocessing("stored", 256)
        with subject.engine:
            figures.append(evaluate.evaluate(subject, lgg_folder, patients))
    engine, network = figures
    assert engine.subject.startswith("tiny-fp32 on OpenVINO")
    assert "PyTorch" in network.subject
    assert 0 < network.dice_mean < 1
    assert engine.dice_mean == pytest.approx(network.dice_mean, abs=1e-3)
    assert engine.iou_all == pytest.approx(network.iou_all, abs=1e-3)


@pytest.mark.parametrize("what", ["no-such-engine", "none.safetensors"])
def test_an_unknown_subject_is_refused(what: str) -> None:
    with pytest.raises(InputError, match=r"no engine no-such-engine|no weights at none\.safetensors"):
        evaluate.open_subject(what)
