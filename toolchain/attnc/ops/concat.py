"""What joining tensors means, along whichever axis: every operand is brought to the scale of the output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from attnc.arrays import Array
from attnc.fixedpoint import requantize
from attnc.ir import Node, TensorType
from attnc.kernels.kernel import KernelCall
from attnc.kernels.resources import Resources
from attnc.ops.base import Operator
from attnc.ops.requantize import rescale_factors, rescale_resources


class Concat(Operator):
    """Base of the operators that join; arrays are [samples, rows, channels]."""

    axis: ClassVar[int]

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """Concatenation; constants repeat for every sample."""
        samples = max(x.shape[0] for x in inputs)
        return np.concatenate([np.broadcast_to(x, (samples, *x.shape[1:])) for x in inputs], axis=self.axis)

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """Factors per operand."""
        node.params = {}
        for i, type_ in enumerate(inputs):
            multiplier, shift = rescale_factors(type_, output, f"node {node.name!r} ({self.name}): operand {i}")
            node.params |= {f"multiplier.{i}": multiplier, f"shift.{i}": shift}

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """requantize of every operand."""
        p = node.params
        parts = [requantize(x, p[f"multiplier.{i}"], p[f"shift.{i}"], *output.range) for i, x in enumerate(inputs)]
        return self.reference(node, parts).astype(output.dtype)

    def logic(self, kernel: KernelCall) -> Resources:
        """Those of the shared kernel."""
        return rescale_resources(kernel)
