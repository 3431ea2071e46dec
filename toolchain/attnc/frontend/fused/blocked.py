"""Convolutions as onnxruntime lays them out for a processor (`com.microsoft.nchwc`): channels in blocks, and weights in their order.

Blocks are an order in memory alone, so that a tensor in blocks is read as the tensor that it holds. Their size is not in the file:
onnxruntime takes that of the machine it runs on, and what runs the model here is the same machine.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from attnc.frontend.fused.pointwise import convolution
from attnc.frontend.fused.spelling import Spelling


def conv(s: Spelling) -> None:
    """Conv of weights [O, I, ...] in blocks of output channels, and of input channels where the input is in blocks."""
    size, weight = _block(), s.given(1)
    if not size:
        s.refuse("onnxruntime knows no order of weights in blocks on this machine; let it optimize at the level `extended`")
    shape = s.shape(weight)
    outputs, inputs, *window = shape
    if outputs % size or (inputs >= size and inputs % size):
        s.refuse(
            f"its weights {list(shape)} are no blocks of {size}, as this machine has them; let onnxruntime optimize at the level `extended`"
        )
    whole = inputs >= size
    blocks = [outputs // size, inputs // size if whole else inputs, *window, *([size] if whole else []), size]
    last = len(blocks) - 1
    order = [0, last, 1, last - 1, 2, 3] if whole else [0, last, 1, 2, 3]
    turned = s("Transpose", s("Reshape", weight, np.array(blocks)), perm=order)
    convolution(s, s("Reshape", turned, np.array(shape)))


def reorder_input(s: Spelling) -> None:
    """Into blocks."""
    s.result(0, s("Transpose", s.given(0), perm=[0, 3, 1, 2]) if s.attribute("channels_last", 0) else s.given(0))


def reorder_output(s: Spelling) -> None:
    """Out of blocks: channels that only fill the last one are left out."""
    kept = s.slice(s.given(0), 0, int(s.attribute("channels", 0)), 1)
    s.result(0, s("Transpose", kept, perm=[0, 2, 3, 1]) if s.attribute("channels_last", 0) else kept)


@functools.cache
def _block() -> int:
    """Channels of a block, found in what onnxruntime makes of weights that are numbered; 0 if it lays out nothing."""
    weight = np.arange(64 * 3, dtype=np.float32).reshape(64, 3, 1, 1)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 4, 4]) for name, channels in (("x", 3), ("y", 64)))
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "g", [x], [y], [numpy_helper.from_array(weight, "w")])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "m.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        made = onnx.load(options.optimized_model_filepath).graph
    found = next((numpy_helper.to_array(t).ravel() for t in made.initializer if t.dims[:2] == [64, 3]), weight.ravel())
    for size in (8, 16, 32):
        if np.array_equal(found, weight.reshape(64 // size, size, 3).transpose(0, 2, 1).ravel()):
            return size
    return 0
