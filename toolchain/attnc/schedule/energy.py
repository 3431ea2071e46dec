"""A simple model of energy, to rank designs: an estimate whose constants are assumptions, never a measurement.

Energy of a sample = power * time + DDR bytes * energy per byte, with power = static + clock * sum(class * coefficient). The
coefficients are chosen so that two published designs on 16-nm devices come out near, with their DDR traffic left out:
TeLLMe v2 (98 k LUT, 137 k FF, 610 DSP, 98.5 BRAM36, 60 URAM, 250 MHz) 5.1 W where 4.8 W are published, and CoQMoE (156 k LUT,
1,754 DSP, 383 BRAM36, 300 MHz; FF taken as 200 k) 9.7 W where 9.83 W are.
"""

from __future__ import annotations

from attnc.schedule.cost import Estimate

STATIC_WATTS = 1.5
"""Processor system, leakage and idle DDR of a small UltraScale+ board."""
MICROWATTS_PER_MHZ = {"lut": 0.06, "ff": 0.015, "dsp": 6.0, "bram36": 12.0, "uram": 24.0}
PICOJOULES_PER_BYTE = 160.0
"""Of an access to DRAM: 1.3 nJ per 64 bits (Horowitz, ISSCC 2014)."""


def power_watts(cost: Estimate) -> float:
    """While the accelerator runs, without the accesses to DDR."""
    per_mhz = sum(MICROWATTS_PER_MHZ[name] * number for name, number in cost.used().items())
    return STATIC_WATTS + 1e-6 * per_mhz * cost.clock_mhz


def energy_mj(cost: Estimate, lanes: int) -> float:
    """Millijoules per sample; `lanes` are the bytes of a word."""
    return power_watts(cost) * cost.latency_ms + 1e-9 * PICOJOULES_PER_BYTE * cost.words * lanes
