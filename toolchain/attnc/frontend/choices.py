"""One of several weights or tensors, chosen by a number that an input gives: all are computed, and multiplied by 1 or 0.

So models that serve several tasks have a gate or a head for each. What is chosen is small; the device then needs no weights that depend on
data, and changing the task costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from attnc.frontend.simplify import Simplified, simplify
from attnc.frontend.values import Array
from attnc.frontend.wiring import PRODUCTS, Wiring

MOST = 16
"""Choices that are spelled out."""
MOVING = {"Reshape", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Cast", "Flatten"}


def spread_choices(simplified: Simplified, path: str) -> Simplified:
    """With sums in place of what a Gather (or GatherND) of one index, or a Where, chooses: a weight, or one of several tensors."""
    wiring = Wiring(simplified)
    for node in wiring.nodes:
        made = None
        if node.op_type in ("Gather", "GatherND") and _one_of_the_host(wiring, node.input[1]):
            made = _of_weights(wiring, node) or _of_tensors(wiring, node)
        elif node.op_type == "Where" and _one_of_the_host(wiring, node.input[0]):
            made = _of_branches(wiring, node)
        if made is not None:
            _insert(simplified, *made)
            again = simplify(simplified.model, path)
            again.original, again.refused = simplified.original, simplified.refused
            return spread_choices(again, path)
    return simplified


def _one_of_the_host(wiring: Wiring, index: str) -> bool:
    """Whether a tensor is a single number that no product is behind."""
    shape = wiring.shape(index)
    if index not in wiring.varies or shape is None or int(np.prod(shape)) != 1:
        return False
    return not _behind_products(wiring, index)


def _behind_products(wiring: Wiring, name: str) -> bool:
    makers = (wiring.producer.get(one) for one in (name, *wiring.ancestors(name)))
    return any(node is not None and node.op_type in PRODUCTS and wiring.varying(node) for node in makers)


def _of_weights(wiring: Wiring, node: NodeProto) -> tuple[NodeProto, list[NodeProto], dict[str, Array]] | None:
    """A product with a constant that was chosen: one product with each."""
    table = wiring.simplified.constants.get(node.input[0])
    chain: list[NodeProto] = [node]
    while len(readers := wiring.readers.get(chain[-1].output[0], [])) == 1 and readers[0].op_type in MOVING:
        chain.append(readers[0])
    if table is None or len(readers) != 1 or readers[0].op_type not in ("MatMul", "Gemm") or readers[0].input[1] != chain[-1].output[0]:
        return None
    product, axis = readers[0], _axis(node, table.ndim)
    count = table.shape[axis]
    if count > MOST or product.input[0] not in wiring.varies:
        return None
    shape = wiring.shape(node.input[1])
    assert shape is not None

    def choice(number: int) -> tuple[list[NodeProto], str]:
        nodes, name = [], node.output[0]
        for original in [*chain, product]:
            made = NodeProto.FromString(original.SerializeToString())
            made.name, made.output[0] = f"{original.name}::{number}", f"{original.output[0]}::{number}"
            if original is node:
                made.input[1] = f"{node.output[0]}::index_{number}"
            else:
                made.input[list(original.input).index(name)] = f"{name}::{number}"
            name = original.output[0]
            nodes.append(made)
        return nodes, f"{name}::{number}"

    indices = {f"{node.output[0]}::index_{number}": np.full(shape, number, np.int64) for number in range(count)}
    nodes, constants = _summed(node.input[1], count, choice, product)
    return product, nodes, {**constants, **indices}


def _of_tensors(wiring: Wiring, node: NodeProto) -> tuple[NodeProto, list[NodeProto], dict[str, Array]] | None:
    """One of several tensors that were stacked."""
    stack, info = wiring.producer.get(node.input[0]), wiring.shape(node.input[0])
    if (
        stack is None
        or stack.op_type != "Concat"
        or info is None
        or len(stack.input) > MOST
        or info[_axis(node, len(info))] != len(stack.input)
    ):
        return None
    if _axis(stack, len(info)) != _axis(node, len(info)) or wiring.shape(node.output[0]) is None:
        return None
    shape = wiring.shape(node.output[0])

    def choice(number: int) -> tuple[list[NodeProto], str]:
        name = f"{node.output[0]}::{number}"
        return [helper.make_node("Reshape", [stack.input[number], f"{node.output[0]}::shape"], [name], name=f"{node.name}::{number}")], name

    nodes, constants = _summed(node.input[1], len(stack.input), choice, node)
    return node, nodes, {**constants, f"{node.output[0]}::shape": np.array(shape, np.int64)}


def _of_branches(wiring: Wiring, node: NodeProto) -> tuple[NodeProto, list[NodeProto], dict[str, Array]] | None:
    """One of two tensors of one shape that products are behind."""
    first, second = node.input[1:3]
    if any(wiring.shape(name) != wiring.shape(node.output[0]) or not _behind_products(wiring, name) for name in (first, second)):
        return None
    return node, *_summed(node.input[0], 2, lambda number: ([], first if number else second), node)


def _axis(node: NodeProto, rank: int) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "axis"), 0) % rank


def _summed(
    index: str, count: int, choice: Callable[[int], tuple[list[NodeProto], str]], last: NodeProto
) -> tuple[list[NodeProto], dict[str, Array]]:
    """Nodes that make the output of `last`: choices times whether the index, which may count from the end, is their number."""
    stem = last.output[0]
    modulus, one = f"{stem}::count", f"{stem}::one"
    constants: dict[str, Array] = {modulus: np.array(count, np.int64), one: np.array([1], np.int64)}
    wide, flat, wrapped = (f"{stem}::{what}" for what in ("wide", "flat", "wrapped"))
    nodes = [
        helper.make_node("Cast", [index], [wide], name=f"{wide}:Cast", to=TensorProto.INT64),
        helper.make_node("Reshape", [wide, one], [flat], name=f"{flat}:Reshape"),
        helper.make_node("Mod", [flat, modulus], [wrapped], name=f"{wrapped}:Mod"),
    ]
    total = ""
    for number in range(count):
        made, name = choice(number)
        constants[f"{stem}::number_{number}"] = np.array([number], np.int64)
        is_it, mask, part = (f"{stem}::{what}_{number}" for what in ("is", "mask", "part"))
        nodes += [
            *made,
            helper.make_node("Equal", [wrapped, f"{stem}::number_{number}"], [is_it], name=f"{is_it}:Equal"),
            helper.make_node("Cast", [is_it], [mask], name=f"{mask}:Cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", [name, mask], [part], name=f"{part}:Mul"),
        ]
        if total:
            output = stem if number == count - 1 else f"{stem}::sum_{number}"
            nodes.append(helper.make_node("Add", [total, part], [output], name=last.name if output == stem else f"{output}:Add"))
            total = output
        else:
            total = part
    return nodes, constants


def _insert(simplified: Simplified, last: NodeProto, nodes: list[NodeProto], constants: dict[str, Array]) -> None:
    """Put the nodes in place of `last`."""
    graph = simplified.model.graph
    kept: list[NodeProto] = []
    for node in graph.node:
        kept += nodes if node.output[:1] == last.output[:1] else [node]
    kept = [NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
