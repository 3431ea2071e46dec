"""absmean: the ternary weights of BitNet b1.58 (arXiv 2402.17764): scale = mean|W|, q = clip(round(W / scale), -1, 1).

In the paper one scale serves the whole tensor (`absmean_tensor`): the right one for the full-precision weights of a BitLinear layer,
because training saw it. `absmean` gives every group of the format a scale of its own, for weights that were not trained this way.
"""

from __future__ import annotations

import numpy as np

from attnc.arrays import Array
from attnc.errors import ConfigError
from attnc.quant.weights.grid import grouped, on_grid
from attnc.weights import QuantizedWeight, WeightFormat


def absmean(weight: Array, format: WeightFormat, gram: Array | None, name: str) -> QuantizedWeight:
    """scale = mean|W| per group of `weight` [N, K]; the gram is not used."""
    return on_grid(weight, format, np.abs(grouped(weight, format)).mean(axis=-1))


def absmean_tensor(weight: Array, format: WeightFormat, gram: Array | None, name: str) -> QuantizedWeight:
    """scale = mean|W| of the whole `weight` [N, K], as in the paper; the gram is not used."""
    if format.group_size:
        raise ConfigError(f"weight of {name!r}: absmean_tensor needs group_size 0, found {format.group_size}")
    return on_grid(weight, format, np.full((weight.shape[0], 1), np.abs(weight).mean()))
