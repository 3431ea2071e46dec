"""Settings of a compilation, validated in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Calibration = Literal["mse", "minmax", "percentile"]
Objective = Literal["latency", "throughput", "area", "energy"]
DEFAULT_TARGET = "kv260"
Activations = Literal["static", "dynamic"]


def _number(given: Any) -> Any:
    """Digits as a number: a command line has only text."""
    return int(given) if isinstance(given, str) and given.isdigit() else given


ActivationBits = Annotated[Literal[8, 16, "auto"], BeforeValidator(_number)]
SQNR_TARGET = 30.0


Head = Literal["auto", "device", "host"]
CacheFormat = Literal["int8", "k4v8", "int4"]
CACHE_BITS: dict[CacheFormat, tuple[int, int]] = {"int8": (8, 8), "k4v8": (4, 8), "int4": (4, 4)}
"""Bits of keys and of values."""
DEFAULT_BLOCK = 32


def block_of(block: int | None, length: int) -> int:
    """Tokens of a prompt that are worked on at a time, of sequences of `length`, where `block` is what was asked for."""
    return min(DEFAULT_BLOCK, length // 2) if block is None else block


class CompileOptions(BaseModel):
    """What `attnc compile` takes besides the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str | None = None
    """Name of a known board, or the path of a YAML or TOML file that describes one; by default that of the schedule, else kv260."""
    schedule: Path | None = None
    """A schedule to use in place of a search."""
    objective: Objective = "latency"
    """What the search minimises."""
    utilisation: str | None = None
    """Shares of the board that a design may use, "lut=0.7,dsp=0.8"; the others as the schedule or the board has them."""
    fit: bool = False
    """Refuse a schedule that does not fit the board (a search always does)."""
    calib: Path | None = None
    """Calibration inputs, `.npz` keyed by the model's input names; without it, synthetic inputs are used."""
    output: Path = Path("build")
    strict: bool = False
    """Refuse models that need the host for anything but moving data."""
    shapes: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    calibration: Calibration = "mse"
    config: Path | None = None
    """`attnc.yaml`: format, quantizer, activations and engine per layer."""
    weights: str | None = None
    """Format of weights: int8 (default), int6 to int2, ternary, binary4 to binary2; auto: the search's to choose."""
    budget: str | None = None
    """What a search over formats must hold: "cosine>=0.99", "sqnr>=30" or "accuracy_drop<=1"."""
    heldout: Path | None = None
    """Samples that figures, and the search, are measured on, `.npz`; by default some of the calibration samples, which then do not
    calibrate."""
    hold_out: int | None = None
    """Every so-many-th calibration sample does not calibrate, but is measured on; 0: none; by default `quant.split` says."""
    labels: str | None = None
    """Name of the labels beside those samples; by default "label"."""
    pool: str | None = None
    """Which rows of the outputs the search compares: mean:MASK or rows:MASK, MASK an input that is 0 where a row is padding."""
    group_size: int | None = None
    """Weights that share a scale: 16, 32, 64 or 128; 0 for the whole channel."""
    quantizer: str | None = None
    engine: Literal["auto", "dsp", "lookup"] | None = None
    activations: Activations | None = None
    """static: a scale per tensor, from calibration. dynamic: inputs of linear layers get a scale per token while the device runs."""
    activation_bits: ActivationBits | None = None
    """Width of the inputs of linear layers: 8, 16, or auto (the default): 16 where the model needs it for `sqnr_target`, for operands of
    attention and inputs of depthwise convolutions too."""
    sqnr_target: float = Field(default=SQNR_TARGET, ge=0, le=90)
    """SQNR in dB of golden against onnxruntime, on every output of the model, that `auto` widens inputs for."""
    implementations: dict[str, str] = Field(default_factory=dict)
    """Implementation of a nonlinear function by the function's name (`attnc approx` lists both); "auto" for the others."""
    error_target: float | None = Field(default=None, gt=0, le=1)
    """Largest error that "auto" accepts of an implementation; by default half a step of its output (2**-13 in a softmax)."""
    clock_mhz: float | None = Field(default=None, ge=1, le=1000)
    """Target clock; by default the board's."""
    dump: Path | None = None
    """Folder that receives the graph as text after every pass."""
    max_length: int | None = Field(default=None, ge=2, le=1 << 16)
    """Compile a decoder that generates tokens, for sequences of at most so many."""
    block: int | None = Field(default=None, ge=2)
    """Tokens of a prompt that are worked on at a time; by default `DEFAULT_BLOCK`, or less for short sequences."""
    cache: CacheFormat = "int8"
    """Keys and values in the caches of a decoder: both of 8 bits, keys of 4 and values of 8, or both of 4. What has 4 bits has 8 for the
    first tokens and the newest."""
    head: Head = "auto"
    """Where the last linear layer of a decoder runs; auto: where a token takes less."""
    sessions: int = Field(default=1, ge=1, le=1024)
    """Sequences that have caches of their own."""
    batch: int | None = Field(default=None, ge=2, le=256)
    """Branches of a sequence that a decoder can go on with together: each run gives all of them their next token."""
    check: bool = True
    """Simulate the emitted C++ on the build's own vectors, and leave no build behind that differs from golden."""
    force: bool = False
    """Move an output folder that attnc did not make aside."""
    seed: int = 0
    """Of the synthetic calibration inputs."""

    @property
    def mixed_length(self) -> int:
        """Tokens of sequences whose caches of 4 bits may have 8 for some; 0 of branches, whose caches have one precision."""
        return 0 if self.batch else self.max_length or 0
