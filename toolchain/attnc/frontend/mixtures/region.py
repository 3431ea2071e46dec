"""The part of a file that a mixture of experts is: between the logits and the tokens, and the sum over the experts of each token.

    x ──┬── gate ── logits ── scores, TopK, masks, indices ──┐
        └── experts, all of them or those that were taken ───┴── out

It is found by who depends on whom, so that it does not matter by which operators tokens are sent to their experts and back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from attnc.frontend.values import Array
from attnc.frontend.wiring import PRODUCTS, Wiring

CHOOSING = ("TopK", "ArgMax")
"""A router compares by one of these."""
SCORES = ("Softmax", "Sigmoid")
PAIRS = ("QuantizeLinear", "DequantizeLinear")
MOST_ENDS = 12
"""So many tensors that all logits go through are looked at for the sum over experts."""


@dataclass
class Region:
    """Nodes that make `out` [.., d_out] of `x` [.., d] and `logits` [.., E] for `tokens` tokens; `anchor` is the first comparison."""

    wiring: Wiring
    x: str
    logits: str
    out: str
    nodes: list[NodeProto]
    anchor: NodeProto
    tokens: int
    experts: int
    routed: set[str]
    """Tensors that depend on the logits."""
    _session: Any = field(default=None, repr=False)

    @property
    def width(self) -> int:
        """d."""
        return (self.wiring.shape(self.x) or (0,))[-1]

    @property
    def choosing(self) -> list[NodeProto]:
        """All comparisons, in order."""
        return [node for node in self.nodes if node.op_type in CHOOSING]

    @cached_property
    def constants(self) -> dict[str, Array]:
        """What the nodes read that does not depend on inputs, as far as it was folded."""
        known = self.wiring.simplified.constants
        return {name: known[name] for node in self.nodes for name in node.input if name in known}

    def run(self, x: Array, logits: Array) -> Array | None:
        """out [T, d_out] for x [T, d] and logits [T, E], by onnxruntime in float32; None where it cannot (an expert has no tokens)."""
        given = {self.x: x, self.logits: logits}
        fed = {name: np.ascontiguousarray(array.reshape(self.wiring.shape(name)), np.float32) for name, array in given.items()}
        try:
            self._session = self._session or self._start()
            (found,) = self._session.run([self.out], fed)
        except Exception:  # whatever onnxruntime raises for operands that do not fit together
            return None
        return np.asarray(found).reshape(self.tokens, -1)

    def _start(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return onnxruntime.InferenceSession(self._model(), options, providers=["CPUExecutionProvider"])

    def _model(self) -> bytes:
        """The nodes as a model of their own, without the rounding of pairs."""
        simplified = self.wiring.simplified
        nodes = [_unrounded(node) for node in self.nodes]
        inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, self.wiring.shape(name)) for name in (self.x, self.logits)]
        outputs = [helper.make_tensor_value_info(self.out, TensorProto.FLOAT, None)]
        constants = [numpy_helper.from_array(np.asarray(array, order="C"), name) for name, array in self.constants.items()]
        graph = helper.make_graph(nodes, "mixture", inputs, outputs, constants)
        opsets = [helper.make_opsetid("", simplified.opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=min(simplified.model.ir_version, 10))
        return bytes(model.SerializeToString())


def _unrounded(node: NodeProto) -> NodeProto:
    return helper.make_node("Identity", node.input[:1], node.output, name=node.name) if node.op_type in PAIRS else node


def regions(wiring: Wiring, anchor: NodeProto) -> Iterator[Region]:
    """What may be the mixture whose first comparison is `anchor`, the most likely first."""
    for logits in _logits(wiring, anchor):
        shape = wiring.shape(logits)
        if not shape or shape[-1] < 2 or 0 in shape:
            continue
        routed = wiring.cone(logits)
        for out in _ends(wiring, logits, routed):
            region = _between(wiring, anchor, logits, out, routed)
            if region is not None:
                yield region
                break


def _logits(wiring: Wiring, anchor: NodeProto) -> Iterator[str]:
    """Tensors on the way from the gate to the comparison: what a score is taken of, then what is compared, then what comes earlier."""
    path = [anchor.input[0]]
    while (node := wiring.producer.get(path[-1])) is not None and node.op_type not in PRODUCTS:
        varying = wiring.varying(node)
        if len(varying) != 1 or node.op_type in CHOOSING:
            break
        path.append(varying[0])
    scored = [name for name in path if any(reader.op_type in SCORES for reader in wiring.readers.get(name, ()))]
    yield from dict.fromkeys([*scored[::-1], *path])


def _ends(wiring: Wiring, logits: str, routed: set[str]) -> Iterator[str]:
    """Tensors that everything that depends on the logits goes through, in order."""
    outputs = set(wiring.simplified.outputs)
    waiting = {logits: len(wiring.readers.get(logits, ()))}
    found = 0
    for node in wiring.nodes:
        if not any(name in routed for name in node.input):
            continue
        for name in dict.fromkeys(node.input):
            if name in waiting:
                waiting[name] -= 1
                if not waiting[name]:
                    del waiting[name]
        for name in filter(None, node.output):
            count = len(wiring.readers.get(name, ())) + (name in outputs)
            if count:
                waiting[name] = count
        if len(waiting) == 1:
            yield next(iter(waiting))
            found += 1
            if found == MOST_ENDS:
                return


def _between(wiring: Wiring, anchor: NodeProto, logits: str, out: str, routed: set[str]) -> Region | None:
    """The nodes behind `out`, back to the logits and to the nearest tensor of tokens that everything else is made of."""
    shape, out_shape = wiring.shape(logits), wiring.shape(out)
    assert shape is not None
    tokens, experts = math.prod(shape[:-1]), shape[-1]
    if out_shape is None or not out_shape or math.prod(out_shape) % tokens or math.prod(out_shape[:-1]) != tokens:
        return None
    before = wiring.ancestors(logits)
    frontier, products = {out}, 0
    taken: dict[int, NodeProto] = {}
    while frontier:
        if len(frontier) == 1 and products > 1:
            x = next(iter(frontier))
            x_shape = wiring.shape(x)
            if x not in routed and x in before and x_shape and math.prod(x_shape[:-1]) == tokens:
                nodes = sorted(taken.values(), key=lambda node: wiring.order[id(node)])
                return Region(wiring, x, logits, out, nodes, anchor, tokens, experts, routed)
        latest = max(frontier, key=lambda name: wiring.order[id(wiring.producer[name])] if name in wiring.producer else -1)
        node = wiring.producer.get(latest)
        if node is None:
            return None
        frontier -= set(node.output)
        taken[id(node)] = node
        products += node.op_type in PRODUCTS
        frontier |= {name for name in wiring.varying(node) if name != logits}
        constants = [name for name in node.input if name and name not in wiring.varies and name in wiring.producer]
        for name in constants:  # constants that were not folded, as those that grow
            taken.update((id(made), made) for made in _makers(wiring, name))
    return None


def _makers(wiring: Wiring, name: str) -> Iterator[NodeProto]:
    stack = [name]
    while stack:
        node = wiring.producer.get(stack.pop())
        if node is not None:
            yield node
            stack += filter(None, node.input)
