"""The network of keep_groups.hpp."""

from __future__ import annotations

from attnc.kernels.latency import ADD, COMPARE, LUTRAM, READ, REQUANTIZE, SHIFT, TREE, WRITE
from attnc.kernels.network import Buffer, Loop, Network, alone, one
from attnc.kernels.numbers import ACTIVATION_BITS
from attnc.kernels.ports import Port

WORTH_BITS = 18

KEEP_GROUPS = Network(
    name="keep_groups",
    header="keep_groups.hpp",
    ports=(Port("x", "load"), Port("y", "store")),
    scalars=("rows", "tiles", "channels", "groups", "size", "kept", "best", "multiplier", "shift", "low", "high"),
    processes=alone(
        "keep_groups",
        ("XT", "YT", "L", "TILES_MAX", "ROWS_MAX", "GROUPS_MAX"),
        Loop("TAKE_CHOICES", READ + WRITE, runs=one(lambda n: n.vectors)),
        Loop("PLACE_LANES", ADD + WRITE, late=one(lambda n: n.L)),
        Loop("FIND_WORTH", LUTRAM + SHIFT + COMPARE + ADD + WRITE, late=one(lambda n: n.steps)),
        Loop("RANK_GROUPS", LUTRAM + SHIFT + COMPARE + TREE + COMPARE + WRITE, late=one(lambda n: n.rankings)),
        Loop("GIVE_KEPT", LUTRAM + SHIFT + REQUANTIZE + WRITE, late=one(lambda n: n.vectors)),
        buffers=(
            Buffer("choices", lambda n: n.TILES_MAX * n.ROWS_MAX, lambda n: ACTIVATION_BITS * n.L),
            Buffer("worth", lambda n: n.ROWS_MAX, lambda n: WORTH_BITS * n.GROUPS_MAX, static=False),
            Buffer("kept", lambda n: n.ROWS_MAX, lambda n: n.GROUPS_MAX, static=False),
        ),
    ),
    derived={
        "vectors": lambda n: n.rows * n.tiles,
        "steps": lambda n: n.rows * n.channels,
        "rankings": lambda n: n.rows * n.groups,
        "lane_groups": lambda n: n.L // max(n.size, 1),
        "lane_channels": lambda n: n.L % max(n.size, 1),
    },
    counts=("vectors", "steps", "rankings", "lane_groups", "lane_channels"),
)
