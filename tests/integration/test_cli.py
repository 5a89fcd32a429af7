"""The command line: what it lists, what it imports, where it writes, what it prints, and how it exits."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from edgeseg import benchmark, build, bundle, contenders
from edgeseg.readers import recorded, slices
from edgeseg.types import Speed

FP16_ENGINE = f"{bundle.DEFAULT_NETWORK}-fp16"
COMMANDS = ("infer", "train", "prepare", "build-engine", "parity", "evaluate", "engines", "benchmark", "sign", "doctor")
HEAVY = ("torch", "openvino", "SimpleITK", "pydicom", "highdicom", "numpy", "PIL", "onnx", "onnxruntime", "matplotlib")


Edgeseg = Callable[..., Any]
"""The fixture `edgeseg`: arguments to how the command ended."""


@pytest.fixture(scope="module")
def short_tiff(example_tiff: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five slices of the example, with their drawn masks."""
    folder = tmp_path_factory.mktemp("in") / "short"
    folder.mkdir()
    for k in range(8, 13):
        for ending in (".tif", "_mask.tif"):
            shutil.copy(example_tiff / f"{example_tiff.name}_{k}{ending}", folder / f"short_{k}{ending}")
    return folder


# --- starting up


def test_help_lists_the_commands_and_the_notice(edgeseg: Edgeseg) -> None:
    run = edgeseg("--help")
    assert run.code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in run.out
    assert "Not a medical device" in run.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, edgeseg: Edgeseg) -> None:
    run = edgeseg(command, "--help")
    assert run.code == 0
    assert f"edgeseg {command}" in run.out


def test_the_version(edgeseg: Edgeseg) -> None:
    from edgeseg import __version__

    assert edgeseg("--version").out == f"edgeseg {__version__}\n"


def test_start_up_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom edgeseg.cli import main\nsys.argv = ['edgeseg', '--help']\n"
        f"try: main()\nexcept SystemExit: pass\nprint([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage: edgeseg" in run.stdout
    assert run.stderr.strip() == "[]"


def test_infer_imports_no_torch(short_tiff: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom edgeseg.cli import main\n"
        f"sys.argv = ['edgeseg', 'infer', {str(short_tiff)!r}, '--format', 'report', '--json']\n"
        "try: main()\nexcept SystemExit as e: assert not e.code, e.code\n"
        "print([m for m in ('torch', 'onnx', 'matplotlib') if m in sys.modules], file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout)["studies"][0]["study"]["name"] == "short"
    assert run.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["infer"], ["infer", "x", "--nonsense"], ["build-engine"]])
def test_wrong_usage(arguments: list[str], edgeseg: Edgeseg) -> None:
    assert edgeseg(*arguments).code == 2


# --- infer


def test_infer_writes_to_the_default_folder_and_says_so(short_tiff: Path, edgeseg: Edgeseg) -> None:
    run = edgeseg("infer", short_tiff)
    assert run.code == 0
    folder = Path("edgeseg-output/short")
    assert [path.name for path in Path.cwd().iterdir()] == ["edgeseg-output"]
    assert sorted(path.name for path in folder.iterdir()) == ["masks", "overlay", "report.html", "report.json"]
    assert sorted(path.name for path in folder.rglob("*.tif")) == sorted(f"short_{k}_mask.tif" for k in range(8, 13))
    assert "short" in run.out
    assert run.err.splitlines() == [
        "Non-commercial research use only. Not a medical device.",
        f"Report: {folder}/report.html",
    ]


def test_infer_json_is_pure_and_whole(example_dicom: Path, edgeseg: Edgeseg, tmp_path: Path) -> None:
    run = edgeseg("infer", example_dicom, "-o", tmp_path / "out", "--json", "--format", "nifti", "--format", "report")
    assert run.code == 0
    assert run.json["failed"] == []
    assert run.err.splitlines() == ["Non-commercial research use only. Not a medical device."]
    (study,) = run.json["studies"]
    written = json.loads((Path(study["folder"]) / "report.json").read_text())
    assert study["volume_ml"] == written["volume_ml"]
    assert study["volume_ml"] > 5
    assert study["files"] == written["files"] == ["mask.nii.gz", "report.json"]
    assert len(study["slices"]) == 15
    assert Path(study["folder"]).parent == tmp_path / "out"
    assert len(study["study"]["name"]) == 12
    assert study["engine"]["name"] == bundle.DEFAULT_ENGINE


def test_a_folder_of_studies(short_tiff: Path, edgeseg: Edgeseg, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(short_tiff, tmp_path / "in" / name)
    run = edgeseg("infer", tmp_path / "in", "-o", tmp_path / "out", "--format", "masks")
    assert run.code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b"]
    assert f"Results: {tmp_path / 'out'}" in run.err


def test_some_failed(short_tiff: Path, edgeseg: Edgeseg, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(short_tiff, tmp_path / "in" / name)
    (tmp_path / "in" / "a" / "short_10.tif").unlink()
    run = edgeseg("infer", tmp_path / "in", "-o", tmp_path / "out", "--json", "--format", "report")
    assert run.code == 3
    assert [study["study"]["name"] for study in run.json["studies"]] == ["b"]
    (failed,) = run.json["failed"]
    assert failed["study"] == "a"
    assert failed["path"] == str(tmp_path / "in" / "a")
    assert "number 10 is missing" in failed["error"]
    assert "1 of 2 studies are not done: a" in run.err


def test_all_failed(short_tiff: Path, edgeseg: Edgeseg, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(short_tiff, tmp_path / "in" / name)
        (tmp_path / "in" / name / "short_10.tif").unlink()
    run = edgeseg("infer", tmp_path / "in", "-o", tmp_path / "out", "--json")
    assert run.code == 2
    assert run.json["studies"] == []
    assert len(run.json["failed"]) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--format", "jpeg"], "unknown output format jpeg: choose among"),
        (["--format", "dicom-seg"], "a TIFF study cannot have the output format dicom-seg"),
        (["--engine", "nonsense"], "no engine nonsense: give"),
        (["--backend", "nonsense"], "not for nonsense: give one of these"),
        (["--device", "nonsense"], "no device nonsense"),
    ],
)
def test_a_choice_that_is_not_there(options: list[str], found: str, short_tiff: Path, edgeseg: Edgeseg) -> None:
    run = edgeseg("infer", short_tiff, *options)
    assert run.code == 2
    assert found in run.err
    assert run.out == ""
    assert list(Path.cwd().iterdir()) == []


def test_an_unverified_engine_is_served_only_when_asked_for(short_tiff: Path, edgeseg: Edgeseg, tmp_path: Path) -> None:
    manifest, content = bundle.read(bundle.find(bundle.DEFAULT_ENGINE))
    bundle.write(tmp_path / "engine", replace(manifest, parity=None), content)
    arguments = ("infer", short_tiff, "--engine", tmp_path / "engine", "--format", "report", "--json")
    refused = edgeseg(*arguments)
    assert refused.code == 6
    assert "--allow-unverified" in refused.err
    assert list(Path.cwd().iterdir()) == []
    served = edgeseg(*arguments, "--allow-unverified")
    assert served.code == 0
    assert served.json["studies"][0]["engine"]["parity"] == "unverified"


def test_a_runtime_that_is_missing(short_tiff: Path, edgeseg: Edgeseg, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    run = edgeseg("infer", short_tiff)
    assert run.code == 4
    assert "pip install openvino" in run.err


# --- the other commands


def test_engines(edgeseg: Edgeseg) -> None:
    assert bundle.DEFAULT_ENGINE in edgeseg("engines").out
    names = [engine["name"] for engine in edgeseg("engines", "--json").json["engines"]]
    assert bundle.DEFAULT_ENGINE in names


def test_doctor(edgeseg: Edgeseg) -> None:
    run = edgeseg("doctor")
    assert run.code == 0
    assert "OpenVINO" in run.out
    findings = edgeseg("doctor", "--json").json["findings"]
    assert {"what", "well", "found", "remedy", "exit_code"} == set(findings[0])


def test_doctor_fails_when_what_infer_needs_is_not_well(
    edgeseg: Edgeseg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the health checks of the images go by."""
    unknown = edgeseg("doctor", "--need", "abacus")
    assert (unknown.code, "does not look at abacus" in unknown.err) == (2, True)

    shutil.copytree(bundle.find(bundle.DEFAULT_ENGINE), tmp_path / "engine")
    monkeypatch.setattr(bundle, "shipped", lambda: [tmp_path / "engine"])
    with (tmp_path / "engine" / "model.onnx").open("ab") as file:
        file.write(b"\0")
    damaged = edgeseg("doctor", "--json")
    assert (damaged.code, "engine is not well (damaged)" in damaged.err) == (5, True)
    codes = {finding["what"]: finding["exit_code"] for finding in damaged.json["findings"]}
    assert (codes["engine"], codes["OpenVINO"]) == (5, 0)

    monkeypatch.setitem(sys.modules, "openvino", None)
    broken = edgeseg("doctor")
    assert (broken.code, "OpenVINO is not well" in broken.err) == (4, True)
    assert "This machine" in broken.out


def test_evaluate(short_tiff: Path, edgeseg: Edgeseg, tmp_path: Path) -> None:
    arguments = ("evaluate", bundle.DEFAULT_ENGINE, "--data", short_tiff.parent)
    figures = edgeseg(*arguments, "--json").json
    (patient,) = figures["patients"]
    assert patient["patient"] == "short"
    assert figures["dice_mean"] == patient["dice"] > 0.7
    table = edgeseg(*arguments).out
    assert f"{patient['dice']:.4f}" in table
    (tmp_path / "names.txt").write_text("# comment\nnobody\n")
    unknown = edgeseg(*arguments, "--patients", tmp_path / "names.txt")
    assert (unknown.code, "no patient nobody" in unknown.err) == (2, True)
    missing = edgeseg(*arguments, "--patients", tmp_path / "no.txt")
    assert (missing.code, "no readable list" in missing.err) == (2, True)


def test_build_engine_and_parity(short_tiff: Path, edgeseg: Edgeseg, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="building needs the extras train and export")
    built = edgeseg("build-engine", "--fp32", "-o", tmp_path / "mine", "--data", short_tiff.parent, "--json")
    assert built.code == 0
    assert built.json["passed"]
    assert bundle.read(tmp_path / "mine")[0].precision == "fp32"
    checked = edgeseg("parity", tmp_path / "mine", "--data", short_tiff.parent)
    assert checked.code == 0
    assert "passed" in checked.out
    run = edgeseg("infer", short_tiff, "--engine", tmp_path / "mine", "--format", "report", "--json")
    assert run.json["studies"][0]["engine"]["precision"] == "fp32"
    assert edgeseg("build-engine", "--fp32", "--fp16", "-o", tmp_path / "other").code == 2


# --- plans


RTX = ("build-engine", "--backend", "tensorrt-rtx")


def test_build_a_plan_without_a_gpu(short_tiff: Path, edgeseg: Edgeseg, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="building needs the extras train and export")
    pytest.importorskip("tensorrt_rtx", reason="plans are built by the extra tensorrt-rtx")
    arguments = ("--capability", "8.6", "--capability", "8.9", "--max-batch", "4", "--data", short_tiff.parent)
    run = edgeseg(*RTX, *arguments, "-o", tmp_path / "rtx", "--json")
    assert run.code == 0, run.err
    assert run.json["passed"]
    manifest = bundle.read(tmp_path / "rtx")[0]
    assert manifest.plan is not None
    assert (manifest.plan["capabilities"], manifest.plan["max_batch"]) == (["8.6", "8.9"], 4)
    assert 5e6 < (tmp_path / "rtx" / "model.plan").stat().st_size < 20e6
    if not manifest.verified_on_device:
        assert "run edgeseg parity on the machine" in run.err
        refused = edgeseg("infer", short_tiff, "--engine", tmp_path / "rtx")
        assert (refused.code, "run edgeseg parity on this machine" in refused.err) == (6, True)


@pytest.mark.parametrize(
    ("arguments", "code", "found"),
    [
        (["--capability", "8.7"], 2, "no compute capability 8.7: give one of 7.5, 8.0, 8.6, 8.9"),
        (["--dla", "0"], 2, "finds 0 DLA cores"),
        (["--dla", "0", "--fp32"], 2, "DLA runs FP16 here, not FP32"),
        (["--timing-cache", "x"], 2, "leave --timing-cache out"),
        (["--hardware-compatible"], 2, "give --capability"),
        (["--max-batch", "0"], 2, "max-batch"),
        (["--version-compatible"], 5, "cannot compile the network"),
    ],
)
def test_options_of_plans_that_do_not_fit(
    arguments: list[str], code: int, found: str, short_tiff: Path, edgeseg: Edgeseg, tmp_path: Path, network: bytes
) -> None:
    assert network
    run = edgeseg(*RTX, *arguments, "--data", short_tiff.parent, "-o", tmp_path / "rtx")
    assert (run.code, found in run.err) == (code, True), run.err
    assert not (tmp_path / "rtx").exists()


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The default network's file, which the exporter hands out without exporting."""
    pytest.importorskip("torch", reason="building needs the extras train and export")
    pytest.importorskip("tensorrt_rtx", reason="plans are built by the extra tensorrt-rtx")
    from edgeseg.export import graph

    content = bundle.read(bundle.find(FP16_ENGINE))[1]
    monkeypatch.setattr(graph, "to_onnx", lambda *_, **__: content)
    return content


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_too_little_memory_to_build(
    error: Exception, edgeseg: Edgeseg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, failure: Exception = error) -> None:
        raise failure

    monkeypatch.setattr(build, "build_engine", fail)
    run = edgeseg("build-engine", "-o", tmp_path / "b")
    assert (run.code, "too little memory to build the engine" in run.err) == (5, True), run.err
    monkeypatch.setattr(build, "build_engine", partial(fail, failure=RuntimeError("another")))
    with pytest.raises(RuntimeError, match="another"):
        edgeseg("build-engine", "-o", tmp_path / "b")


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--fp16", "--finetune"], "--finetune is for weights that become --int8"),
        (["--calibration", "{empty}"], "--calibration is for weights that become --int8"),
        (["--int8", "--calibration", "{empty}"], "is empty: give a folder with DICOM files"),
        (["--int8", "--calibration", "{ct}"], "only CT images found"),
        (["--int8", "--method", "median"], "no calibration method 'median'"),
        (["--int4"], "No such option"),
    ],
)
def test_calibration_that_cannot_be(
    options: list[str], found: str, edgeseg: Edgeseg, tmp_path: Path, network: bytes
) -> None:
    assert network
    from pydicom.data import get_testdata_file

    for name in ("empty", "ct"):
        (tmp_path / name).mkdir()
    shutil.copy(str(get_testdata_file("CT_small.dcm")), tmp_path / "ct" / "one.dcm")
    given = [option.format(empty=tmp_path / "empty", ct=tmp_path / "ct") for option in options]
    run = edgeseg("build-engine", *given, "-o", tmp_path / "b")
    assert (run.code, found in " ".join(run.err.split())) == (2, True), run.err
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("precision", ["--fp32", "--fp16"])
def test_a_truncated_network_becomes_no_plan(
    precision: str, short_tiff: Path, edgeseg: Edgeseg, tmp_path: Path, network: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeseg.export import graph

    monkeypatch.setattr(graph, "to_onnx", lambda *_, **__: network[: len(network) // 2])
    run = edgeseg(*RTX, precision, "--data", short_tiff.parent, "-o", tmp_path / "rtx")
    assert (run.code, "export it again" in run.err) == (5, True), run.err
    assert not (tmp_path / "rtx").exists()


@pytest.mark.parametrize("option", [["--max-batch", "4"], ["--capability", "8.9"], ["--dla", "1"]])
def test_options_of_plans_are_for_tensorrt(option: list[str], edgeseg: Edgeseg, tmp_path: Path) -> None:
    run = edgeseg("build-engine", *option, "-o", tmp_path / "b")
    assert (run.code, f"{option[0]} is for --backend tensorrt" in run.err) == (2, True)


def test_a_missing_tensorrt(short_tiff: Path, edgeseg: Edgeseg, tmp_path: Path, network: bytes) -> None:
    assert network
    if util.find_spec("tensorrt"):
        pytest.skip("TensorRT is installed here")
    run = edgeseg("build-engine", "--backend", "tensorrt", "--data", short_tiff.parent, "-o", tmp_path / "b")
    assert (run.code, "JetPack 6.1" in run.err, "exporting" in run.err) == (4, True, False)


@pytest.mark.parametrize("known", [True, False])
def test_a_plan_of_a_shipped_network_file_without_torch(
    known: bool, edgeseg: Edgeseg, tmp_path: Path, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="plans are built by the extra tensorrt-rtx")
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    monkeypatch.setattr(slices, "shipped_folder", lambda: few)
    if not known:
        monkeypatch.setitem(sys.modules, "torch", None)
        monkeypatch.setattr(recorded, "known", dict)
    source = bundle.find(FP16_ENGINE) / "model.onnx"
    run = edgeseg("build-engine", source, "--backend", "tensorrt-rtx", "-o", tmp_path / "rtx", "--json")
    assert run.code == 0, run.err
    assert ("was not compared with the PyTorch model, which is not installed here" in run.err) != known
    shown = edgeseg("engines", tmp_path / "rtx", "--json").json["engines"][0]
    assert (shown["parity"] is not None, shown["verified_on_device"]) == (known, False)
    assert shown["runtimes"][0] == "tensorrt-rtx"
    if known:
        assert run.json["reference"].startswith("recorded masks of PyTorch")
        assert run.json["passed"]
    else:
        assert run.json == {"name": FP16_ENGINE, "parity": None}


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["missing/model.onnx", "--backend", "tensorrt"], "there is no network file"),
        (["{shipped}"], "which other runtimes take as it is: give --backend tensorrt"),
        (["{shipped}", "--int8", "--backend", "tensorrt"], "no plan in INT8 can be made"),
        (["{alone}", "--backend", "tensorrt"], "has no manifest.json beside it"),
        (["--backend", "bogus"], "there is no backend bogus: give openvino, tensorrt, tensorrt-rtx, onnxruntime"),
    ],
)
def test_network_files_that_become_no_plan(arguments: list[str], found: str, edgeseg: Edgeseg, tmp_path: Path) -> None:
    shipped = bundle.find(FP16_ENGINE) / "model.onnx"
    alone = Path(shutil.copy(shipped, tmp_path / "model.onnx"))
    run = edgeseg("build-engine", *(a.format(shipped=shipped, alone=alone) for a in arguments), "-o", tmp_path / "b")
    assert (run.code, found in run.err) == (2, True), run.err
    assert not (tmp_path / "b").exists()


TINY_RUN = """
architecture: {architecture: Linknet, backbone: tu-test_resnet, pretrained: false}
environment: {mixed_precision_training: false, seed: 1}
training: {epochs: 1, batch_size: 4, build_scoring_pipelines: false}
"""


def test_train(lgg_folder: Path, edgeseg: Edgeseg, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="training needs the extra train")
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY_RUN)
    run = edgeseg(
        "train", config, "--data", lgg_folder, "-o", tmp_path / "run", "--by-patient", "--compare", "published"
    )
    assert run.code == 0, run.err
    assert (tmp_path / "run" / "weights.safetensors").is_file()
    assert "epoch 1" in run.err
    assert f"Run: {tmp_path / 'run'}" in run.err
    assert "0.72783" in run.out
    assert "instead of 1,099" in run.err
    again = edgeseg("train", config, "--data", lgg_folder, "-o", tmp_path / "run", "--by-patient")
    assert (again.code, "--resume" in again.err) == (2, True)
    bad = edgeseg("train", tmp_path / "no.yaml", "--data", lgg_folder, "-o", tmp_path / "run2")
    assert bad.code == 2
    assert bad.err.startswith("error: ")
    assert edgeseg("train", config, "--data", lgg_folder, "--compare", "mine").code == 2


def test_a_dry_run_and_a_prepared_table(lgg_folder: Path, edgeseg: Edgeseg, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="training needs the extra train")
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY_RUN.replace("pretrained: false", "pretrained: true"))
    prepared = edgeseg("prepare", "--data", lgg_folder, "-o", tmp_path / "table", "--json")
    assert (prepared.code, prepared.json["slices"], prepared.json["patients"]) == (0, 18, 6)
    plans = [
        edgeseg("train", config, "--data", data, "-o", tmp_path / "run", "--dry-run", "--json").json
        for data in (lgg_folder, tmp_path / "table")
    ]
    assert plans[0]["folds"] == plans[1]["folds"]
    assert not (tmp_path / "run").exists()
    shown = edgeseg("train", config, "--data", lgg_folder, "--dry-run")
    assert shown.code == 0
    assert "patients stand on both sides" in shown.err
    assert "without effect: dataset.data_sample_choice" not in shown.err  # the file does not name it
    assert edgeseg("prepare", "--data", lgg_folder, "-o", tmp_path / "table").code == 2


# --- bundles that are listed and signed


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the shipped default engine."""
    return Path(shutil.copytree(bundle.find(bundle.DEFAULT_ENGINE), tmp_path / "copied"))


def test_engines_are_listed_with_what_they_are(copied: Path, edgeseg: Edgeseg, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    bundle.record_speed(copied, Speed(251.4, 8, 5.0, "OpenVINO 1", "a processor", 2))
    (engine,) = edgeseg("engines", copied, "--json").json["engines"]
    assert (engine["folder"], engine["signed"], engine["speed"]["batch"]) == (str(copied), False, 8)
    assert engine["size_mb"] == pytest.approx((copied / "model.onnx").stat().st_size / 1e6, abs=1e-3)
    lines = edgeseg("engines", copied).out.splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = [line.split() for line in lines if bundle.DEFAULT_ENGINE in line]
    assert row == [bundle.DEFAULT_ENGINE, "int8", "5.6", "0.9907", "no", "251"]
    assert any(line.split() == ["openvino,", "onnxruntime", "passed"] for line in lines)
    missing = edgeseg("engines", copied / "nothing")
    assert (missing.code, "no engine" in missing.err) == (2, True)


def test_a_signature_that_is_required(
    copied: Path, signing_keys: list[tuple[Path, Path]], short_tiff: Path, edgeseg: Edgeseg
) -> None:
    private, public = signing_keys[0]
    commands: list[tuple[str | Path, ...]] = [
        ("infer", short_tiff, "--engine", copied, "--format", "report"),
        ("parity", copied, "--data", short_tiff.parent),
        ("engines", copied),
    ]
    for command in commands:
        unsigned = edgeseg(*command, "--require-signature", public)
        assert (unsigned.code, "copied is not signed: " in unsigned.err) == (5, True)
    signed = edgeseg("sign", copied, "--key", private, "--json")
    assert (signed.code, signed.json) == (0, {"signature": str(copied / "manifest.sig")})
    for command in commands:
        run = edgeseg(*command, "--require-signature", public)
        assert run.code == 0, run.err
        foreign = edgeseg(*command, "--require-signature", signing_keys[1][1])
        assert (foreign.code, "is not signed by" in foreign.err) == (5, True)
        keyless = edgeseg(*command, "--require-signature", copied / "no.pem")
        assert (keyless.code, "no readable public key" in keyless.err) == (2, True)
    (copied / "manifest.json").write_bytes((copied / "manifest.json").read_bytes() + b" ")
    for command in commands:
        changed = edgeseg(*command, "--require-signature", public)
        assert (changed.code, "or was changed since" in changed.err) == (5, True)
    assert edgeseg("sign", copied, "--key", public).code == 2
    assert f"Signature: {copied / 'manifest.sig'}" in edgeseg("sign", copied, "--key", private).err


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "parity.json"])
def test_a_changed_byte_in_any_file_leaves_with_5(
    name: str, copied: Path, signing_keys: list[tuple[Path, Path]], short_tiff: Path, edgeseg: Edgeseg
) -> None:
    edgeseg("sign", copied, "--key", signing_keys[0][0])
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    for command in (("engines", copied), ("infer", short_tiff, "--engine", copied)):
        run = edgeseg(*command, "--require-signature", signing_keys[0][1])
        assert run.code == 5
        assert run.err.splitlines()[-1].startswith("error: the bundle copied ")
    assert not Path("edgeseg-output").exists()


def test_a_truncated_manifest_leaves_with_5(copied: Path, short_tiff: Path, edgeseg: Edgeseg) -> None:
    content = (copied / "manifest.json").read_bytes()
    (copied / "manifest.json").write_bytes(content[: len(content) // 2])
    for command in (("engines", copied), ("infer", short_tiff, "--engine", copied), ("sign", copied, "--key", "x")):
        run = edgeseg(*command)
        assert (run.code, "has no usable manifest.json" in run.err) == (5, True)


def test_signatures_without_their_package(
    copied: Path, signing_keys: list[tuple[Path, Path]], edgeseg: Edgeseg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    run = edgeseg("sign", copied, "--key", signing_keys[0][0])
    assert (run.code, "pip install 'edgeseg[signing]'" in run.err) == (4, True)


# --- benchmark


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No peers, few batches: what takes minutes is tested elsewhere."""
    monkeypatch.setattr(contenders, "peers", lambda *_: ([], ["no peers in this test"]))
    monkeypatch.setattr(benchmark, "BATCHES", (1, 2))


@pytest.mark.usefixtures("alone")
def test_a_benchmark_with_chart_and_record(
    copied: Path, tmp_path: Path, edgeseg: Edgeseg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    chart = tmp_path / "chart.png"
    run = edgeseg("benchmark", copied, "--rounds", "2", "--threads", "1", "--chart", chart, "--record", "--json")
    assert run.code == 0, run.err
    assert run.err.splitlines() == ["warning: no peers in this test"]
    (engine,) = run.json["engines"]
    assert (run.json["rounds"], run.json["threads"]) == (2, 1)
    assert (engine["name"], engine["ratios"], engine["peer"]) == (bundle.DEFAULT_ENGINE, {}, False)
    assert chart.read_bytes().startswith(b"\x89PNG")
    speed = bundle.read(copied)[0].speed
    assert speed is not None
    assert (speed.slices_per_second, speed.threads) == (engine["best"]["slices_per_second"], 1)
    table = edgeseg("benchmark", copied, "--rounds", "1", "--threads", "1", "--backend", "onnxruntime")
    assert max(map(len, table.out.splitlines())) <= 80
    assert f" {bundle.DEFAULT_ENGINE} " in table.out
    assert "ONNX Runtime" in table.out
    assert "1 threads, 1 rounds" in table.err


@pytest.mark.usefixtures("alone")
def test_a_benchmark_that_cannot_be(
    copied: Path, tmp_path: Path, signing_keys: list[tuple[Path, Path]], edgeseg: Edgeseg
) -> None:
    for arguments, code, said in (
        ((copied, copied), 2, "given twice"),
        (("nonsense",), 2, "no engine nonsense"),
        ((copied, "--chart", tmp_path / "no" / "chart.png"), 2, "there is no folder"),
        ((copied, "--backend", "nonsense"), 2, "not for nonsense"),
        ((copied, "--rounds", "0"), 2, "Invalid value for '--rounds'"),
    ):
        run = edgeseg("benchmark", *arguments)
        assert (run.code, said in run.err) == (code, True), run.err
    edgeseg("sign", copied, "--key", signing_keys[0][0])
    signed = edgeseg("benchmark", copied, "--record")
    assert (signed.code, "its speed would undo that" in signed.err) == (2, True)
    (copied / "model.onnx").write_bytes(b"")
    damaged = edgeseg("benchmark", copied)
    assert (damaged.code, "is damaged: model.onnx" in damaged.err) == (5, True)
