"""Remove `gather_columns` and `concat_columns`: selecting channels is done by whoever makes or reads them.

Going up, a selection of the channels of a linear is a linear with fewer rows of its weight: this is how a fused query-key-value
product becomes three. Going down, a linear reads selected channels by spreading the columns of its weight. What is left is an operator of
its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from attnc.errors import UnsupportedError
from attnc.frontend.values import merge
from attnc.ir import Graph, Node
from attnc.model import Feed

MIN_LANES = 4
"""Fewest channels in a word of memory."""
MAX_UP = 12
"""How many nodes a selection may climb: each is computed again for the selected channels."""
_POINTWISE = {"unary", "add", "mul", "requantize"}
_ROWWISE = {"gather_rows", "mean_rows"}
_NORMS = {"layer_normalization", "rms_normalization"}
Columns = tuple[int, ...]


def are_columns_apart(graph: Graph, names: Sequence[str]) -> bool:
    """Whether the values are functions of different channels of one tensor with several rows (tokens), each of its own and row by row."""
    producer = {node.output: node for node in graph.nodes}
    roots, columns = set(), []
    for name in names:
        node = producer.get(name)
        while node is not None and (node.op in _NORMS or (node.op in _POINTWISE and all(x in graph.constants for x in node.inputs[1:]))):
            node = producer.get(node.inputs[0])
        if node is None or node.op != "gather_columns":
            return False
        roots.add(node.inputs[0])
        columns += node.attrs["columns"]
    return len(roots) == 1 and len(set(columns)) == len(columns) and graph.value(roots.pop()).shape[0] > 1


class ColumnSelections:
    """The two operators, removed from a graph in place."""

    def __init__(self, graph: Graph, feeds: list[Feed]) -> None:
        self.graph = graph
        self.feeds = {feed.value: feed for feed in feeds}
        self.nodes: list[Node] = []
        self.by_output: dict[str, Node] = {}
        self.made: dict[tuple[str, Columns], str] = {}
        self.renamed: dict[str, str] = {}
        self.readers: dict[str, list[Node]] = {}

    def run(self) -> list[Feed]:
        """Rewrite the nodes in order; returns the feeds, of which there may be new ones."""
        for node in self.graph.nodes:
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node)
        for node in self.graph.nodes:
            node.inputs = [self.renamed.get(name, name) for name in node.inputs]
            if node.op == "gather_columns":
                self._gather(node)
            elif node.op == "concat_columns":
                self._concat(node)
            elif node.op == "linear" and (producer := self.by_output.get(node.inputs[0])) is not None and producer.op in (
                "gather_columns", "concat_columns",
            ):  # fmt: skip
                self._absorb(node, producer)
            else:
                self._append(node)
        self.graph.nodes = [node for node in self.nodes if node.op not in ("gather_columns", "concat_columns")]
        return list(self.feeds.values())

    def _append(self, node: Node) -> str:
        self.nodes.append(node)
        self.by_output[node.output] = node
        return node.output

    def _only_linears(self, node: Node) -> bool:
        readers = self.readers.get(node.output, [])
        return bool(readers) and all(reader.op == "linear" for reader in readers) and node.output not in self.graph.outputs

    def _gather(self, node: Node) -> None:
        columns = node.attrs["columns"]
        if (producer := self.by_output.get(node.inputs[0])) is not None and producer.op == "concat_columns":
            node, columns = self._of_part(node, producer)
        found = self._climb(node.inputs[0], columns, node.source, MAX_UP)
        if found is not None:
            self.renamed[node.output] = found
        elif self._only_linears(node):
            self._append(node)
        else:
            index = np.array([columns], np.int64)
            self._append(replace(node, op="gather_channels", attrs={}, params={"index": index}))

    def _of_part(self, node: Node, concat: Node) -> tuple[Node, Columns]:
        """A selection of channels side by side as one of the part that has them."""
        ends = np.cumsum([self.graph.value(name).shape[1] for name in concat.inputs])
        parts = set(np.searchsorted(ends, node.attrs["columns"], side="right").tolist())
        if len(parts) > 1:
            reason = "it needs channels of several tensors that are put side by side"
            raise UnsupportedError(node.source[-1] if node.source else node.name, "Concat", reason)
        (part,) = parts
        first = ends[part] - self.graph.value(concat.inputs[part]).shape[1]
        columns = tuple(int(column - first) for column in node.attrs["columns"])
        return replace(node, inputs=[concat.inputs[part]], attrs={"columns": columns}), columns

    def _only_parts(self, node: Node) -> bool:
        """Whether a concatenation is read by selections alone, each of one of its parts."""
        readers = self.readers.get(node.output, [])
        ends = np.cumsum([self.graph.value(name).shape[1] for name in node.inputs])
        picks = [np.searchsorted(ends, reader.attrs["columns"], side="right") for reader in readers if reader.op == "gather_columns"]
        return (
            len(picks) == len(readers) > 0 and all(len(set(pick.tolist())) == 1 for pick in picks) and node.output not in self.graph.outputs
        )

    def _concat(self, node: Node) -> None:
        merged = self._merge(node)
        if merged is not None:
            self.renamed[node.output] = merged
        elif self._only_linears(node) or self._only_parts(node):
            self._append(node)
        else:
            self._beside(node)

    def _beside(self, node: Node) -> None:
        """The operator, where tiles can be kept apart."""
        parts = [self.graph.value(name).shape[1] for name in node.inputs]
        if math.gcd(*parts[:-1]) % MIN_LANES:
            reason = f"tensors of {parts} channels are concatenated along channels; all but the last must be multiples of {MIN_LANES}"
            raise UnsupportedError(node.source[-1] if node.source else node.name, "Concat", reason)
        self._append(replace(node, op="concat_channels"))

    # ---- going up ----

    def _climb(self, name: str, columns: Columns, src: tuple[str, ...], budget: int) -> str | None:
        """A value that holds only `columns` of `name`, made further up; None if that is not possible."""
        key = (name, columns)
        if key not in self.made:
            found = self._climb_new(name, columns, src, budget)
            if found is None:
                return None
            self.made[key] = found
        return self.made[key]

    def _climb_new(self, name: str, columns: Columns, src: tuple[str, ...], budget: int) -> str | None:
        pick = list(columns)
        if name in self.graph.constants:
            return self._constant(name, pick)
        if name in self.feeds:
            return self._feed(name, pick)
        node = self.by_output.get(name)
        if node is None or budget == 0:
            return None
        if node.op == "linear":
            params = {"weight": node.params["weight"][pick], "bias": node.params["bias"][pick]}
            return self._copy(node, node.inputs, len(pick), src, params=params)
        if node.op == "gather_columns":
            return self._climb(node.inputs[0], tuple(node.attrs["columns"][i] for i in pick), src, budget - 1)
        if node.op in _POINTWISE or node.op in _ROWWISE or node.op == "concat_rows":
            inputs = [self._climb(operand, columns, src, budget - 1) for operand in node.inputs]
            known = [operand for operand in inputs if operand is not None]
            return self._copy(node, known, len(pick), src) if len(known) == len(inputs) else None
        if node.op == "layer_normalization" and sorted(pick) == list(range(self.graph.value(name).shape[1])):
            operand = self._climb(node.inputs[0], columns, src, budget - 1)
            params = {key: value[pick] for key, value in node.params.items()}
            return None if operand is None else self._copy(node, [operand], len(pick), src, params=params)
        return None

    def _copy(self, node: Node, inputs: list[str], channels: int, src: tuple[str, ...], params: dict[str, np.ndarray] | None = None) -> str:
        output = self.graph.fresh(f"{node.output}_part")
        self.graph.add_value(output, (self.graph.value(node.output).shape[0], channels))
        self.graph.value(output).imposed = self.graph.value(node.output).imposed
        name = f"{node.name}:{len(self.nodes)}"
        return self._append(replace(
            node, name=name, inputs=list(inputs), output=output, attrs=dict(node.attrs), params=params or {}, source=merge(node.source, src)
        ))  # fmt: skip

    def _constant(self, name: str, pick: list[int]) -> str:
        fresh = self.graph.fresh(name)
        array = self.graph.constants[name][:, pick]
        self.graph.add_value(fresh, array.shape)
        self.graph.constants[fresh] = array
        return fresh

    def _feed(self, name: str, pick: list[int]) -> str:
        fresh = self.graph.fresh(name)
        index = np.ascontiguousarray(self.feeds[name].index[:, pick])
        self.graph.add_value(fresh, index.shape)
        self.graph.inputs.append(fresh)
        self.feeds[fresh] = Feed(fresh, self.feeds[name].tensor, index)
        return fresh

    # ---- going down ----

    def _absorb(self, node: Node, producer: Node) -> None:
        """A linear that reads selected or concatenated channels."""
        weight = node.params["weight"]
        if producer.op == "gather_columns":
            source = producer.inputs[0]
            wide = np.zeros((weight.shape[0], self.graph.value(source).shape[1]))
            np.add.at(wide.T, np.array(producer.attrs["columns"]), weight.T)
            self._append_linear(
                replace(node, inputs=[source], params={**node.params, "weight": wide}, source=merge(producer.source, node.source))
            )
            return
        start, total = 0, ""
        for index, source in enumerate(producer.inputs):
            width = self.graph.value(source).shape[1]
            last = index == len(producer.inputs) - 1
            part = replace(
                node,
                name=f"{node.name}:{index}",
                inputs=[source],
                params={"weight": weight[:, start : start + width], "bias": node.params["bias"] * last},
            )
            part.output = self.graph.fresh(f"{node.output}_part")
            part.source = merge(producer.source, node.source)
            self.graph.add_value(part.output, self.graph.value(node.output).shape)
            self._append_linear(part)
            start += width
            if total:
                output = node.output if last else self.graph.fresh(f"{node.output}_sum")
                if not last:
                    self.graph.add_value(output, self.graph.value(node.output).shape)
                self._append(Node(f"{node.name}:sum{index}", "add", [total, part.output], output, source=node.source))
                total = output
            else:
                total = part.output

    def _append_linear(self, node: Node) -> None:
        """Its own input may again be a selection."""
        producer = self.by_output.get(node.inputs[0])
        if producer is not None and producer.op in ("gather_columns", "concat_columns"):
            self._absorb(node, producer)
        else:
            self._append(node)

    # ---- one node for several ----

    def _merge(self, node: Node) -> str | None:
        """Linears of one input side by side are one linear, norms of what can be merged are one norm of groups of channels."""
        parts = [self.by_output.get(name) for name in node.inputs]
        found = [part for part in parts if part is not None]
        kinds = {part.op for part in found}
        if len(found) < len(parts) or len(kinds) != 1:
            return None
        if kinds == {"linear"} and len({part.inputs[0] for part in found}) == 1:
            return self._merged(node, found, found[0].inputs[0], {})
        if kinds <= _NORMS:
            return self._merge_norms(node, found)
        return None

    def _merge_norms(self, node: Node, parts: list[Node]) -> str | None:
        inputs, attrs = [part.inputs[0] for part in parts], parts[0].attrs
        widths = {self.graph.value(name).shape[1] for name in inputs}
        rounded = any(self.graph.value(name).imposed is not None for name in inputs)
        if len(widths) > 1 or rounded or "group" in attrs or any(part.attrs != attrs for part in parts):
            return None
        joined = self.graph.fresh(f"{node.output}_joined")
        self.graph.add_value(joined, self.graph.value(node.output).shape)
        source = self._merge(replace(node, name=f"{node.name}:joined", inputs=inputs, output=joined, source=()))
        return None if source is None else self._merged(node, parts, source, {**attrs, "group": widths.pop()})

    def _merged(self, node: Node, parts: list[Node], source: str, attrs: dict[str, Any]) -> str:
        """`parts` as one node that reads `source` and makes the output of `node`."""
        params = {key: np.concatenate([part.params[key] for part in parts]) for key in parts[0].params}
        origin = merge(*(part.source for part in parts), node.source)
        return self._append(Node(node.name, parts[0].op, [source], node.output, attrs, params, origin))
