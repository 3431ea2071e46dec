"""minmax: the largest magnitude of a group is the largest point of its grid."""

from __future__ import annotations

import numpy as np

from attnc.arrays import Array
from attnc.quant.weights.grid import grouped, on_grid
from attnc.weights import QuantizedWeight, WeightFormat


def minmax(weight: Array, format: WeightFormat, gram: Array | None, name: str) -> QuantizedWeight:
    """scale = max|W| / limit per group of `weight` [N, K]; the gram is not used."""
    return on_grid(weight, format, np.abs(grouped(weight, format)).max(axis=-1) / format.limit)
