"""Plans: built for real by TensorRT for RTX, which needs no GPU for it; other modules by a double."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeseg import bundle, nvidia
from edgeseg.errors import BackendMissing, EngineError, InputError
from edgeseg.export import plan, precision
from edgeseg.export.plan import PlanOptions


@pytest.fixture(scope="module")
def single(tiny_bundle: Path) -> bytes:
    """The small network's FP32 file."""
    pytest.importorskip("tensorrt_rtx", reason="plans are built by the extra tensorrt-rtx")
    return bundle.read(tiny_bundle)[1]


@pytest.fixture(scope="module")
def half(single: bytes) -> bytes:
    """The same computing in FP16."""
    return precision.to_fp16(single)


@pytest.fixture(scope="module")
def quantised(single: bytes, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The same with Q/DQ pairs of TensorRT's kind around its convolutions."""
    from onnxruntime import quantization

    slices = iter([{"slices": np.random.default_rng(k).integers(0, 256, (1, 3, 256, 256), np.uint8)} for k in range(2)])

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Any:
            return next(slices, None)

    path = tmp_path_factory.mktemp("quantised") / "model.onnx"
    path.with_name("single.onnx").write_bytes(single)
    logging.disable(logging.WARNING)  # it wants to be told to preprocess
    quantization.quantize_static(
        path.with_name("single.onnx"),
        path,
        Reader(),
        per_channel=True,
        op_types_to_quantize=["Conv"],
        activation_type=quantization.QuantType.QInt8,
        weight_type=quantization.QuantType.QInt8,
        extra_options={"QuantizeBias": False, "ActivationSymmetric": True},
    )
    logging.disable(logging.NOTSET)
    return path.read_bytes()


def _rtx(kind: Any = "fp16", **options: Any) -> PlanOptions:
    return PlanOptions("tensorrt-rtx", kind, **options)


def test_precision_of_the_file_is_that_of_the_plan(single: bytes, half: bytes) -> None:
    weights = len(half) * 2
    full, small = (plan.build_plan(*given) for given in ((single, _rtx("fp32")), (half, _rtx("fp16"))))
    assert 0.8 * weights < len(full.content) < 3 * weights
    assert len(small.content) < 0.8 * len(full.content)
    assert (full.qdq_pairs, small.qdq_pairs) == (0, 0)


@pytest.mark.parametrize("computes", ["fp32", "fp16"])
def test_a_quantised_file_becomes_a_plan_with_all_its_pairs(computes: str, quantised: bytes) -> None:
    import onnx

    content = quantised if computes == "fp32" else precision.to_fp16(quantised)
    kinds = [node.op_type for node in onnx.load_from_string(content).graph.node]
    built = plan.build_plan(content, _rtx("int8", capabilities=("8.9",)))
    assert built.qdq_pairs == kinds.count("QuantizeLinear") > 20
    assert len(content) / 3 < len(built.content) < 20_000_000, "weights, and kernels for 8.9"


def test_a_plan_for_two_capabilities(half: bytes) -> None:
    built = plan.build_plan(half, _rtx(capabilities=("7.5", "12.0"), max_batch=3, workspace_mb=64))
    one = plan.build_plan(half, _rtx(capabilities=("12.0",)))
    assert len(built.content) > len(one.content)
    assert built.facts() == {
        "runtime": "tensorrt-rtx",
        "version": nvidia.load("tensorrt-rtx").__version__,
        "max_batch": 3,
        "workspace_mb": 64,
        "dla_core": None,
        "capabilities": ["7.5", "12.0"],
        "version_compatible": False,
        "hardware_compatible": False,
        "qdq_pairs": 0,
        "layers": built.facts()["layers"],
    }


def test_an_unknown_capability_lists_those_known(half: bytes) -> None:
    with pytest.raises(InputError, match=r"no compute capability 8.7: give one of 7.5, 8.0, 8.6, 8.9, 12.0"):
        plan.build_plan(half, _rtx(capabilities=("8.9", "8.7")))


def test_bytes_that_are_no_network_are_refused_in_the_parsers_words(single: bytes) -> None:
    for content in (single[: len(single) // 2], b"garbage" * 100):
        with pytest.raises(EngineError, match=r"cannot read the network \(.*Failed to parse the ONNX model"):
            plan.build_plan(content, _rtx())
    with pytest.raises(EngineError, match="holds no network with one input"):
        plan.build_plan(b"", _rtx())


def test_a_file_called_int8_has_to_be_quantised(half: bytes) -> None:
    with pytest.raises(EngineError, match="holds no Q/DQ pair"):
        plan.build_plan(half, _rtx("int8"))


def test_a_machine_without_dla_says_so(half: bytes) -> None:
    with pytest.raises(InputError, match="finds 0 DLA cores on this machine, not core 0"):
        plan.build_plan(half, _rtx(dla_core=0))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (PlanOptions("tensorrt", "int8", dla_core=0), "DLA runs FP16 here, not INT8: it has not taken Q/DQ networks"),
        (PlanOptions("tensorrt", "fp32", dla_core=0), "not FP32"),
        (PlanOptions("tensorrt", capabilities=("8.9",)), "--capability is for --backend tensorrt-rtx"),
        (PlanOptions("tensorrt-rtx", timing_cache=Path("x")), "leave --timing-cache out"),
        (PlanOptions("tensorrt-rtx", hardware_compatible=True), "in place of --hardware-compatible"),
        (PlanOptions("tensorrt-rtx", max_batch=0), "1 or more"),
        (PlanOptions("tensorrt-rtx", workspace_mb=0), "1 or more"),
    ],
)
def test_options_that_do_not_fit_need_no_runtime_to_be_refused(options: PlanOptions, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        plan.build_plan(b"", options)


# --- TensorRT, by a double


class _Config:
    """Records what was set."""

    def __init__(self, cache: bytes) -> None:
        self.cache, self.flags, self.limits = cache, [], {}  # type: tuple[Any, list[str], dict[str, int]]
        self.given_cache = b"none"

    def set_flag(self, flag: str) -> None:
        self.flags.append(flag)

    def add_optimization_profile(self, profile: Any) -> int:
        self.profile = profile
        return 0

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.limits[pool] = size

    def create_timing_cache(self, stored: bytes) -> bytes:
        return stored

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.given_cache = cache
        return cache != b"of another GPU"

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: self.given_cache + b", measured")


def _layer(name: str, kind: str) -> str:
    return f'{{"Name": "{name}", "Inputs": [{{"Format/Datatype": "{kind}"}}], "Outputs": []}}'


def _tensorrt(version: str = "10.7.0", layers: tuple[str, ...] = (), cores: int = 2, flags: Any = None) -> Any:
    """A module that compiles anything to ``b"plan"``, and whose inspector tells of these layers."""
    module = SimpleNamespace(__version__=version, config=_Config(b""), created=[], parser_flags=[], runtimes=[])
    profile = SimpleNamespace(shapes={})
    profile.set_shape = lambda name, *shapes: profile.shapes.update({name: shapes})
    network = SimpleNamespace(num_inputs=1, num_outputs=1, num_layers=2)
    network.get_input = lambda _: SimpleNamespace(name="slices", shape=(-1, 3, 8, 8))
    network.get_layer = lambda index: SimpleNamespace(type=("Q", "DQ")[index])
    builder = SimpleNamespace(num_DLA_cores=cores)
    builder.create_network = lambda value: module.created.append(value) or network
    builder.create_builder_config = lambda: module.config
    builder.create_optimization_profile = lambda: profile
    builder.build_serialized_network = lambda *_: b"plan"
    inspector = SimpleNamespace(get_engine_information=lambda _: f'{{"Layers": [{", ".join(layers)}]}}')
    runtime = SimpleNamespace(engine_host_code_allowed=False, DLA_core=None)
    runtime.deserialize_cuda_engine = lambda _: (
        SimpleNamespace(create_engine_inspector=lambda: inspector) if layers else None
    )
    module.ILogger = type("ILogger", (), {"ERROR": "error"})
    module.Builder = lambda _: builder
    module.OnnxParser = lambda *_: SimpleNamespace(parse=lambda _: True, set_flag=module.parser_flags.append)
    module.Runtime = lambda _: runtime
    module.runtime, module.profile = runtime, profile
    names = flags if flags is not None else {"FP16": "FP16"}
    module.BuilderFlag = SimpleNamespace(VERSION_COMPATIBLE="VC", GPU_FALLBACK="FALLBACK", **names)
    module.NetworkDefinitionCreationFlag = SimpleNamespace(**({"STRONGLY_TYPED": 1} if names else {}))
    module.OnnxParserFlag = SimpleNamespace(**({} if names else {"ADJUST_FOR_DLA": "adjust"}))
    module.LayerType = SimpleNamespace(QUANTIZE="Q", DEQUANTIZE="DQ")
    module.ProfilingVerbosity = SimpleNamespace(DETAILED="detailed")
    module.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
    module.HardwareCompatibilityLevel = SimpleNamespace(AMPERE_PLUS="8.0+")
    module.DeviceType = SimpleNamespace(DLA="DLA")
    module.LayerInformationFormat = SimpleNamespace(JSON="json")
    return module


HALF, INT8 = _layer("a", "Half NCHW"), _layer("int8 by name alone", "Int8 NC/32HW32")


def _install(monkeypatch: pytest.MonkeyPatch, module: Any) -> Any:
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


def test_strongly_typed_where_there_is_a_flag_and_nothing_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for version, flags, expected in (("10.3.0", None, 1 << 1), ("11.4.1", {}, 0)):
        module = _install(monkeypatch, _tensorrt(version, (HALF,), flags=flags))
        built = plan.build_plan(b"network", PlanOptions("tensorrt", max_batch=16))
        assert module.created == [expected]
        assert module.profile.shapes == {"slices": ((1, 3, 8, 8), (8, 3, 8, 8), (16, 3, 8, 8))}
        assert not module.config.flags
        assert (built.content, built.version, built.layers) == (b"plan", version, plan.Layers(1, 0))


def test_compatibility_and_workspace_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    module = _install(monkeypatch, _tensorrt(layers=(HALF,)))
    options = PlanOptions("tensorrt", version_compatible=True, hardware_compatible=True, workspace_mb=256)
    built = plan.build_plan(b"network", options)
    assert module.config.flags == ["VC"]
    assert module.config.hardware_compatibility_level == "8.0+"
    assert module.config.limits == {"workspace": 256 << 20}
    assert module.runtime.engine_host_code_allowed
    assert built.facts()["version_compatible"]


def test_int8_layers_are_counted_by_their_tensors_and_have_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, _tensorrt(layers=(HALF, INT8)))
    built = plan.build_plan(b"network", PlanOptions("tensorrt", "int8"))
    assert built.facts()["layers"] == {"total": 2, "int8": 1}
    _install(monkeypatch, _tensorrt(layers=(HALF, _layer("int8", "Half NCHW"))))
    with pytest.raises(EngineError, match="none of the plan's 2 layers is INT8, though the network holds 1 Q/DQ pairs"):
        plan.build_plan(b"network", PlanOptions("tensorrt", "int8"))


def test_dla(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT 10 takes FP16 for DLA from a flag of the builder, 11 from the file."""
    for version, flags, expected in (("10.3.0", None, ["FALLBACK", "FP16"]), ("11.4.1", {}, ["FALLBACK"])):
        module = _install(monkeypatch, _tensorrt(version, (HALF,), flags=flags))
        plan.build_plan(b"network", PlanOptions("tensorrt", dla_core=1))
        assert module.created == [0]
        assert module.config.flags == expected
        assert (module.config.default_device_type, module.config.DLA_core, module.runtime.DLA_core) == ("DLA", 1, 1)
        assert module.profile.shapes == {"slices": ((8, 3, 8, 8),) * 3}
        assert module.parser_flags == ([] if flags is None else ["adjust"])
    with pytest.raises(InputError, match="finds 2 DLA cores on this machine, not core 2"):
        plan.build_plan(b"network", PlanOptions("tensorrt", dla_core=2))


def test_the_timing_cache_is_read_and_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "timing.cache"
    options = PlanOptions("tensorrt", timing_cache=path)
    for stored, given in ((None, b""), (b"times", b"times"), (b"of another GPU", b"")):
        if stored is not None:
            path.write_bytes(stored)
        module = _install(monkeypatch, _tensorrt(layers=(HALF,)))
        plan.build_plan(b"network", options)
        assert module.config.given_cache == given
        assert path.read_bytes() == given + b", measured"
    with pytest.raises(InputError, match="cannot read the timing cache"):
        plan.build_plan(b"network", PlanOptions("tensorrt", timing_cache=tmp_path))
    with pytest.raises(InputError, match="cannot write the timing cache"):
        plan.build_plan(b"network", PlanOptions("tensorrt", timing_cache=tmp_path / "no" / "cache"))


def test_a_builder_that_cannot_be_had_is_an_error_with_a_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    module = _install(monkeypatch, _tensorrt())

    def refuse(logger: Any) -> Any:
        logger.log("error", "no CUDA device")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    module.Builder = refuse
    with pytest.raises(EngineError, match=r"cannot build on this machine \(no CUDA device\)"):
        plan.build_plan(b"network", PlanOptions("tensorrt"))


@pytest.mark.parametrize(
    ("runtime", "remedy"), [("tensorrt", "JetPack 6.1"), ("tensorrt-rtx", r"edgeseg\[tensorrt-rtx")]
)
def test_a_missing_module_names_its_remedy(runtime: Any, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, nvidia.PRODUCTS[runtime].module, None)
    with pytest.raises(BackendMissing, match=rf"is not installed .*{remedy}"):
        plan.build_plan(b"", PlanOptions(runtime))


def test_an_old_jetpack_is_told_to_upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, _tensorrt("8.6.2"))
    with pytest.raises(BackendMissing, match=r"TensorRT 8.6.2 is installed, edgeseg takes 10.3 or newer.*JetPack 6.1"):
        plan.build_plan(b"", PlanOptions("tensorrt"))
