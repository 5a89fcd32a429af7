from __future__ import annotations

import csv
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeseg import bundle, cli, evaluate, figures, preprocess, readers
from edgeseg.backends.base import Engine
from edgeseg.errors import BackendMissing, InputError, OutputError
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
    # The square of 10 lies in a corner of that of 20: the drawn outline's 76 distances to it end with hypot(10, 10)
    # once, hypot(10, 9) and hypot(10, 8) twice; index floor(0.95 * 75) = 71 is the first of these five.
    assert a.surface_distance_px == pytest.approx(np.hypot(10, 8))
    assert (b.surface_distance_px, c.surface_distance_px) == (0, None)
    assert found.surface_distance_px == pytest.approx(np.hypot(10, 8) / 2)
    assert (a.drawn_px, a.marked_px) == (400, 109)
    assert a.volume_difference == pytest.approx(-291 / 400)
    assert found.volume_difference == pytest.approx(-291 / 800)
    assert (a.missed_slices, found.missed_slices, found.abnormal_slices, found.sequences) == (0, 0, 2, "all")
    assert c.volume_difference is None
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


def test_a_missed_slice_is_counted_and_left_out_of_the_distance(tmp_path: Path) -> None:
    _draw(tmp_path, "A", [(0, 5), (20, 20), (0, 0)])
    (patient,) = evaluate.evaluate(_subject(), tmp_path).patients
    assert (patient.abnormal_slices, patient.missed_slices, patient.compared_slices) == (2, 1, 1)
    assert patient.surface_distance_px == 0
    assert patient.iou_abnormal == pytest.approx(0.5)


def test_no_abnormal_slice_or_no_empty_one_leaves_figures_out(drawn: Path, tmp_path: Path) -> None:
    healthy = evaluate.evaluate(_subject(), drawn, ("C",))
    assert (healthy.iou_abnormal, healthy.surface_distance_px, healthy.volume_difference) == (None, None, None)
    assert healthy.false_positive_share == 0
    _draw(tmp_path, "D", [(5, 5), (5, 5)])
    full = evaluate.evaluate(_subject(), tmp_path)
    assert (full.empty_slices, full.false_positive_share, full.iou_abnormal) == (0, None, 1)
    for found in (healthy, full):
        assert "-" in dict(figures.summary_rows(found)).values()


def test_figures_are_read_back_from_json(drawn: Path) -> None:
    found = evaluate.evaluate(_subject(), drawn, ("A", "C"))
    written = json.loads(json.dumps(found.to_json()))
    assert written["patients"][1]["iou_abnormal"] is None
    assert written["dice_mean"] == found.dice_mean
    assert figures.from_json(written) == found


def test_masks_of_another_size_than_the_images_are_refused(tmp_path: Path) -> None:
    _draw(tmp_path, "A", [(10, 10)])
    mask = tmp_path / "kaggle_3m" / "A" / "A_1_mask.tif"
    Image.fromarray(np.zeros((128, 128), np.uint8)).save(mask)
    with pytest.raises(InputError, match=r"A.*128.*256"):
        evaluate.evaluate(_subject(), tmp_path)


def test_a_patient_listed_twice_is_refused(drawn: Path) -> None:
    with pytest.raises(InputError, match="the patient A is listed 2 times"):
        evaluate.evaluate(_subject(), drawn, ("A", "B", "A"))


def test_what_is_not_installed_is_said_before_the_network_runs(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grand_challenge_metrics.stats", None)
    monkeypatch.setattr(evaluate, "mark", lambda *_: pytest.fail("the network ran"))
    with pytest.raises(BackendMissing, match=r"edgeseg\[evaluate\]"):
        evaluate.evaluate(_subject(), drawn)


# --- sequences


def test_left_out_sequences_are_a_study_without_them(example_tiff: Path) -> None:
    (files,) = readers.find_studies(example_tiff)
    study = readers.read_study(files)
    assert study.pre is not None
    assert study.post is not None
    assert evaluate.with_sequences(study, "all") is study
    for sequences, lacking in (("no-post", replace(study, post=None)), ("flair", replace(study, pre=None, post=None))):
        left = preprocess.to_network(evaluate.with_sequences(study, sequences), Preprocessing()).slices
        assert np.array_equal(left, preprocess.to_network(lacking, Preprocessing()).slices)
        assert np.array_equal(left[:, 2], left[:, 1])
        assert np.array_equal(left[:, 0], left[:, 1]) == (sequences == "flair")


def test_flair_alone_is_what_files_without_the_others_give(
    tiny_weights: Path, lgg_folder: Path, tmp_path: Path
) -> None:
    """The network of random weights looks at every channel, so a channel that differs would show."""
    patient = "TCGA_XX_0003_20000101"
    shutil.copytree(lgg_folder / "kaggle_3m" / patient, tmp_path / patient)
    for path in (tmp_path / patient).glob("*[0-9].tif"):
        flair = np.asarray(Image.open(path))[..., 1]
        Image.fromarray(np.stack([flair] * 3, axis=-1)).save(path)
    with evaluate.open_subject(str(tiny_weights)) as subject:
        whole, no_post, flair_only = (
            evaluate.evaluate(subject, lgg_folder, (patient,), sequences=each) for each in evaluate.SEQUENCES
        )
        lacking = evaluate.evaluate(subject, tmp_path)
    assert flair_only.patients == lacking.patients
    assert (flair_only.sequences, no_post.sequences, lacking.sequences) == ("flair", "no-post", "all")
    assert len({found.patients[0].marked_px for found in (whole, no_post, flair_only)}) == 3


def test_other_sequences_are_refused(drawn: Path) -> None:
    with pytest.raises(InputError, match="'t2': give all, no-post, flair"):
        evaluate.evaluate(_subject(), drawn, sequences="t2")


# --- what is evaluated


def test_a_bundle_and_its_weights_give_the_same_figures(
    tiny_bundle: Path, tiny_weights: Path, lgg_folder: Path
) -> None:
    patients = ("TCGA_XX_0002_20000101",)
    found = []
    for what in (str(tiny_bundle), str(tiny_weights)):
        with evaluate.open_subject(what) as subject:
            assert subject.preprocessing == Preprocessing("stored", 256)
            found.append(evaluate.evaluate(subject, lgg_folder, patients))
    engine, network = found
    assert engine.subject.startswith("tiny-fp32 on OpenVINO")
    assert "PyTorch" in network.subject
    assert 0 < network.dice_mean < 1
    assert engine.dice_mean == pytest.approx(network.dice_mean, abs=1e-3)
    assert engine.iou_all == pytest.approx(network.iou_all, abs=1e-3)


def test_a_runs_folder_means_its_weights(tiny_weights: Path, tmp_path: Path) -> None:
    run = tmp_path / "my-run"
    run.mkdir()
    with pytest.raises(InputError, match=r"neither manifest\.json .* nor weights\.safetensors"):
        evaluate.open_subject(str(run))
    shutil.copy(tiny_weights, run)
    with pytest.raises(InputError, match=r"give one such as .*my-run"):
        evaluate.open_subject(str(tmp_path))
    with evaluate.open_subject(str(run)) as subject:
        assert subject.name.startswith("my-run on PyTorch")
    with pytest.raises(InputError, match="leave out --backend"):
        evaluate.open_subject(str(run), "openvino")


def test_a_folder_with_a_manifest_is_a_bundle(
    tiny_bundle: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = tmp_path / "both"
    shutil.copytree(tiny_bundle, both)
    shutil.copy(tiny_weights, both)
    with evaluate.open_subject(str(both)) as subject:
        assert "OpenVINO" in subject.name
    monkeypatch.chdir(tmp_path)
    shutil.copytree(both, bundle.DEFAULT_ENGINE)
    (tmp_path / bundle.DEFAULT_ENGINE / "manifest.json").unlink()
    with evaluate.open_subject(bundle.DEFAULT_ENGINE) as subject:
        assert "OpenVINO" in subject.name, "a bare name means the shipped one"


@pytest.mark.parametrize("what", ["no-such-engine", "none.safetensors"])
def test_an_unknown_subject_is_refused(what: str) -> None:
    with pytest.raises(InputError, match=r"no engine no-such-engine|no weights at none\.safetensors"):
        evaluate.open_subject(what)


# --- files


def test_csv_is_written_beside_and_renamed(drawn: Path, tmp_path: Path) -> None:
    found, path = evaluate.evaluate(_subject(), drawn), tmp_path / "figures.csv"
    path.write_text("an earlier one")
    evaluate.check_csv(path)
    evaluate.write_csv(found, path)
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert [(row["patient"], row["drawn_px"]) for row in rows] == [("A", "400"), ("B", "400"), ("C", "0")]
    assert [file.name for file in tmp_path.iterdir()] == ["figures.csv"]


def test_csv_in_an_unwritable_place_is_refused(drawn: Path, tmp_path: Path) -> None:
    found = evaluate.evaluate(_subject(), drawn, ("B",))
    (tmp_path / "file").touch()
    for path, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "none" / "a.csv", "cannot write to the folder"),
        (tmp_path / "file" / "a.csv", "cannot write to the folder"),
    ):
        with pytest.raises(OutputError, match=message):
            evaluate.check_csv(path)
        with pytest.raises(OutputError, match="cannot write the figures"):
            evaluate.write_csv(found, path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file"]


def test_the_command(
    tiny_bundle: Path,
    lgg_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names, table = tmp_path / "names.txt", tmp_path / "figures.csv"
    names.write_text("TCGA_XX_0002_20000101\nTCGA_XX_0004_20000101\n")
    arguments = ["edgeseg", "evaluate", str(tiny_bundle), "--data", str(lgg_folder), "--patients", str(names)]

    def run(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", [*arguments, *more])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert not left.value.code
        return capsys.readouterr().out

    found = figures.from_json(json.loads(run("--json", "--csv", str(table), "--sequences", "flair")))
    assert (len(found.patients), found.sequences) == (2, "flair")
    assert len(table.read_text().splitlines()) == 3
    printed = run("--sequences", "flair")
    assert max(map(len, printed.splitlines())) <= 80
    for row in figures.patient_rows(found):
        assert any(line.split() == row for line in printed.splitlines())
    for name, value in figures.summary_rows(found):
        assert any(name in line and value in line for line in printed.splitlines())
    for bad, message in ((("--sequences", "t2"), "'t2'"), (("--csv", str(tmp_path / "no" / "a.csv")), "cannot write")):
        monkeypatch.setattr(sys, "argv", [*arguments, *bad])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert left.value.code == 2
        assert message in capsys.readouterr().err
