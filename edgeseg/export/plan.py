"""A network file compiled to a plan, by TensorRT or by TensorRT for RTX: one code path for both."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgeseg import nvidia
from edgeseg.errors import EngineError, InputError


@dataclass(frozen=True)
class PlanOptions:
    """What a plan is built for.

    Parameters
    ----------
    runtime
        ``tensorrt``: a plan for this machine's GPU. ``tensorrt-rtx``: a plan for named compute capabilities, which
        needs no GPU to be built.
    precision
        Of the network file; an ``int8`` file has to hold Q/DQ pairs and to become INT8 layers.
    max_batch
        Largest number of slices at once; the plan takes 1 to this many, on DLA just this many.
    workspace_mb
        Most memory that a layer may take beside its tensors, in MiB; None leaves it to TensorRT.
    dla_core
        Core of the deep learning accelerator to run on, from 0; None runs on the GPU.
    capabilities
        TensorRT for RTX: compute capabilities, such as ``8.9``; none means those that it takes by itself.
    timing_cache
        TensorRT: file of measured layer times, read where it exists and written afterwards.
    version_compatible
        Let later versions of TensorRT run the plan.
    hardware_compatible
        TensorRT: let other GPUs of capability 8.0 and newer run the plan.
    """

    runtime: Literal["tensorrt", "tensorrt-rtx"]
    precision: Literal["fp32", "fp16", "int8"] = "fp16"
    max_batch: int = 8
    workspace_mb: int | None = None
    dla_core: int | None = None
    capabilities: tuple[str, ...] = ()
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False


@dataclass(frozen=True)
class Layers:
    """What the engine inspector tells of a plan: its layers, and those of them that read, write or hold INT8."""

    total: int
    int8: int


@dataclass(frozen=True)
class Plan:
    """A serialised plan and the facts of its making.

    Parameters
    ----------
    content
        The plan: executable content, for the version and the GPUs below.
    version
        Of the module that built it.
    qdq_pairs
        QuantizeLinear/DequantizeLinear pairs of the parsed network.
    layers
        None when the building machine could not load the plan.
    options
        What it was built for.
    """

    content: bytes
    version: str
    qdq_pairs: int
    layers: Layers | None
    options: PlanOptions

    def facts(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        options = self.options
        return {
            "runtime": options.runtime,
            "version": self.version,
            "max_batch": options.max_batch,
            "workspace_mb": options.workspace_mb,
            "dla_core": options.dla_core,
            "capabilities": list(options.capabilities),
            "version_compatible": options.version_compatible,
            "hardware_compatible": options.hardware_compatible,
            "qdq_pairs": self.qdq_pairs,
            "layers": None if self.layers is None else vars(self.layers),
        }


def build_plan(content: bytes, options: PlanOptions) -> Plan:
    """Parse, configure, compile, serialise, inspect.

    Parameters
    ----------
    content
        A serialised ONNX model with one input (N, C, H, W), N free.
    options
        What the plan is for.

    Raises
    ------
    InputError
        When an option does not fit the runtime, the precision or this machine.
    BackendMissing
        When the runtime is not installed, or of a version that does not serve.
    EngineError
        When the network cannot be parsed or compiled, or a file called INT8 did not become INT8.
    """
    check_options(options)
    module = nvidia.load(options.runtime)
    logger = nvidia.recorder(module)
    builder = _builder(module, logger, options)
    network, _parser = _parse(module, builder, logger, content, options)  # the parser holds the weights: keep it
    pairs = _qdq_pairs(module, network)
    if options.precision == "int8" and not pairs:
        raise EngineError("the network is called INT8 and holds no Q/DQ pair: quantise it first (--int8)")
    config = _configure(module, builder, network, options)
    serialised = builder.build_serialized_network(network, config)
    if serialised is None:
        raise EngineError(
            f"{_title(options)} cannot compile the network ({logger.last()}): leave out the options that it was given, "
            "or give another precision"
        )
    _keep_timing_cache(config, options)
    plan = bytes(serialised)
    layers = _inspect(module, logger, plan, options)
    if options.precision == "int8" and layers is not None and not layers.int8:
        raise EngineError(
            f"none of the plan's {layers.total} layers is INT8, though the network holds {pairs} Q/DQ pairs: "
            "build it with --fp16, or with another version of the runtime"
        )
    return Plan(plan, str(module.__version__), pairs, layers, options)


def check_options(options: PlanOptions) -> None:
    """Refuse options that exclude each other; needs no runtime.

    Raises
    ------
    InputError
        With the reason and the mend.
    """
    rtx = options.runtime == "tensorrt-rtx"
    if options.max_batch < 1 or (options.workspace_mb is not None and options.workspace_mb < 1):
        raise InputError("--max-batch and --workspace-mb take 1 or more")
    if options.dla_core is not None and options.precision != "fp16":
        raise InputError(
            f"DLA runs FP16 here, not {options.precision.upper()}: it has not taken Q/DQ networks so far, and has no "
            "FP32: give --fp16, or leave --dla out"
        )
    if rtx and options.timing_cache is not None:
        raise InputError("TensorRT for RTX measures nothing while it builds: leave --timing-cache out")
    if rtx and options.hardware_compatible:
        raise InputError(
            "plans of TensorRT for RTX name their GPUs: give --capability in place of --hardware-compatible"
        )
    if not rtx and options.capabilities:
        raise InputError("TensorRT builds for the GPU of this machine: --capability is for --backend tensorrt-rtx")


def _title(options: PlanOptions) -> str:
    return nvidia.PRODUCTS[options.runtime].title


def _builder(module: Any, logger: Any, options: PlanOptions) -> Any:
    try:
        builder = module.Builder(logger)
    except (TypeError, RuntimeError) as error:  # the binding's word for "returned nothing"
        raise EngineError(
            f"{_title(options)} cannot build on this machine ({logger.last()}): build where its GPU and driver are"
        ) from error
    cores = int(getattr(builder, "num_DLA_cores", 0))
    if options.dla_core is not None and not 0 <= options.dla_core < cores:
        raise InputError(
            f"{_title(options)} {module.__version__} finds {cores} DLA cores on this machine, not core "
            f"{options.dla_core}: leave --dla out, or see which JetPack has DLA"
        )
    return builder


def _weakly_typed_dla(module: Any, options: PlanOptions) -> bool:
    """DLA of TensorRT 10 takes FP16 from a builder flag; later versions take it from the file, as the GPU does."""
    return options.dla_core is not None and hasattr(module.BuilderFlag, "FP16")


def _parse(module: Any, builder: Any, logger: Any, content: bytes, options: PlanOptions) -> tuple[Any, Any]:
    typed = getattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    flags = 0 if typed is None or _weakly_typed_dla(module, options) else 1 << int(typed)
    network = builder.create_network(flags)
    parser = module.OnnxParser(network, logger)
    adjust = getattr(module.OnnxParserFlag, "ADJUST_FOR_DLA", None)
    if options.dla_core is not None and adjust is not None:
        parser.set_flag(adjust)
    if not parser.parse(content):
        said = parser.get_error(0).desc() if parser.num_errors else logger.last()
        raise EngineError(f"{_title(options)} cannot read the network ({' '.join(said.split())}): export it again")
    if network.num_inputs != 1 or network.num_outputs != 1 or len(network.get_input(0).shape) != 4:
        raise EngineError("the file holds no network with one input (N, C, H, W) and one output: export it again")
    return network, parser


def _qdq_pairs(module: Any, network: Any) -> int:
    kinds = [network.get_layer(index).type for index in range(network.num_layers)]
    return min(kinds.count(module.LayerType.QUANTIZE), kinds.count(module.LayerType.DEQUANTIZE))


def _configure(module: Any, builder: Any, network: Any, options: PlanOptions) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED  # else the inspector tells no data types
    given = network.get_input(0)
    profile = builder.create_optimization_profile()
    batches = (1, (options.max_batch + 1) // 2, options.max_batch)
    if options.dla_core is not None:
        batches = (options.max_batch,) * 3  # DLA knows no free dimension
    profile.set_shape(given.name, *((batch, *tuple(given.shape)[1:]) for batch in batches))
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(
            f"the network takes {tuple(given.shape)} slices, not 1 to {options.max_batch}: export it again"
        )
    if options.workspace_mb is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
    if options.version_compatible:
        config.set_flag(module.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = module.HardwareCompatibilityLevel.AMPERE_PLUS
    _set_dla(module, config, options)
    _set_capabilities(module, config, options)
    _set_timing_cache(config, options)
    return config


def _set_dla(module: Any, config: Any, options: PlanOptions) -> None:
    if options.dla_core is None:
        return
    config.default_device_type = module.DeviceType.DLA
    config.DLA_core = options.dla_core
    config.set_flag(module.BuilderFlag.GPU_FALLBACK)  # for the layers that DLA does not have
    if _weakly_typed_dla(module, options):
        config.set_flag(module.BuilderFlag.FP16)


def _set_capabilities(module: Any, config: Any, options: PlanOptions) -> None:
    if not options.capabilities:
        return
    known = _capabilities(module)
    unknown = [name for name in options.capabilities if name not in known]
    if unknown:
        raise InputError(
            f"{_title(options)} {module.__version__} has no compute capability {unknown[0]}: give one of "
            f"{', '.join(known)}"
        )
    config.num_compute_capabilities = len(options.capabilities)
    for index, name in enumerate(options.capabilities):
        if not config.set_compute_capability(known[name], index):
            raise InputError(f"{_title(options)} does not take --capability {name} beside the others: name each once")


def _capabilities(module: Any) -> dict[str, Any]:
    """``8.9`` -> the module's SM89, in ascending order."""
    members = {name: value for name, value in module.ComputeCapability.__members__.items() if name.startswith("SM")}
    numbers = sorted((int(name[2:]), value) for name, value in members.items())
    return {f"{number // 10}.{number % 10}": value for number, value in numbers}


def _set_timing_cache(config: Any, options: PlanOptions) -> None:
    if options.timing_cache is None:
        return
    try:
        stored = options.timing_cache.read_bytes() if options.timing_cache.exists() else b""
    except OSError as error:
        raise InputError(f"cannot read the timing cache {options.timing_cache} ({error.strerror})") from error
    if not config.set_timing_cache(config.create_timing_cache(stored), ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)  # of another GPU or version


def _keep_timing_cache(config: Any, options: PlanOptions) -> None:
    if options.timing_cache is None:
        return
    partial = options.timing_cache.with_name(options.timing_cache.name + ".part")
    try:
        partial.write_bytes(bytes(config.get_timing_cache().serialize()))
        partial.replace(options.timing_cache)
    except OSError as error:
        raise InputError(f"cannot write the timing cache {options.timing_cache} ({error.strerror})") from error


def _inspect(module: Any, logger: Any, plan: bytes, options: PlanOptions) -> Layers | None:
    """Load the plan and ask the inspector; None where this machine cannot load it."""
    runtime = module.Runtime(logger)
    if options.version_compatible:
        runtime.engine_host_code_allowed = True  # the plan that was built a moment ago
    if options.dla_core is not None:
        runtime.DLA_core = options.dla_core
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return None
    told = engine.create_engine_inspector().get_engine_information(module.LayerInformationFormat.JSON)
    layers = [json.dumps(layer) for layer in json.loads(told)["Layers"]]
    return Layers(len(layers), sum(bool(re.search(r'"Format/Datatype": "[^"]*int8', layer, re.I)) for layer in layers))
