"""Which formats a search tries, and what they promise to take."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attnc.errors import ConfigError
from attnc.ops.packing import Layout, pack, records
from attnc.quant.candidates import candidates
from attnc.quant.weight_config import LayerSettings
from attnc.weights import WeightFormat

AUTO = LayerSettings("auto", 0, "", "dynamic", "auto", open_group=True)


def labels(settings: LayerSettings, inputs: int = 128) -> list[str]:
    return [found.label for found in candidates(settings, inputs, "layer")]


def test_all_formats_with_and_without_groups() -> None:
    assert labels(AUTO) == ["int8", "int6", "int5g32", "int5", "int4g32", "int4", "int3g32", "int3", "ternaryg32", "ternary"]
    found = candidates(AUTO, 128, "layer")[0]
    assert found == LayerSettings("int8", 0, "quantease", "dynamic", "auto")


def test_what_the_layer_or_the_user_rules_out() -> None:
    channels = ["int8", "int6", "int5", "int4", "int3", "ternary"]
    assert labels(AUTO, inputs=32) == labels(AUTO, inputs=100) == labels(replace(AUTO, open_group=False)) == channels
    assert labels(replace(AUTO, open_group=False, group_size=64)) == [f"{name}g64" for name in channels]
    assert labels(replace(AUTO, engine="lookup"), inputs=32) == channels[1:]
    assert labels(replace(AUTO, quantizer="absmean")) == ["ternaryg32", "ternary"]
    with pytest.raises(ConfigError, match="quantizer binary makes none of the formats"):
        candidates(replace(AUTO, quantizer="binary"), 128, "layer")


@pytest.mark.parametrize("group", [0, 32])
@pytest.mark.parametrize("name", ["int8", "int6", "int5", "int4", "int3", "ternary", "binary2"])
def test_memory_takes_what_a_format_promises(name: str, group: int) -> None:
    """A weight 1536x4096 in memory, less the 4 bytes per channel that are its bias; ternary words end at a multiple of 3 tiles."""
    n, k, format = 1536, 4096, WeightFormat.parse(name, group)
    coding, bits, tiles = {"ternary": ("ternary", 5, 3), "binary": ("planes", format.bits, 4)}.get(format.kind, ("bits", format.bits, 1))
    planes = (format.bits,) if format.kind == "binary" else ()
    scales = k // group if group else 1
    multiplier = np.ones((*planes, n, scales), np.int64) if group or planes else None
    layout = Layout(
        16, 16, 1, "bytes" if format.bits == 8 else coding, bits, tiles, 0 if multiplier is None else scales * (planes or (1,))[0]
    )
    record = records(np.zeros(n, np.int64), np.ones(n, np.int64), np.ones(n, np.int64))
    total = sum(map(len, pack(layout, np.ones((*planes, n, k), np.int8), record, multiplier))) - 4 * n
    assert total == pytest.approx(format.promised_bytes(n, k), rel=0.004 if name == "ternary" else 1e-9)
