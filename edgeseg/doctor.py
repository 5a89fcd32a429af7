"""What this machine can build and run, and the remedy for what it cannot."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from importlib import metadata, util

import numpy as np

from edgeseg import backends, bundle, nvidia
from edgeseg.errors import BackendMissing, EdgesegError, EngineError, InputError, ParityError


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, whether it is well, what was found, and the remedy (empty when well).

    ``exit_code`` is what ``edgeseg doctor`` leaves with because of it: 0 when it is well or nothing here needs it.
    """

    what: str
    well: bool
    found: str
    remedy: str
    exit_code: int = 0


COLUMNS = ["what", "well", "found", "remedy"]
_EXTRAS = {
    "PyTorch, to train": (("torch", "segmentation_models_pytorch"), "torch", "pip install 'edgeseg[train]'"),
    "ONNX, to build engines": (("onnx", "onnxsim", "onnxscript"), "onnx", "pip install 'edgeseg[train,export]'"),
    "ONNX Runtime": (("onnxruntime",), "onnxruntime", "pip install 'edgeseg[export]'"),
}
_DECODERS = {
    "JPEG, JPEG lossless (gdcm)": ("gdcm", "python-gdcm"),
    "JPEG 2000 (openjpeg)": ("openjpeg", "pylibjpeg-openjpeg"),
    "JPEG-LS (CharLS)": ("jpeg_ls", "pyjpegls"),
}


def examine(needed: Collection[str] = ()) -> list[Finding]:
    """Look at runtimes, decoders, shipped engines, extras, and what NVIDIA GPUs need.

    Parameters
    ----------
    needed
        Names of findings, without regard to case, that this machine needs besides what ``edgeseg infer`` does.

    Raises
    ------
    InputError
        When there is no finding of such a name.
    """
    findings = [
        _openvino(),
        *(_decoder(name) for name in _DECODERS),
        *_engines(),
        _tensorrt(),
        _tensorrt_rtx(),
        _cuda_binding(),
        _gpu(),
        *(_extra(name) for name in _EXTRAS),
    ]
    wanted = {name.casefold() for name in needed}
    unknown = wanted - {finding.what.casefold() for finding in findings}
    if unknown:
        names = "; ".join(finding.what for finding in findings)
        raise InputError(f"the doctor does not look at {min(unknown)}: give one of {names}")
    return [_need(finding) if finding.what.casefold() in wanted else finding for finding in findings]


def check(findings: list[Finding]) -> None:
    """Raise for the first finding that is needed and not well.

    Raises
    ------
    BackendMissing
        When it is a runtime or a decoder.
    EngineError
        When it is a shipped engine that is damaged, or there is none.
    ParityError
        When it is a shipped engine that has not passed parity.
    """
    errors = {error.exit_code: error for error in (BackendMissing, EngineError, ParityError)}
    for finding in findings:
        if finding.exit_code:
            raise errors[finding.exit_code](f"{finding.what} is not well ({finding.found}): {finding.remedy}")


def rows(findings: list[Finding]) -> list[list[str]]:
    """A table's rows, under `COLUMNS`."""
    return [[f.what, "yes" if f.well else "no", f.found, f.remedy or "-"] for f in findings]


def _need(finding: Finding) -> Finding:
    return finding if finding.well or finding.exit_code else replace(finding, exit_code=BackendMissing.exit_code)


def _openvino() -> Finding:
    try:
        import openvino

        found = f"{metadata.version('openvino')}, devices {', '.join(openvino.Core().available_devices)}"
        _run_default_engine()
        return Finding("OpenVINO", True, found, "")
    except (ImportError, RuntimeError, AttributeError, OSError, EdgesegError) as error:
        remedy = "pip install --force-reinstall openvino"
        return Finding("OpenVINO", False, _first_line(error), remedy, BackendMissing.exit_code)


def _run_default_engine() -> None:
    """Run an empty slice: OpenVINO lists devices whose library is gone."""
    try:
        manifest, content = bundle.read(bundle.find(bundle.DEFAULT_ENGINE))
    except EdgesegError:  # its own finding says so
        return
    size = manifest.preprocessing.size_px
    with backends.open_engine(manifest, content, "openvino", "cpu") as engine:
        engine.predict_logits(np.zeros((1, 3, size, size), np.uint8))


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _decoder(name: str) -> Finding:
    module, package = _DECODERS[name]
    if util.find_spec(module):
        return Finding(name, True, _version(package), "")
    return Finding(name, False, "not installed", f"pip install {package}", BackendMissing.exit_code)


def _tensorrt() -> Finding:
    """TensorRT, which NVIDIA's images and JetPack bring, and one of the two ways to reach CUDA from Python."""
    name = "TensorRT"
    if not util.find_spec("tensorrt"):
        return Finding(name, False, "not installed", "use Dockerfile's stage tensorrt, or JetPack (docs/jetson.md)")
    try:
        version = str(nvidia.load("tensorrt").__version__)
    except BackendMissing as error:
        if isinstance(error.__cause__, Exception):  # it is there, and a library beneath it is not
            remedy = "start the container with --gpus all or --runtime nvidia"
            return Finding(name, False, _first_line(error.__cause__), remedy)
        return Finding(name, False, str(error).split(":")[0], nvidia.PRODUCTS["tensorrt"].remedy)
    binding = _cuda_binding()
    if not binding.well:
        return Finding(name, False, f"{version}, without pycuda or cuda-python", binding.remedy)
    return Finding(name, True, version, "")


def _tensorrt_rtx() -> Finding:
    product = nvidia.PRODUCTS["tensorrt-rtx"]
    try:
        return Finding(product.title, True, str(nvidia.load("tensorrt-rtx").__version__), "")
    except BackendMissing as error:
        found = "not installed" if util.find_spec(product.module) is None else str(error).split(":")[0]
        return Finding(product.title, False, found, product.remedy)


def _cuda_binding() -> Finding:
    for module, package in (("pycuda", "pycuda"), ("cuda.bindings", "cuda-bindings")):
        if util.find_spec(module.split(".")[0]) and util.find_spec(module):
            return Finding("CUDA binding, to run plans", True, f"{package} {_version(package)}", "")
    return Finding("CUDA binding, to run plans", False, "not installed", "pip install cuda-python")


def _gpu() -> Finding:
    from edgeseg.backends import cuda

    try:
        gpu = cuda.open_gpu()
    except (ImportError, EdgesegError) as error:
        return Finding("NVIDIA GPU", False, str(error).split(":")[0], "install NVIDIA's driver, or use a CPU engine")
    gpu.close()
    return Finding("NVIDIA GPU", True, f"{gpu.name}, compute capability {gpu.capability}", "")


def _version(package: str) -> str:
    """Version of a distribution; a module may be there without one (from apt, or another build)."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "installed, version unknown"


def _engines() -> list[Finding]:
    folders = bundle.shipped()
    damaged = EngineError.exit_code
    if not folders:
        return [Finding("shipped engines", False, "none found", "install edgeseg again", damaged)]
    findings = []
    for folder in folders:
        try:
            manifest, _ = bundle.read(folder)
        except EdgesegError as error:
            findings.append(Finding(folder.name, False, "damaged", str(error), damaged))
        else:
            passed = manifest.parity is not None and manifest.parity.passed
            found = f"sha256 {manifest.sha256[:12]}, parity {'passed' if passed else 'not passed'}"
            remedy, code = ("", 0) if passed else ("edgeseg build-engine", ParityError.exit_code)
            findings.append(Finding(folder.name, passed, found, remedy, code))
    return findings


def _extra(name: str) -> Finding:
    modules, package, remedy = _EXTRAS[name]
    missing = [module for module in modules if not util.find_spec(module)]
    if missing:
        return Finding(name, False, "not installed", remedy)
    return Finding(name, True, _version(package), "")
