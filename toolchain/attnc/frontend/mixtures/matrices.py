"""The constants of a region by what they do: matrices of the first and of the second product of an expert, biases of either, numbers added
to the scores.

A matrix may be one of all experts, picked from by index or not, or one of each expert.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from attnc.frontend.mixtures.region import PAIRS, Region
from attnc.frontend.values import Array
from attnc.frontend.wiring import PRODUCTS

FIRST, SECOND = 1, 2
MOVING = {
    "Gather", "GatherND", "GatherElements", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Cast", "Slice", "Split", "Identity", "Expand",
    "Concat", "Flatten", *PAIRS,
}  # fmt: skip
"""Operators that hand on what they pick from a constant."""


@dataclass
class Matrices:
    """Names of constants in the order in which they are used, by the number of products on the way of a token before and with them.

    `routing` are constants [E] that are added to what depends on logits alone; `early` says whether all tokens have the first product with
    all experts.
    """

    products: dict[int, list[str]] = field(default_factory=dict)
    biases: dict[int, list[str]] = field(default_factory=dict)
    routing: list[str] = field(default_factory=list)
    early: bool = True


def read(region: Region) -> Matrices:
    """Walk the region once: of every tensor, how many products the tokens in it have had, or which constants it is picked from."""
    found = Matrices()
    depth: dict[str, int] = {region.x: 0}
    picked: dict[str, tuple[str, ...]] = {
        name: (name,) for name, array in region.constants.items() if array.dtype.kind == "f" and array.size > 1
    }
    for node in region.nodes:
        operands = [name for name in node.input if name]
        tokens = [name for name in operands if name in depth]
        constants = [one for name in operands if name not in depth for one in picked.get(name, ())]
        level = max((depth[name] for name in tokens), default=0)
        if node.op_type in PRODUCTS and tokens and constants:  # one without sends tokens to experts, or sums over them
            bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""
            level += 1
            _note(found.products, level, [name for name in constants if name not in picked.get(bias, ())])
            _note(found.biases, level, [name for name in constants if name in picked.get(bias, ())])
            if level == FIRST and any(name in region.routed for name in operands):
                found.early = False
        elif tokens and node.op_type in ("Add", "Sub"):
            _note(found.biases, level, constants)
        elif node.op_type == "Add" and any(name in region.routed for name in operands):
            found.routing += [name for name in constants if region.constants[name].size == region.experts]
        for name in filter(None, node.output):
            if tokens:
                depth[name] = level
            elif constants and node.op_type in MOVING:
                picked[name] = tuple(dict.fromkeys(constants))
    return found


def _note(into: dict[int, list[str]], level: int, names: list[str]) -> None:
    known = into.setdefault(level, [])
    known += [name for name in names if name not in known]


def stacks(arrays: list[Array], experts: int, axes: int) -> list[list[Array]]:
    """Arrays of `axes` axes each for all experts, [E, ...], in every way in which constants may be that: none if they cannot."""
    arrays = [_squeezed(array, axes) for array in arrays]
    if not arrays:
        return []
    if all(array.ndim == axes + 1 and experts in array.shape for array in arrays):
        return [[np.moveaxis(array, array.shape.index(experts), 0) for array in arrays]]
    if not all(array.ndim == axes for array in arrays) or len(arrays) % experts:
        return []
    count = len(arrays) // experts
    ways = [[arrays[first::count] for first in range(count)]]  # expert after expert
    if count > 1:
        ways.append([arrays[first * experts : (first + 1) * experts] for first in range(count)])
    return [[np.stack(group) for group in way] for way in ways if all(len({one.shape for one in group}) == 1 for group in way)]


def _squeezed(array: Array, axes: int) -> Array:
    """Without axes of one, as far as there are more than needed."""
    while array.ndim > axes + 1 and 1 in array.shape:
        array = array.squeeze(array.shape.index(1))
    while array.ndim > axes and array.shape[0] == 1:
        array = array[0]
    return array
