"""The formats that a search may give to a layer."""

from __future__ import annotations

from dataclasses import replace

from attnc.errors import ConfigError
from attnc.quant.weight_config import LOOKUP_BITS, LayerSettings
from attnc.quant.weights import QUANTIZERS, default_quantizer
from attnc.weights import WeightFormat

FORMATS = ("int8", "int6", "int5", "int4", "int3", "ternary")
"""Finest first. int2 has the values of ternary and takes more memory; planes of -1 and 1 are for who asks for them."""
GROUP = 32
"""Where nobody gave a group size: of the sizes there are, the smallest lowers the error most for what its scales take."""
FEW_BITS = 5
"""Formats of more bits are fine enough with a scale per channel."""


def candidates(settings: LayerSettings, inputs: int, name: str) -> list[LayerSettings]:
    """The settings that a layer of `inputs` inputs and weights `auto` may end with: formats that its engine takes and its quantizer
    can make, with the group size that was given, or with a scale per channel and per group."""
    found = []
    for weights in FORMATS:
        format = WeightFormat.parse(weights)
        quantizer = settings.quantizer or default_quantizer(format)[0]
        if format.kind not in QUANTIZERS[quantizer].kinds or (settings.engine == "lookup" and format.bits > LOOKUP_BITS):
            continue
        grouped = settings.open_group and format.bits <= FEW_BITS and inputs > GROUP and inputs % GROUP == 0
        for size in (GROUP, 0) if grouped else (settings.group_size,):
            found.append(replace(settings, weights=weights, group_size=size, quantizer=quantizer, open_group=False))
    if not found:
        raise ConfigError(f"layer {name!r}: quantizer {settings.quantizer} makes none of the formats of a search, {', '.join(FORMATS)}")
    return found
