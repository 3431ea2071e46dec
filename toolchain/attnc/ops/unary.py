"""unary: y = f(x) elementwise, f a function of `attnc.ops.functions`, by one of several implementations.

Shapes   x, y [R, C].
Method   attribute `implementation`, see approximation.py: one of `METHODS` that can compute the function, or "auto".
         chord       512 or 1024 segments of 1/32                                     unary_chord.py
         delta8/16/32 an asymptote minus a table over |x|, segments of 1/8, 1/16, 1/32  unary_delta.py
         polynomial  a quadratic in |x| per sign, no table                            unary_polynomial.py
         table       all 256 values, for inputs of 8 bits                             unary_table.py
         relu, identity and clip have one implementation: requantize, with a clamp to their bounds.
Scales   y one per tensor. x s16 with a power of two for scale, 2**-11 (range [-16, 16)) unless attribute `fraction_bits` says otherwise,
         so that one table serves every layer; s8 of any scale for "table", with attribute `input_bits` = 8, and for functions that have
         no other implementation (exp, softsign); any type for relu, identity, clip, leaky_relu and relu_squared.
Target   of "auto": half a step of y.
Error    the implementation's, then 0.5 + |y| * 2**-17 steps of y (0.5 for "table"). relu, identity and clip as requantize, and bounds are
         rounded to half a step of y.
Padding  the kernels write 0 beyond the channels, whatever f(0) is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from attnc.arrays import Array, Shape
from attnc.fixedpoint import requantize
from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.call import Call
from attnc.kernels.kernel import KernelCall
from attnc.kernels.lowering import Lowering
from attnc.kernels.rescale import RESCALE
from attnc.kernels.resources import Resources
from attnc.ops.approximation import AUTO, Approximated, Implementation
from attnc.ops.base import scalar_scale
from attnc.ops.functions import FUNCTIONS, Function, find
from attnc.ops.requantize import RESCALE_LANE, rescale_blocks, rescale_factors, rescale_resources
from attnc.ops.unary_chord import Chord
from attnc.ops.unary_delta import Delta
from attnc.ops.unary_method import FRACTION_BITS, Method, tabulated
from attnc.ops.unary_polynomial import Polynomial
from attnc.ops.unary_table import TableOf256

METHODS: dict[str, Method] = {method.name: method for method in (Delta(3), Delta(4), Delta(5), Chord(), Polynomial(), TableOf256())}
MIN_FRACTION_BITS = 5
RANGE_HEADROOM = 1.25
"""The range reaches this far beyond what calibration saw, as that of other 16-bit types."""
RESCALED = "rescale"
"""The implementation of functions that are a requantize."""


def methods(function: Function) -> list[tuple[Method, Implementation]]:
    """The methods that can compute a function, with what they cost."""
    if rescaled(function):
        return []
    found = [(method, method.implementation(function)) for method in METHODS.values()]
    return [(method, implementation) for method, implementation in found if implementation is not None]


def rescaled(function: Function) -> bool:
    """Whether requantize computes it."""
    return function.clamp is not None


class Unary(Approximated):
    """An elementwise function."""

    name = "unary"

    def function(self, node: Node) -> Function:
        """The function of a node."""
        function = find(node.attrs["function"])
        if function is None:
            raise GraphError(f"node {node.name!r} (unary): needs one of {', '.join(FUNCTIONS)}, found {node.attrs['function']!r}")
        return function

    def shape(self, node: Node, inputs: Sequence[Shape]) -> Shape:
        """That of the input."""
        self.function(node)
        return inputs[0]

    def by_rows(self, node: Node) -> bool:
        """Rows do not meet."""
        return True

    def reference(self, node: Node, inputs: Sequence[Array]) -> Array:
        """f(x)."""
        return self.function(node)(inputs[0])

    def kind(self, node: Node) -> str:
        """The function."""
        return self.function(node).name

    def candidates(self, node: Node, x: TensorType | None) -> list[Implementation]:
        """The methods that take x."""
        function = self.function(node)
        if rescaled(function):
            return [Implementation(RESCALED, 0.0, 0, RESCALE_LANE)]
        return [implementation for method, implementation in methods(function) if x is None or method.accepts(function, x)]

    def default_target(self, node: Node, output: TensorType) -> float:
        """Half a step."""
        return scalar_scale(output, f"node {node.name!r} (unary)") / 2 if not output.scale.ndim else 0.0

    def reads_bytes(self, node: Node) -> bool:
        """Whether the input must have 8 bits."""
        if node.attrs.get("implementation", AUTO) == TableOf256.name or node.attrs.get("input_bits", 16) <= 8:
            return True
        function = self.function(node)
        return not rescaled(function) and all(method.name == TableOf256.name for method, _ in methods(function))

    def operand_bits(self, node: Node, index: int) -> int:
        """8 for a table of all inputs."""
        return 8 if self.reads_bytes(node) else 16

    def fixed_operand_type(self, node: Node, index: int) -> TensorType | None:
        """s16 with `fraction_bits` fraction bits; any type where a function commutes with scaling or has a table of all inputs."""
        function = self.function(node)
        if function.degree or rescaled(function) or self.reads_bytes(node):
            return None
        return TensorType(16, True, np.asarray(2.0 ** -node.attrs.get("fraction_bits", FRACTION_BITS)))

    def adapt(self, node: Node, peaks: Sequence[float]) -> None:
        """As many fraction bits as the range allows; a function that is constant beyond its ROM needs no more range."""
        function, bits = self.function(node), node.attrs.get("fraction_bits", FRACTION_BITS)
        if function.left or function.right:
            while bits > MIN_FRACTION_BITS and peaks[0] * RANGE_HEADROOM > 2.0 ** (15 - bits):
                bits -= 1
        node.attrs["fraction_bits"] = bits

    def quantize(self, node: Node, inputs: Sequence[TensorType], output: TensorType) -> None:
        """Choose the implementation; its parameters and widths."""
        function, where = self.function(node), f"node {node.name!r} (unary {node.attrs['function']})"
        if rescaled(function):
            multiplier, shift = rescale_factors(inputs[0], output, where)
            node.params = {"multiplier": multiplier, "shift": shift}
            node.attrs["implementation"] = RESCALED
            return
        if not self.candidates(node, inputs[0]):
            names = ", ".join(implementation.name for _, implementation in methods(function))
            raise GraphError(
                f"{where}: needs a scale of 2**-5 to 2**-15, or 8 bits ({names}), found {inputs[0].short} of {inputs[0].scale}"
            )
        METHODS[self.select(node, inputs[0], output)].quantize(node, function, inputs[0], output)

    def golden(self, node: Node, inputs: Sequence[Array], types: Sequence[TensorType], output: TensorType) -> Array:
        """That of the implementation."""
        function, x = self.function(node), inputs[0].astype(np.int64)
        if not rescaled(function):
            method = METHODS[node.attrs["implementation"]]
            return tabulated(lambda x: method.golden(node, function, x, output).astype(output.dtype), x)
        return requantize(x, node.params["multiplier"], node.params["shift"], *_bounds(function, output)).astype(output.dtype)

    def lower(self, node: Node, ctx: Lowering) -> list[Call]:
        """A call per block of rows."""
        function = self.function(node)
        if not rescaled(function):
            return METHODS[node.attrs["implementation"]].lower(node, function, ctx)
        return rescale_blocks(node, ctx, _bounds(function, ctx.graph.type(node.output)))

    def logic(self, kernel: KernelCall) -> Resources:
        """Those of the implementation's kernel."""
        if kernel.network is RESCALE:
            return rescale_resources(kernel)
        method = next(method for method in METHODS.values() if kernel.network is method.network)
        return method.logic(kernel)


def _bounds(function: Function, output: TensorType) -> tuple[int, int]:
    """The smallest and largest integer of a function that is a change of type: its bounds rounded half up, within the range of y."""
    assert function.clamp is not None
    least, largest = output.range
    low, high = (math.floor(min(max(bound / float(output.scale), least), largest) + 0.5) for bound in function.clamp)
    return low, high
