"""Which implementation of a nonlinear function the nodes take: what the user asked for, and one for all nodes that can share hardware."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attnc.errors import ConfigError
from attnc.ir import Graph, Node
from attnc.ops import operator
from attnc.ops.approximation import AUTO, Approximated, choose


def approximated(graph: Graph) -> Iterator[tuple[Node, Approximated]]:
    """Nodes whose operator has several implementations."""
    for node in graph.nodes:
        op = operator(node)
        if isinstance(op, Approximated):
            yield node, op


def set_implementations(graph: Graph, wanted: Mapping[str, str], error_target: float | None = None) -> None:
    """Note in the nodes what `wanted` says of their functions, and the error target. Requires a graph without types; the float
    meaning stays."""
    known: dict[str, list[str]] = {}
    for node, op in approximated(graph):
        kind, names = op.kind(node), [candidate.name for candidate in op.candidates(node, None)]
        known[kind] = names
        if error_target is not None:
            node.attrs["error_target"] = error_target
        if kind in wanted:
            if wanted[kind] not in (AUTO, *names):
                raise ConfigError(f"implementation of {kind}: needed one of {', '.join([AUTO, *names])}, found {wanted[kind]!r}")
            node.attrs["implementation"] = wanted[kind]
    for kind in wanted:
        if kind not in known:
            found = ", ".join(sorted(known)) or "none"
            raise ConfigError(f"implementation of {kind!r}: needed one of the functions that the model has on the device ({found})")


def share_implementations(graph: Graph) -> None:
    """Where "auto" chooses, one implementation for all nodes of a function that read the same kind of input: the cheapest that meets the
    smallest of their targets, so that they share an engine. Requires types on all values."""
    groups: dict[tuple[str, str, int], list[Node]] = {}
    for node, op in approximated(graph):
        if node.attrs.get("implementation", AUTO) == AUTO:
            groups.setdefault((node.op, op.kind(node), graph.type(node.inputs[0]).bits), []).append(node)
    by_node = {node.name: op for node, op in approximated(graph)}
    for nodes in groups.values():
        offers = [by_node[node.name].candidates(node, graph.type(node.inputs[0])) for node in nodes]
        names = set.intersection(*({candidate.name for candidate in offer} for offer in offers))
        common = [candidate for candidate in offers[0] if candidate.name in names]
        if common:
            target = min(by_node[node.name].target(node, graph.type(node.output)) for node in nodes)
            chosen = choose(AUTO, common, target, nodes[0].op)
            for node in nodes:
                node.attrs["implementation"] = chosen.name
