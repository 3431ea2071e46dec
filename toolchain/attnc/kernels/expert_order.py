"""The network of expert_order.hpp."""

from __future__ import annotations

from attnc.kernels.latency import ADD, LUTRAM, READ, WRITE
from attnc.kernels.network import Buffer, Loop, Network, alone, one
from attnc.kernels.numbers import ACTIVATION_BITS
from attnc.kernels.ports import Port

EXPERT_ORDER = Network(
    name="expert_order",
    header="expert_order.hpp",
    ports=(Port("x", "load"), Port("y", "store")),
    scalars=("rows", "k", "experts", "queue", "entries"),
    processes=alone(
        "expert_order",
        ("XT", "YT", "L", "ROWS_MAX", "EXPERTS_MAX"),
        Loop("COUNT_PAIRS", READ + ADD + WRITE, runs=one(lambda n: n.pairs)),
        Loop("FIRST_PLACES", ADD + WRITE, late=one(lambda n: n.experts)),
        Loop("GIVE_ORDER", LUTRAM + ADD + WRITE, late=one(lambda n: n.leaving)),
        buffers=(
            Buffer("chosen", lambda n: n.ROWS_MAX, lambda n: ACTIVATION_BITS * n.L, static=False),
            Buffer("queue", lambda n: n.EXPERTS_MAX, lambda n: ACTIVATION_BITS * n.L, static=False),
        ),
    ),
    derived={"pairs": lambda n: n.rows * n.k, "leaving": lambda n: n.entries if n.queue else n.pairs},
    counts=("pairs", "leaving"),
)
