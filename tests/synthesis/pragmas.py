"""HLS pragmas of a source as the preprocessor leaves them, macros expanded, and what Vitis HLS 2022.2 knows of each (UG1399)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

NUMBER = None
"""Of an option that takes a number, or an expression of constants."""
NAME = ""
"""Of an option that takes the name of a variable, argument, function or bundle."""
RAM = ("ram_1p", "ram_1wnr", "ram_2p", "ram_s2p", "ram_t2p", "rom_1p", "rom_2p", "rom_np")
IMPLEMENTATIONS = {
    "fifo": ("auto", "bram", "lutram", "memory", "srl", "uram"),
    **dict.fromkeys(("ram_2p", "ram_s2p", "ram_1p"), ("auto", "bram", "bram_ecc", "lutram", "uram", "uram_ecc")),
    "ram_t2p": ("auto", "bram", "uram"), "ram_1wnr": ("auto", "bram", "lutram", "uram"),
    **dict.fromkeys(("rom_1p", "rom_2p", "rom_np"), ("auto", "bram", "lutram")),
}  # fmt: skip
"""By the type of a BIND_STORAGE."""

Values = tuple[str, ...] | str | None


@dataclass(frozen=True)
class Directive:
    """A pragma's options, name to values; the words that stand alone; options that must be there; where it stands: at the top of a
    "function", of a "loop", of "either", or behind what it names, "variable"."""

    place: str
    options: dict[str, Values] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()


PORTS = ("m_axi", "s_axilite", "axis", "ap_none", "ap_vld", "ap_ack", "ap_hs", "ap_ovld", "ap_fifo", "ap_memory", "bram", "ap_ctrl_none",
         "ap_ctrl_hs", "ap_ctrl_chain")  # fmt: skip
BURSTS = ("max_read_burst_length", "max_write_burst_length", "num_read_outstanding", "num_write_outstanding", "max_widen_bitwidth")
DIRECTIVES = {
    "AGGREGATE": Directive("variable", {"variable": NAME, "compact": ("bit", "byte", "none", "auto")}, needed=("variable",)),
    "ALLOCATION": Directive("function", {"instances": NAME, "limit": NUMBER}, ("function", "operation"), ("instances", "limit")),
    "ARRAY_PARTITION": Directive("variable", {"variable": NAME, "dim": NUMBER, "factor": NUMBER, "type": ("complete", "block", "cyclic")},
                                 ("complete", "block", "cyclic", "off"), ("variable",)),
    "ARRAY_RESHAPE": Directive("variable", {"variable": NAME, "dim": NUMBER, "factor": NUMBER, "type": ("complete", "block", "cyclic")},
                               ("complete", "block", "cyclic", "object", "off"), ("variable",)),
    "BIND_OP": Directive("variable", {"variable": NAME, "op": NAME, "impl": ("dsp", "fabric", "auto", "qadder"), "latency": NUMBER},
                         needed=("variable", "op")),
    "BIND_STORAGE": Directive("variable", {"variable": NAME, "type": ("fifo", *RAM), "latency": NUMBER,
                                           "impl": (*IMPLEMENTATIONS["fifo"], "bram_ecc", "uram_ecc")}, needed=("variable", "type")),
    "DATAFLOW": Directive("function", {}, ("disable_start_propagation",)),
    "DEPENDENCE": Directive("loop", {"variable": NAME, "class": ("array", "pointer"), "type": ("inter", "intra"), "distance": NUMBER,
                                     "direction": ("RAW", "WAR", "WAW"), "dependent": ("true", "false")},
                            ("array", "pointer", "inter", "intra", "RAW", "WAR", "WAW", "true", "false"), ("variable",)),
    "DISAGGREGATE": Directive("variable", {"variable": NAME}, needed=("variable",)),
    "INLINE": Directive("function", {}, ("off", "recursive")),
    "INTERFACE": Directive("function", {"mode": PORTS, "port": NAME, "bundle": NAME, "offset": ("off", "direct", "slave"), "depth": NUMBER,
                                        "latency": NUMBER, "name": NAME, **dict.fromkeys(BURSTS)}, PORTS, ("port",)),
    "LATENCY": Directive("either", {"min": NUMBER, "max": NUMBER}),
    "LOOP_FLATTEN": Directive("loop", {}, ("off",)),
    "LOOP_TRIPCOUNT": Directive("loop", dict.fromkeys(("min", "max", "avg")), needed=("min", "max")),
    "PIPELINE": Directive("either", {"II": NUMBER, "style": ("stp", "frp", "flp")}, ("off", "rewind"), ("II",)),
    "STABLE": Directive("variable", {"variable": NAME}, needed=("variable",)),
    "STREAM": Directive("variable", {"variable": NAME, "depth": NUMBER, "type": ("fifo", "pipo", "shared", "unsync")},
                        needed=("variable", "depth")),
    "UNROLL": Directive("loop", {"factor": NUMBER}, ("skip_exit_check", "off")),
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
    found = []
    for name, value in pragma.options.items():
        if name not in known.options:
            found.append(f"{pragma.name} has no option {name!r}")
            continue
        allowed = known.options[name]
        if isinstance(allowed, tuple) and value not in allowed:
            found.append(f"{name} of {pragma.name} is one of {', '.join(allowed)}, not {value}")
    found += [f"{pragma.name} knows no {word!r}" for word in pragma.words if word not in known.words]
    found += [f"{pragma.name} needs {name}" for name in known.needed if name not in pragma.options and not _excused(pragma, name)]
    kind, place = pragma.options.get("type", ""), pragma.options.get("impl", "auto")
    if pragma.name == "BIND_STORAGE" and not found and place not in IMPLEMENTATIONS[kind]:
        found.append(f"{kind} is made of {', '.join(IMPLEMENTATIONS[kind])}, not {place}")
    return found


def _excused(pragma: Pragma, name: str) -> bool:
    return "off" in pragma.words or (name == "port" and any(word.startswith("ap_ctrl") for word in pragma.words))
