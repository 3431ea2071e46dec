"""HLS pragmas of a source as the preprocessor leaves them, macros expanded, and what Vitis HLS 2022.2 knows of each.

The tables stand on the Vitis HLS user guide (UG1399, HLS Pragmas) and on what reads pragmas in the tool, its published front end (Xilinx,
hls-llvm-project: XlxPragmaOption.td, ParseXlxPragma.cpp, XILINXFPGAPlatformBasic.cpp). Where one of the two is stricter, it counts:
memories with error correction are of type ram_s2p alone. Of what BIND_OP binds, operations on integers are listed; options that are
hidden, deprecated or later than 2022.2 are not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

Values = tuple[str, ...] | str | None
NUMBER = None
"""Of an option that takes a number, or an expression of constants."""
NAME = ""
"""Of an option that takes the name of a variable, argument, function or bundle."""
VARIABLE: dict[str, Values] = {"variable": NAME}
RAM = ("auto", "bram", "lutram", "uram")
ROM = ("auto", "bram", "lutram")
IMPLEMENTATIONS = {
    "fifo": ("auto", "bram", "lutram", "memory", "srl", "uram"),
    **dict.fromkeys(("ram_1p", "ram_1wnr", "ram_2p"), RAM), "ram_s2p": (*RAM, "bram_ecc", "uram_ecc"), "ram_t2p": ("auto", "bram", "uram"),
    **dict.fromkeys(("rom_1p", "rom_2p", "rom_np"), ROM),
}  # fmt: skip
"""By the type of a BIND_STORAGE."""
MODES: dict[str, dict[str, Values]] = {
    "s_axilite": {"bundle": NAME, "offset": NUMBER, "clock": NAME, "storage_impl": ("auto", "bram", "uram")},
    "m_axi": {"bundle": NAME, "offset": ("off", "direct", "slave"), **dict.fromkeys((
        "depth", "latency", "max_read_burst_length", "max_write_burst_length", "max_widen_bitwidth", "num_read_outstanding",
        "num_write_outstanding"))},
    "axis": {"depth": NUMBER, "register_mode": ("forward", "reverse", "both", "off")},
    **{mode: {"depth": NUMBER, "latency": NUMBER, "storage_type": tuple(IMPLEMENTATIONS)[1:]} for mode in ("ap_memory", "bram")},
    **{mode: {"depth": NUMBER} for mode in ("ap_none", "ap_vld", "ap_ack", "ap_hs", "ap_ovld", "ap_fifo")},
    **{mode: {} for mode in ("ap_ctrl_none", "ap_ctrl_hs", "ap_ctrl_chain")},
}  # fmt: skip
"""Options of an INTERFACE by its mode, beside those that all have."""
REGISTERED = ("axis", "ap_none", "ap_vld", "ap_ack", "ap_hs", "ap_ovld", "ap_fifo")
"""Modes that know the word `register`."""


@dataclass(frozen=True)
class Directive:
    """A pragma's options, name to values; those whose value may also stand `alone`; other words; options that must be there; where it
    stands: at the top of a "function", of a "loop", of "either", or behind what it names, "variable"."""

    place: str
    options: dict[str, Values] = field(default_factory=dict)
    alone: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()


PARTITION: dict[str, Values] = {**VARIABLE, "dim": NUMBER, "factor": NUMBER, "type": ("complete", "block", "cyclic")}
ALL_MODES = {name: values for options in MODES.values() for name, values in options.items()}
DIRECTIVES = {
    "AGGREGATE": Directive("variable", {**VARIABLE, "compact": ("bit", "byte", "none", "auto")}, ("compact",), needed=("variable",)),
    "ALIAS": Directive("function", dict.fromkeys(("ports", "offset", "distance"), NAME), needed=("ports",)),
    "ALLOCATION": Directive("function", {"type": ("function", "operation"), "instances": NAME, "limit": NUMBER}, ("type",),
                            needed=("instances", "limit")),
    "ARRAY_PARTITION": Directive("variable", PARTITION, ("type",), ("off",), ("variable",)),
    "ARRAY_RESHAPE": Directive("variable", PARTITION, ("type",), ("object", "off"), ("variable",)),
    "BIND_OP": Directive("variable", {**VARIABLE, "op": ("add", "mul", "sub"), "impl": ("dsp", "fabric"), "latency": NUMBER},
                         needed=("variable", "op")),
    "BIND_STORAGE": Directive("variable", {**VARIABLE, "type": tuple(IMPLEMENTATIONS), "latency": NUMBER,
                                           "impl": tuple(sorted({name for each in IMPLEMENTATIONS.values() for name in each}))},
                              needed=("variable", "type")),
    "DATAFLOW": Directive("function", words=("disable_start_propagation",)),  # in a loop as well, where the rules for regions do not look
    "DEPENDENCE": Directive("loop", {**VARIABLE, "class": ("array", "pointer"), "type": ("inter", "intra"), "distance": NUMBER,
                                     "direction": ("RAW", "WAR", "WAW"), "dependent": ("true", "false")},
                            ("class", "type", "direction", "dependent")),
    "DISAGGREGATE": Directive("variable", VARIABLE, needed=("variable",)),
    "EXPRESSION_BALANCE": Directive("function", words=("off",)),
    "FUNCTION_INSTANTIATE": Directive("function", VARIABLE, needed=("variable",)),
    "INLINE": Directive("function", words=("off", "recursive")),
    "INTERFACE": Directive("function", {"mode": tuple(MODES), "port": NAME, "name": NAME, **ALL_MODES}, ("mode",), ("register",),
                           ("port",)),
    "LATENCY": Directive("either", {"min": NUMBER, "max": NUMBER}),
    "LOOP_FLATTEN": Directive("loop", words=("off",)),
    "LOOP_MERGE": Directive("either", words=("force",)),
    "LOOP_TRIPCOUNT": Directive("loop", dict.fromkeys(("min", "max", "avg")), needed=("max",)),
    "OCCURRENCE": Directive("variable", {"cycle": NUMBER}),
    "PERFORMANCE": Directive("loop", {"target_ti": NUMBER, "target_tl": NUMBER, "unit": ("cycle", "sec")}),
    "PIPELINE": Directive("either", {"II": NUMBER, "style": ("stp", "frp", "flp"), "rewind": ("true", "false")}, words=("off", "rewind")),
    "PROTOCOL": Directive("variable", {"mode": ("floating", "fixed")}, ("mode",)),
    "RESET": Directive("variable", VARIABLE, words=("off",), needed=("variable",)),
    "STABLE": Directive("variable", VARIABLE, needed=("variable",)),
    "STREAM": Directive("variable", {**VARIABLE, "depth": NUMBER, "type": ("fifo", "pipo", "shared", "unsync")}, needed=("variable",)),
    "TOP": Directive("function", {"name": NAME}),
    "UNROLL": Directive("loop", {"factor": NUMBER}, words=("skip_exit_check", "off")),
}  # fmt: skip


@dataclass(eq=False)
class Pragma:
    """One of a file. `name` is as it is written, `options` are those with values, `words` those without; `text` is all of it."""

    file: Path
    line: int
    name: str
    options: dict[str, str]
    words: list[str]
    text: str

    @property
    def variable(self) -> str:
        """What it is about, "" where it names nothing."""
        return self.options.get("variable", self.options.get("port", ""))

    def chosen(self, name: str, values: tuple[str, ...], default: str) -> str:
        """An option's value, which may stand alone."""
        return self.options.get(name) or next((word for word in self.words if word in values), default)


TOKEN = re.compile(r"\w[\w.:]*|==|[-+*/%()<>&|^!~?]+|=")
OPERATOR = re.compile(r"[-+*/%<>&|^?]+$")


def parse(file: Path, line: int, text: str) -> Pragma:
    """The text behind `#pragma HLS`. The value of an option goes on as long as operators join it: `max = 8 + TAPS_MAX`."""
    tokens = TOKEN.findall(text)
    options: dict[str, str] = {}
    words: list[str] = []
    at = 1
    while at < len(tokens):
        if at + 1 < len(tokens) and tokens[at + 1] == "=":
            stop = at + 3
            while stop < len(tokens) and (OPERATOR.match(tokens[stop]) or OPERATOR.match(tokens[stop - 1]) or "(" in tokens[stop - 1]
                                          or ")" in tokens[stop]):  # fmt: skip
                stop += 1
            options[tokens[at]] = " ".join(tokens[at + 2 : stop])
            at = stop
        else:
            words.append(tokens[at])
            at += 1
    return Pragma(file, line, tokens[0] if tokens else "", options, words, text.strip())


def pragmas(preprocessed: str) -> list[Pragma]:
    """Those of the output of a preprocessor, which says by `# 12 "file"` where it is. One that is not for HLS keeps its first word."""
    found = []
    file, line = Path(), 0
    for text in preprocessed.splitlines():
        if marker := re.match(r'# (\d+) "([^"]*)"', text):
            file, line = Path(marker[2]), int(marker[1])
            continue
        if pragma := re.match(r"\s*#\s*pragma\s+(\w+)\s*(.*)", text):
            if pragma[1] == "HLS":
                found.append(parse(file, line, pragma[2]))
            else:
                found.append(Pragma(file, line, pragma[1], {}, [], f"{pragma[1]} {pragma[2]}"))
        line += 1
    return found


def mistakes(pragma: Pragma) -> list[str]:
    """What is wrong with its name, options and values."""
    known = DIRECTIVES.get(pragma.name)
    if known is None:
        return [f"no pragma {pragma.name}"]
    found = list(_of_table(pragma, known))
    return found or list(COMBINATIONS.get(pragma.name, lambda given: ())(pragma))


def _of_table(pragma: Pragma, known: Directive) -> Iterator[str]:
    for name, value in pragma.options.items():
        allowed = known.options.get(name)
        if name not in known.options:
            yield f"{pragma.name} has no option {name!r}"
        elif name != "offset" and isinstance(allowed, tuple) and value not in allowed:  # what an offset is depends on the mode
            yield f"{name} of {pragma.name} is one of {', '.join(allowed)}, not {value}"
    standing = {word: name for name in known.alone for word in known.options[name] or ()}
    yield from (f"{pragma.name} knows no {word!r}" for word in pragma.words if word not in known.words and word not in standing)
    given = [*pragma.options, *(standing[word] for word in pragma.words if word in standing)]
    yield from (f"{pragma.name} says its {name} twice" for name in known.alone if given.count(name) > 1)
    yield from (f"{pragma.name} needs {name}" for name in known.needed if name not in pragma.options)


def _interface(pragma: Pragma) -> Iterator[str]:
    mode = pragma.chosen("mode", tuple(MODES), "")
    if not mode:
        yield "INTERFACE needs a mode"
        return
    for name, value in pragma.options.items():
        allowed = MODES[mode].get(name)
        if name not in ("mode", "port", "name", *MODES[mode]):
            yield f"INTERFACE {mode} has no option {name!r}"
        elif isinstance(allowed, tuple) and value not in allowed:
            yield f"{name} of INTERFACE {mode} is one of {', '.join(allowed)}, not {value}"
    if "register" in pragma.words and mode not in REGISTERED:
        yield f"INTERFACE {mode} knows no 'register'"


def _bind_storage(pragma: Pragma) -> Iterator[str]:
    kind, place = pragma.options["type"], pragma.options.get("impl", "auto")
    if place not in IMPLEMENTATIONS[kind]:
        yield f"{kind} is made of {', '.join(IMPLEMENTATIONS[kind])}, not {place}"


def _partition(pragma: Pragma) -> Iterator[str]:
    kind = pragma.chosen("type", ("complete", "block", "cyclic"), "complete")
    if (kind == "complete") == ("factor" in pragma.options):
        yield f"{pragma.name} {kind} {'has no' if kind == 'complete' else 'needs a'} factor"


def _dependence(pragma: Pragma) -> Iterator[str]:
    if "variable" in pragma.options and pragma.chosen("class", ("array", "pointer"), ""):
        yield "DEPENDENCE is about a variable or about a class of them"
    carried = pragma.chosen("type", ("inter", "intra"), "inter") == "inter"
    if "distance" in pragma.options and not (carried and pragma.chosen("dependent", ("true", "false"), "false") == "true"):
        yield "the distance of a DEPENDENCE counts where iterations depend on each other (inter true)"
    if not carried and pragma.chosen("direction", ("RAW", "WAR", "WAW"), ""):
        yield "the direction of a DEPENDENCE counts between iterations (inter)"


def _pipeline(pragma: Pragma) -> Iterator[str]:
    style = pragma.options.get("style")
    if style and "off" in pragma.words:
        yield "PIPELINE is off, and has a style"
    if style not in (None, "stp") and ("rewind" in pragma.words or pragma.options.get("rewind") == "true"):
        yield f"PIPELINE rewind stalls, and is not of style {style}"


def _latency(pragma: Pragma) -> Iterator[str]:
    if not pragma.options:
        yield "LATENCY needs min or max"


def _unroll(pragma: Pragma) -> Iterator[str]:
    if "skip_exit_check" in pragma.words and "factor" not in pragma.options:
        yield "UNROLL skip_exit_check needs a factor"


COMBINATIONS: dict[str, Callable[[Pragma], Iterator[str]]] = {
    "ARRAY_PARTITION": _partition, "ARRAY_RESHAPE": _partition, "BIND_STORAGE": _bind_storage, "DEPENDENCE": _dependence,
    "INTERFACE": _interface, "LATENCY": _latency, "PIPELINE": _pipeline, "UNROLL": _unroll,
}  # fmt: skip
"""What options say together, once each is known."""
