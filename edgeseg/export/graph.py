"""The PyTorch model to an ONNX network file: uint8 (N, 3, H, W) in, float32 logits (N, 1, H, W) out, N free."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import TYPE_CHECKING, Any

from edgeseg.errors import BackendMissing, EngineError

if TYPE_CHECKING:
    from torch import nn

INPUT = "slices"
OUTPUT = "logits"
OPSET, FOLDED_OPSET = 18, 21
_KEPT_APART = ["fuse_bn_into_conv"]
"""The weights are FP16 values; folding the batch normalisations into them would need rounding again. Runtimes fold them
in FP32 when they compile."""


def to_onnx(network: nn.Module, size_px: int, folded: bool = False) -> bytes:
    """Export and simplify.

    Parameters
    ----------
    network
        `edgeseg.model.with_byte_input`, in evaluation mode.
    size_px
        Side of the network's input.
    folded
        Fold the batch normalisations into the convolutions, as an INT8 network needs it.

    Returns
    -------
    bytes
        A serialised ONNX model with its weights inside.

    Raises
    ------
    BackendMissing
        When a package of the extra ``export`` is not installed.
    EngineError
        When the simplified network is not the exported one.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  the exporter imports it late and then says little
        import onnxsim
    except ImportError as error:
        raise BackendMissing(f"export needs {error.name}: pip install 'edgeseg[train,export]'") from error
    exported = _export(network, size_px, folded)
    simplified, same = onnxsim.simplify(exported, check_n=0, skipped_optimizers=[] if folded else _KEPT_APART)
    if not same:
        raise EngineError("onnxsim changed the network while simplifying it: try another version of onnxsim")
    onnx.checker.check_model(simplified, full_check=True)
    _check_interface(simplified)
    return bytes(simplified.SerializeToString())


def _export(network: nn.Module, size_px: int, folded: bool) -> Any:
    import torch

    example = torch.zeros((2, 3, size_px, size_px), dtype=torch.uint8)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecations
        program = torch.onnx.export(
            network,
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=FOLDED_OPSET if folded else OPSET,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
            verbose=False,
            optimize=folded,  # it folds the batch normalisations: see _KEPT_APART
        )
    if program is None:
        raise EngineError("PyTorch's exporter returned no network")
    return program.model_proto


def _check_interface(network: Any) -> None:
    """Raise EngineError unless the file takes uint8 (N, 3, H, W) and returns float32 (N, 1, H, W) with N free."""
    import onnx

    found = []
    for value in (*network.graph.input, *network.graph.output):
        tensor = value.type.tensor_type
        batch = tensor.shape.dim[0]
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        found.append((value.name, kind, bool(batch.dim_param) or not batch.HasField("dim_value")))
    if found != [(INPUT, "UINT8", True), (OUTPUT, "FLOAT", True)]:
        raise EngineError(f"the exported network has the interface {found}: PyTorch's exporter has changed")
