"""The numbers that make a design."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Design:
    """The parallelism of the hardware: lanes per word, output channels of the linear engine, rows buffered on chip,
    query rows of the attention engine; of the look-up engine: tables at a time, output channels at a time, activations per table of
    ternary weights, and codes per channel of those that are buffered on chip; rows of the linear engine that share a weight; words per
    beat of the memory ports, 1 or 2 (a vector of 16 bits, two words of a linear layer's weights); whether (2) or not (1) engines may have
    copies of small kernels, and whether they run at the same time, each with memory ports of its own; memory ports through which the
    weights of the linear engine come, 1, or 2 with beats of two words (where all its weights are bytes: `linear.weight_words`)."""

    lanes: int = 16
    pe: int = 16
    rows: int = 64
    queries: int = 4
    tables: int = 16
    columns: int = 16
    group: int = 3
    depth: int = 2048
    rows_at_once: int = 1
    beat: int = 1
    copies: int = 1
    parallel: int = 1
    weight_ports: int = 1
