"""Which engine serves the nodes that more than one could."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from attnc.config import Objective
from attnc.errors import FitError
from attnc.ir import Graph, Node
from attnc.kernels.design import Design
from attnc.ops import operator
from attnc.schedule.cost import estimate
from attnc.schedule.design import SCORES, choose_design
from attnc.schedule.devices import Board
from attnc.schedule.program import Programs


@dataclass(frozen=True)
class EngineChoice:
    """Which engine the layers share that may have either, and what the search found for each."""

    nodes: frozenset[str]
    kind: str
    tried: dict[str, dict[str, int | float | str]]
    """By engine: cycles per sample and resources of the whole design (estimates), or `misfit`, why none fits the board."""


def open_nodes(graph: Graph) -> list[Node]:
    """Nodes that more than one engine could serve, and that have none of their own."""
    return [node for node in graph.nodes if "engine" not in node.attrs and len(operator(node).engines(node)) > 1]


def take_engine(nodes: Iterable[Node], kind: str) -> None:
    """Serve nodes by an engine, or by their usual one where that cannot."""
    for node in nodes:
        served = operator(node).engines(node)
        node.attrs["engine"] = kind if kind in served else served[0]


def take_only_engine(graph: Graph, kernels: Collection[str]) -> None:
    """Serve each node that more than one engine could by the only one whose kernel is among these, if it is the only one."""
    for node in open_nodes(graph):
        fitting = []
        for kind in operator(node).engines(node):
            node.attrs["engine"] = kind
            kernel = operator(node).numbers(node)
            fitting += [kind] if kernel is not None and kernel.kernel in kernels else []
        del node.attrs["engine"]
        if len(fitting) == 1:
            node.attrs["engine"] = fitting[0]


def choose_engines(graph: Graph, board: Board, clock_mhz: float, objective: Objective = "latency") -> tuple[Design, EngineChoice]:
    """`choose_design`, once for each engine that layers without one of their own could share; the better of the two stays, in
    attribute `engine` of those nodes. Raises `FitError` where neither fits, and leaves them as they were."""
    nodes = open_nodes(graph)
    kinds = sorted({engine for node in nodes for engine in operator(node).engines(node)})
    best: tuple[tuple[float, float], str, Design] | None = None
    misfit: FitError | None = None
    tried: dict[str, dict[str, int | float | str]] = {}
    for kind in kinds or [""]:
        take_engine(nodes, kind)
        try:
            design = choose_design(graph, board, clock_mhz, objective)
        except FitError as error:
            misfit, tried[kind] = error, {"misfit": str(error)}
            continue
        cost = estimate(Programs(graph).build(design).in_use, board, clock_mhz, settled=True)
        score = SCORES[objective](cost, board, design.lanes), cost.resources.lut
        tried[kind] = {"cycles": cost.cycles, **{name: math.ceil(used) for name, used in cost.used().items()}}
        if best is None or score < best[0]:
            best = score, kind, design
    if best is None:
        assert misfit is not None
        for node in nodes:
            del node.attrs["engine"]
        raise misfit
    take_engine(nodes, best[1])
    return best[2], EngineChoice(frozenset(node.name for node in nodes), best[1], tried if nodes else {})
