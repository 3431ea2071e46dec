"""Several implementations behind one operator: what each costs, how far it is from the function, and which one is taken.

A node says which it wants in attribute `implementation`: a name, or "auto" (the default) for the cheapest whose stated error meets
the target; where none does, the most accurate of all. Attribute `error_target` replaces the default target of the operator.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from attnc.ir import GraphError, Node, TensorType
from attnc.kernels.resources import Resources
from attnc.ops.base import Operator

AUTO = "auto"
DSP_IN_LUTS = 100
BRAM_IN_LUTS = 800
"""What a DSP and a 36-Kbit block are worth in LUTs: their ratios on the boards that attnc knows are 40 to 240 and 380 to 1,600."""


@dataclass(frozen=True)
class Implementation:
    """One way to compute a function.

    `error` is the largest absolute error against float64, before the result is rounded to the type of the output; `table_bits` counts
    one copy of its tables; `lane` is an estimate of what one value per cycle takes, tables included, from the structure of the kernel.
    """

    name: str
    error: float
    table_bits: int
    lane: Resources

    @property
    def cost(self) -> float:
        """Of a lane, in LUTs."""
        return self.lane.lut + DSP_IN_LUTS * self.lane.dsp + BRAM_IN_LUTS * self.lane.bram36


def choose(wanted: str, candidates: Sequence[Implementation], target: float, where: str) -> Implementation:
    """The implementation called `wanted`; for "auto" the cheapest with an error of at most `target`, or else the most accurate."""
    named = {candidate.name: candidate for candidate in candidates}
    if wanted == AUTO:
        good = [candidate for candidate in candidates if candidate.error <= target]
        return min(good, key=lambda c: (c.cost, c.error, c.name)) if good else min(candidates, key=lambda c: (c.error, c.cost, c.name))
    if wanted not in named:
        raise GraphError(f"{where}: needs one of the implementations {', '.join([AUTO, *named])}, found {wanted!r}")
    return named[wanted]


class Approximated(Operator):
    """An operator with several implementations. `quantize` calls `select` and leaves the name of the choice in the node."""

    @abstractmethod
    def kind(self, node: Node) -> str:
        """Name of the function, under which a user chooses its implementation."""

    @abstractmethod
    def candidates(self, node: Node, x: TensorType | None) -> list[Implementation]:
        """Implementations for a node that reads `x`; all of them for None."""

    @abstractmethod
    def default_target(self, node: Node, output: TensorType) -> float:
        """Error that is good enough for an output of this type."""

    def target(self, node: Node, output: TensorType) -> float:
        """Error that is good enough for this node."""
        return float(node.attrs.get("error_target") or self.default_target(node, output))

    def select(self, node: Node, x: TensorType, output: TensorType) -> str:
        """Resolve and note the implementation of a node."""
        where = f"node {node.name!r} ({self.kind(node)})"
        wanted = node.attrs.get("implementation", AUTO)
        chosen = choose(wanted, self.candidates(node, x), self.target(node, output), where)
        node.attrs["implementation"] = chosen.name
        return chosen.name


def times(lane: Resources, lanes: float) -> Resources:
    """`lanes` copies."""
    lut, ff, dsp, bram36, uram = (lanes * amount for amount in lane.astuple())
    return Resources(lut, ff, dsp, bram36, uram)
