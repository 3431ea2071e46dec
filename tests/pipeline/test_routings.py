"""Other routings than that of the test bench, for the report."""

from __future__ import annotations

import numpy as np

from attnc.routings import other_gates, routing_of, rows_by_queue
from mixture_cases import feeds_of, integers, mixture, mixture_graph, quantized


def test_other_gates() -> None:
    graph = mixture_graph(mixture(8, 32, 48, k=2), 40, 32, logits=False)
    real = feeds_of(graph, 3)
    graph = quantized(graph, real)
    feeds = integers(graph, real)
    rows = rows_by_queue(graph, feeds)
    assert all(array.shape == (3, 8) and (array.sum(axis=1) == 80).all() for array in rows.values())
    few, many = (other_gates(graph, feeds, spread) for spread in (False, True))
    assert few is not None and many is not None
    assert list(routing_of(rows_by_queue(few, feeds)).values()) == [(40, 40)]
    assert [len(counts) for counts in routing_of(rows_by_queue(many, feeds)).values()] == [8]
    assert all(np.array_equal(array, rows[name]) for name, array in rows_by_queue(graph, feeds).items())  # the graph stays as it is


def test_experts_behind_no_gate() -> None:
    graph = mixture_graph(mixture(4, 16, 16, k=1), 5, 16)
    real = feeds_of(graph, 2)
    assert other_gates(quantized(graph, real), integers(graph, real), False) is None
