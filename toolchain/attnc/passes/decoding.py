"""A decoder over whole sequences becomes one with a cache: entries that share weights, `PREFILL` for a block of tokens that follow each
other, `DECODE` for one token, and where it is asked for `BATCH` for one token of each of several branches of a sequence.

Requires a quantized graph over sequences of `length` tokens in which tokens meet in causal attention alone. Ensures: the keys and values of
every attention lie in memory from run to run (`Value.held`), tables of positions are read from the position of the run on, and whatever
blocks a sequence is cut into, each token gets the integers that it got in the whole sequence. A token that comes later changes nothing, so
a block may hold anything behind its last token: what is written for that is written over before it is read. `PREFILL` ends with the last
keys and values; nobody asks what follows a token of a prompt but the last. What attention sees in two precisions lies in memory in both,
in bytes as far as bytes are looked at again.

Branches lie in the cache of one sequence: behind the prefix that they share the first tokens of all, then their second ones, and so on. So
keys and values of the prefix are there once and are read once for all, those of a run are as contiguous as those of a block, and nothing
that a program says depends on more than two registers, position and prefix, by factors. Every branch gets the integers that it would get
alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from attnc.errors import UnsupportedError
from attnc.ir import Graph, Held, Node, TensorType, Value
from attnc.ops import operator
from attnc.ops.mixed_caches import LIMIT, LOW_BITS, low_type
from attnc_host.caches import BATCH, DECODE, PREFILL


def with_cache(graph: Graph, length: int, block: int, branches: int = 0) -> Graph:
    """The graph of all entries, `BATCH` among them if there are `branches`; arrays are shared with `graph`. Names of `DECODE` are those of
    the graph."""
    for node in graph.nodes:
        _check(graph, node, length, branches)
    held: dict[str, int] = {}
    graph, chunks = _with_low(graph)
    for node in graph.nodes:
        kept = [node.inputs[index] for index in operator(node).cached(node)]
        low = [each for name in kept for each in node.attrs.get("low", {}).get(name, ())]
        for name in (*kept, *low):
            held[name] = max(held.get(name, 0), operator(node).cache_rows(node, length, block))
    result = Graph(graph.name, length=length)
    cached = {name: Held(name, rows, rows < length, chunks.get(name, 0)) for name, rows in held.items()}
    _add(result, graph, PREFILL, block, block, cached, _makers(graph, {*held}))
    _add(result, graph, DECODE, 1, block, cached, graph.nodes)
    result.outputs = [*graph.outputs]
    if branches:
        _add(result, graph, BATCH, branches, block, cached, graph.nodes)
        result.outputs += [renamed(BATCH, name) for name in graph.outputs]
    return result


def _with_low(graph: Graph) -> tuple[Graph, dict[str, int]]:
    """The graph with nodes for each value that caches hold in 4 bits too, named in attribute `low` of its reader (of values the largest
    magnitudes of tokens besides); the tokens of a chunk by the values that they hold in bytes for a few chunks alone."""
    result, chunks, low = graph.copy(), dict[str, int](), dict[str, tuple[str, ...]]()
    for node in result.nodes[:]:
        wide = {node.inputs[index]: index for index in node.attrs.get("low_operands", ())}
        for name, index in wide.items():
            chunks[name] = node.attrs["cache_chunk"]
            if name not in low:
                low[name] = _narrowed(result, name) if index == 1 else _narrowed_by_token(result, name)
        if wide:
            node.attrs["low"] = {name: low[name] for name in wide}
    return result, chunks


def _narrowed(graph: Graph, name: str) -> tuple[str]:
    return (_add_behind(graph, "requantize", [name], f"{name}.low", low_type(graph.type(name)), graph.producer(name)),)


def _narrowed_by_token(graph: Graph, name: str) -> tuple[str, str]:
    type_ = graph.type(name)
    peak = _add_behind(graph, "row_absmax", [name], f"{name}.peak", type_, graph.producer(name))
    unit = TensorType(LOW_BITS, True, np.asarray(1 / LIMIT))
    return _add_behind(graph, "normalize_rows", [name, peak], f"{name}.low", unit, graph.producer(peak), limit=LIMIT), peak


def _add_behind(graph: Graph, op: str, inputs: list[str], output: str, type_: TensorType, maker: Node | None, **attrs: int) -> str:
    """Add a node behind another; the name of its output."""
    assert maker is not None, f"{inputs[0]!r} is checked to be computed"
    output = graph.fresh(output)
    node = Node(output, op, inputs, output, attrs={**attrs}, source=maker.source)
    graph.add_value(output, operator(node).shape(node, [graph.value(name).shape for name in inputs])).type = type_
    operator(node).quantize(node, [graph.type(name) for name in inputs], type_)
    graph.nodes.insert(graph.nodes.index(maker) + 1, node)
    return output


def renamed(entry: str, name: str) -> str:
    """What a value or node of the graph is called in an entry."""
    return name if entry == DECODE else f"{entry}.{name}"


def _makers(graph: Graph, wanted: set[str]) -> list[Node]:
    """The nodes that `wanted` values follow from, in order."""
    needed, found = {*wanted}, []
    for node in reversed(graph.nodes):
        if node.output in needed:
            needed.update(node.inputs)
            found.append(node)
    return found[::-1]


def _add(result: Graph, graph: Graph, entry: str, rows: int, block: int, held: dict[str, Held], nodes: list[Node]) -> None:
    """The nodes of an entry; `held` are the caches."""
    made, length = {node.output for node in nodes}, result.length
    branches = rows if entry == BATCH else 1
    read = [name for name in dict.fromkeys(name for node in nodes for name in node.inputs) if name not in made]
    names: dict[str, str] = {}
    for name in (*read, *(node.output for node in nodes)):
        value = graph.value(name)
        alike = value.shape[0] == 1 and name in graph.constants  # serves every token, of either entry
        names[name] = name if alike else renamed(entry, name)
        if names[name] in result.values:
            continue
        table = not alike and name in graph.constants
        if table and branches > 1:
            raise UnsupportedError(name, "constant", "it has a row for each position on the device, which --batch cannot do")
        shape = value.shape if alike else (rows, value.shape[1])
        kept = Held(name, length) if table else held.get(name)
        result.values[names[name]] = replace(value, name=names[name], shape=shape, held=kept and replace(kept, branches=branches))
        if name in graph.constants:
            result.constants[names[name]] = graph.constants[name]
        elif name in graph.inputs:
            result.inputs.append(names[name])
    for node in nodes:
        own = operator(node)
        lows = {names[name]: tuple(names[each] for each in low) for name, low in node.attrs.get("low", {}).items()}
        attrs = {"low": lows} if lows else {}
        most = max((held[node.inputs[index]].rows for index in own.cached(node)), default=length)
        result.nodes.append(
            replace(
                node,
                name=renamed(entry, node.name),
                inputs=[names[name] for name in node.inputs],
                output=names[node.output],
                attrs={**own.over_cache(node, length, most, block, branches), **attrs},
                entry=entry,
                like=node.packed,
                each=names.get(node.each, ""),
            )
        )
        if _routed(node):  # pairs of a token and an expert have rows of their own
            one = result.nodes[-1]
            result.value(one.output).shape = own.shape(one, [result.value(name).shape for name in one.inputs])


def _routed(node: Node) -> bool:
    """Whether it works on pairs of a token and one of its experts."""
    return operator(node).routes or bool(node.each)


def _check(graph: Graph, node: Node, length: int, branches: int) -> None:
    """Refuse what would need more of other tokens than their keys and values, or more than those of its own branch."""

    def refuse(why: str, what: str = "decoding token by token") -> UnsupportedError:
        source = node.source[-1] if node.source else node.name
        return UnsupportedError(source, node.op, f"{why}, which {what} cannot do")

    if branches and (why := operator(node).parts(node, length)) is not None:
        raise refuse(why, f"--batch {branches}")
    if _routed(node):
        return
    values: list[Value] = [graph.value(name) for name in (*node.inputs, node.output)]
    for value in values:
        if value.shape[0] != length and not (value.shape[0] == 1 and value.name in graph.constants):
            raise refuse(f"{value.name!r} has {value.shape[0]} rows, and not one for each of {length} tokens")
    if node.attrs.get("groups", 1) != 1:
        raise refuse("tokens form groups")
    if (why := operator(node).mixes(node, length)) is not None:
        raise refuse(why)
    if any(node.inputs[index] in (*graph.constants, *graph.inputs) for index in operator(node).cached(node)):
        raise refuse("keys or values are not computed from the token")
