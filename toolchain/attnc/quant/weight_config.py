"""The file that says how each layer is quantized: `attnc.yaml`.

    weights: int4            # a format of weights, or auto: leave it to the search (`attnc compile --budget`)
    group_size: 64           # 0: a scale per channel
    quantizer: gptq          # by default quantease; without calibration data mse for int8 and int6
    activations: static      # or dynamic: a scale per token, found on the device
    activation_bits: auto    # or 8, 16: width of the layer's input
    engine: auto             # or dsp, lookup
    hold_out: 4              # every 4th calibration sample does not calibrate: figures are measured on it; 0: none; null: by their number
    layers:
      - match: "encoder.*.up"
        weights: ternary
      - match: "*.pooler"
        weights: int8
        group_size: 0

`match` is a glob (quote it: YAML has its own meaning for a leading *), in which case matters. It is looked for among the names of the
layers of the compiled graph; where it names none, among their operator kinds (`linear`); where it names none, among the nodes of the
ONNX model that the layers stand for. A pattern that finds nothing is an error. As in .gitignore, the last rule that matches wins: for
every key on its own, so a later rule changes only what it mentions.

`activation_bits: auto` is 8, and 16 where the compiler finds that the model needs it; it looks at layers of int8 weights with static
activations. Inputs that a model which arrived quantized has in 16 bits stay so. Inputs of 16 bits take the multipliers (engine dsp) twice
as long, and always have a calibrated scale: `dynamic` does not touch them.

The file's own `group_size` also covers layers with fewer inputs than that: they have one scale per channel. A size that does not divide
a layer's inputs otherwise is an error.

The experts of a mixture are one layer. They take neither planes nor tables nor scales per token: what the file's own `activations` and
`engine` say of these holds for the other layers, a rule that says it of experts is an error.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from attnc.config import ActivationBits, Activations
from attnc.errors import ConfigError
from attnc.ir import Graph, Node
from attnc.messages import shown
from attnc.ops.linear_weights import EXPERTS, WEIGHTED, weight_shape
from attnc.quant.weights import QUANTIZERS, default_quantizer, find_quantizer
from attnc.settings_file import read_settings
from attnc.weights import GROUP_SIZES, WeightFormat

Weights = Literal["int8", "int6", "int5", "int4", "int3", "int2", "ternary", "binary2", "binary3", "binary4", "auto"]
GroupSize = Literal[0, 16, 32, 64, 128]
Engine = Literal["auto", "dsp", "lookup"]
LOOKUP_BITS = 6
"""Widest weights that are looked up in tables: one plane per bit."""


class LayerRule(BaseModel):
    """Settings of the layers that `match`; what is None stays as it was."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    match: str = Field(min_length=1)
    weights: Weights | None = None
    group_size: GroupSize | None = None
    quantizer: str | None = None
    activations: Activations | None = None
    activation_bits: ActivationBits | None = None
    engine: Engine | None = None


class WeightConfig(BaseModel):
    """Settings of all layers, and rules for some."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: Weights = "int8"
    group_size: GroupSize = 0
    quantizer: str | None = None
    activations: Activations = "static"
    activation_bits: ActivationBits = "auto"
    engine: Engine = "auto"
    hold_out: int | None = Field(default=None, ge=0)
    layers: tuple[LayerRule, ...] = ()

    @field_validator("hold_out")
    @classmethod
    def _leaves_some(cls, value: int | None) -> int | None:
        if value == 1:
            raise ValueError("needed 0 or at least 2, as 1 holds every sample out")
        return value

    def bind(self, graph: Graph, where: str = "weights", calibrated: bool = True) -> LayerChoices:
        """The settings of every layer of `graph`; `where` names the file in errors; `calibrated`: there is calibration data. Raises
        `ConfigError` for what cannot be."""
        nodes = [node for node in graph.nodes if node.op in WEIGHTED]
        chosen = {node.name: _base(self, node) for node in nodes}
        blame = {node.name: where for node in nodes}
        for index, rule in enumerate(self.layers):
            place = f"{where}: layers[{index}]"
            for node in matching(rule.match, nodes, f"{place}.match"):
                changes = {key: value for key, value in rule.model_dump(exclude={"match"}).items() if value is not None}
                chosen[node.name] = {**chosen[node.name], **changes, **({"open_group": False} if "group_size" in changes else {})}
                blame[node.name] = place
        return LayerChoices({node.name: _settled(chosen[node.name], node, blame[node.name], calibrated) for node in nodes})


@dataclass(frozen=True)
class LayerSettings:
    """What was chosen for one layer."""

    weights: str
    group_size: int
    quantizer: str
    activations: Activations
    engine: Engine
    activation_bits: ActivationBits = "auto"
    quantizer_why: str = field(default="asked for", compare=False)
    open_group: bool = False
    """Of weights `auto`: the group size is the search's to choose, because nobody gave one."""

    @property
    def label(self) -> str:
        """Format and group size in one word: int4g32."""
        return f"{self.weights}g{self.group_size}" if self.group_size else self.weights

    @property
    def format(self) -> WeightFormat:
        """The format of its weights; `auto` has none until the search has chosen one."""
        if self.weights == "auto":
            raise ConfigError("weights: auto is for the search over formats; needed a format such as int8 or ternary")
        return WeightFormat.parse(self.weights, self.group_size)


@dataclass(frozen=True)
class LayerChoices:
    """Settings by name of node."""

    settings: Mapping[str, LayerSettings]

    def choose(self, node: Node) -> LayerSettings:
        """The settings of a linear node."""
        return self.settings[node.name]

    def weights(self, node: Node) -> tuple[WeightFormat, str]:
        """Format and quantizer of a linear node, as `assign_weights` wants them."""
        return self.choose(node).format, self.choose(node).quantizer


def _base(config: WeightConfig, node: Node) -> dict[str, Any]:
    """The file's own settings for `node`."""
    settings = config.model_dump(exclude={"layers", "hold_out"})
    settings["open_group"] = "group_size" not in config.model_fields_set
    if node.attrs.get("dynamic_input") and "activations" not in config.model_fields_set:  # as the file has it
        settings["activations"] = "dynamic"
    if node.attrs.get("wide_input") and not {"activation_bits", "engine"} & config.model_fields_set:
        settings["activation_bits"] = 16
    if weight_shape(node)[1] < config.group_size:
        settings["group_size"] = 0
    if node.op == EXPERTS:
        settings |= {"activations": "static"} | ({"engine": "auto"} if settings["engine"] == "lookup" else {})
    return settings


def matching(pattern: str, nodes: list[Node], where: str, what: str = "layer") -> list[Node]:
    """Those of `nodes`, each a `what`, that `pattern` names, by name, else by kind, else by what they stand for in the ONNX model."""
    fields: tuple[Callable[[Node], Iterable[str]], ...] = (lambda n: [n.name], lambda n: [n.op], lambda n: n.source)
    for names in fields:
        found = [node for node in nodes if any(pattern == name or fnmatchcase(name, pattern) for name in names(node))]
        if found:
            return found
    known = sorted({name for node in nodes for names in fields for name in names(node)})
    raise ConfigError(f"{where}: {pattern!r} matches no {what}{_hint(pattern, known)}; the {what}s are {_listed([n.name for n in nodes])}")


def _listed(names: list[str], most: int = 12) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown or "none"


def _hint(found: object, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(found, list(known), n=1) if isinstance(found, str) else []
    return f" (did you mean {near[0]}?)" if near else ""


def _settled(settings: Mapping[str, Any], node: Node, where: str, calibrated: bool) -> LayerSettings:
    """Settings of `node` with its quantizer named, checked against each other and the shape of its weight."""
    at = f"{where}: layer {node.name!r}"
    if node.op == EXPERTS:
        _check_experts(settings, at)
    size, inputs = settings["group_size"], weight_shape(node)[1]
    if size and inputs % size:
        fitting = [str(g) for g in (0, *GROUP_SIZES) if g == 0 or inputs % g == 0]
        raise ConfigError(f"{at}: group_size {size} does not divide its {inputs} inputs; needed {' or '.join(fitting)}")
    weights, quantizer = settings["weights"], settings["quantizer"]
    others = settings["activations"], settings["engine"], settings["activation_bits"]
    if settings["activation_bits"] == 16 and settings["engine"] == "lookup":
        raise ConfigError(f"{at}: engine lookup takes activations of 8 bits, found activation_bits 16; needed engine auto or dsp")
    if weights == "auto":
        return LayerSettings("auto", size, quantizer or "", *others, open_group=settings["open_group"])
    format = WeightFormat.parse(weights, size)
    quantizer, quantizer_why = (quantizer, "asked for") if quantizer else default_quantizer(format, calibrated)
    find_quantizer(quantizer, format, f"{at}: quantizer")
    if settings["engine"] == "lookup" and format.bits > LOOKUP_BITS:
        raise ConfigError(f"{at}: engine lookup takes weights of at most {LOOKUP_BITS} bits, found {weights}; needed engine auto or dsp")
    if settings["activation_bits"] == 16 and format.kind == "binary":
        raise ConfigError(f"{at}: {weights} weights are looked up and take activations of 8 bits, found activation_bits 16")
    return LayerSettings(weights, size, quantizer, *others, quantizer_why=quantizer_why)


def _check_experts(settings: Mapping[str, Any], at: str) -> None:
    """Experts are multiplied, and what they make has one scale for all of them."""
    needed = {"weights": "int8 to int2 or ternary", "activations": "static", "engine": "auto or dsp"}
    for key, needs in needed.items():
        if settings[key] in ("dynamic", "lookup", "binary2", "binary3", "binary4"):
            raise ConfigError(f"{at}: {key} of experts: needed {needs}, found {settings[key]}")


def read_weight_config(path: Path) -> WeightConfig:
    """The config in a YAML file. Raises `ConfigError` that names file, key and what was needed."""
    data = read_settings(path, "config")
    return check_weight_config({} if data is None else data, f"config {path}")


def check_weight_config(data: Any, where: str) -> WeightConfig:
    """The config in `data`, a mapping as a YAML file holds it."""
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: needed keys {', '.join(WeightConfig.model_fields)}, found {type(data).__name__}")
    try:
        config = WeightConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_reason(error)}") from error
    named = {"quantizer": config.quantizer, **{f"layers[{i}].quantizer": rule.quantizer for i, rule in enumerate(config.layers)}}
    for key, name in named.items():
        if name is not None and name not in QUANTIZERS:
            raise ConfigError(f"{where}: {key}: needed one of {', '.join(QUANTIZERS)}, found {name!r}{_hint(name, QUANTIZERS)}")
    return config


def _reason(error: ValidationError) -> str:
    """The first thing that is wrong: key, what was needed, what was found."""
    first = error.errors()[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    if first["type"] == "extra_forbidden":
        known = list((LayerRule if "." in path else WeightConfig).model_fields)
        key = str(first["loc"][-1])
        return f"unknown key {path}{_hint(key, known)}; needed {', '.join(known)}"
    if first["type"] == "tuple_type":
        return f"{path}: needed a list of rules, each with a match and what it changes, found {shown(first['input'])}"
    if first["type"] == "missing":
        return f"{path} is missing"
    if first["type"] == "literal_error":
        expected = str(first["ctx"]["expected"]).replace("'", "")
        return (
            f"{path}: needed {expected}, found {shown(first['input'])}{_hint(first['input'], expected.replace(' or ', ', ').split(', '))}"
        )
    return f"{path}: {first['msg'][0].lower()}{first['msg'][1:]}, found {shown(first['input'])}"
