"""What this machine can build and run, and the remedy for what it cannot."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata, util

from edgeseg import bundle, nvidia
from edgeseg.errors import EdgesegError


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, whether it is well, what was found, and the remedy (empty when well)."""

    what: str
    well: bool
    found: str
    remedy: str


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


def examine() -> list[Finding]:
    """Look at runtimes, decoders, shipped engines, extras, and what NVIDIA GPUs need."""
    return [
        _openvino(),
        *(_decoder(name) for name in _DECODERS),
        *_engines(),
        *(_extra(name) for name in _EXTRAS),
        *(_plan_runtime(name) for name in nvidia.PRODUCTS),
        _cuda_binding(),
        _gpu(),
    ]


def _openvino() -> Finding:
    try:
        import openvino

        devices = ", ".join(openvino.Core().available_devices)
        return Finding("OpenVINO", True, f"{metadata.version('openvino')}, devices {devices}", "")
    except (ImportError, RuntimeError) as error:
        return Finding("OpenVINO", False, str(error).splitlines()[0], "pip install --force-reinstall openvino")


def _decoder(name: str) -> Finding:
    module, package = _DECODERS[name]
    if util.find_spec(module):
        return Finding(name, True, _version(package), "")
    return Finding(name, False, "not installed", f"pip install {package}")


def _version(package: str) -> str:
    """Version of a distribution; a module may be there without one (from apt, or another build)."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "installed, version unknown"


def _engines() -> list[Finding]:
    folders = bundle.shipped()
    if not folders:
        return [Finding("shipped engines", False, "none found", "install edgeseg again")]
    findings = []
    for folder in folders:
        try:
            manifest, _ = bundle.read(folder)
        except EdgesegError as error:
            findings.append(Finding(folder.name, False, "damaged", str(error)))
        else:
            passed = manifest.parity is not None and manifest.parity.passed
            found = f"sha256 {manifest.sha256[:12]}, parity {'passed' if passed else 'not passed'}"
            findings.append(Finding(folder.name, passed, found, "" if passed else "edgeseg build-engine"))
    return findings


def _extra(name: str) -> Finding:
    modules, package, remedy = _EXTRAS[name]
    missing = [module for module in modules if not util.find_spec(module)]
    if missing:
        return Finding(name, False, "not installed", remedy)
    return Finding(name, True, _version(package), "")


def _plan_runtime(name: str) -> Finding:
    product = nvidia.PRODUCTS[name]
    try:
        return Finding(product.title, True, str(nvidia.load(name).__version__), "")
    except EdgesegError as error:
        found = "not installed" if util.find_spec(product.module) is None else str(error)
        return Finding(product.title, False, found, product.remedy)


def _cuda_binding() -> Finding:
    for module, package in (("pycuda", "pycuda"), ("cuda.bindings", "cuda-bindings")):
        if util.find_spec(module.split(".")[0]) and util.find_spec(module):
            return Finding("CUDA binding, to run plans", True, f"{package} {_version(package)}", "")
    return Finding("CUDA binding, to run plans", False, "not installed", "pip install cuda-bindings")


def _gpu() -> Finding:
    from edgeseg.backends import cuda

    try:
        gpu = cuda.open_gpu()
    except (ImportError, EdgesegError) as error:
        return Finding("NVIDIA GPU", False, str(error).split(":")[0], "install NVIDIA's driver, or use a CPU engine")
    gpu.close()
    return Finding("NVIDIA GPU", True, f"{gpu.name}, compute capability {gpu.capability}", "")
