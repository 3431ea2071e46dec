"""The quantized graph as files: `graph.json` for structure, `params.npz` for arrays. Golden reads it back from a build."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from attnc.errors import BuildError, DataError
from attnc.files import read_json
from attnc.ir import Graph, Held, Node, TensorType, Value
from attnc.npz import load_npz


def type_to_json(type_: TensorType) -> dict[str, Any]:
    """bits, signed, scale (a number, or a list per channel), zero_point."""
    return {"bits": type_.bits, "signed": type_.signed, "scale": type_.scale.tolist(), "zero_point": type_.zero_point}


def type_from_json(data: dict[str, Any]) -> TensorType:
    """The inverse of `type_to_json`."""
    return TensorType(int(data["bits"]), bool(data["signed"]), np.asarray(data["scale"], np.float64), int(data["zero_point"]))


def save_graph(graph: Graph, folder: Path) -> None:
    """Write graph.json and params.npz. Equal graphs give equal bytes; an array that nodes share is there once."""
    arrays: dict[str, np.ndarray] = {}
    kept: dict[int, tuple[str, Any]] = {}

    def keep(array: Any) -> str:
        if id(array) not in kept:
            kept[id(array)] = f"a{len(arrays)}", array
            arrays[kept[id(array)][0]] = np.asarray(array)
        return kept[id(array)][0]

    data = {
        "name": graph.name,
        "inputs": graph.inputs,
        "outputs": graph.outputs,
        "values": [
            {"name": v.name, "shape": list(v.shape), "type": None if v.type is None else type_to_json(v.type)}
            | ({} if v.held is None else {"held": asdict(v.held)})
            for v in graph.values.values()
        ],
        "sessions": graph.sessions,
        "length": graph.length,
        "constants": {name: keep(array) for name, array in graph.constants.items()},
        "nodes": [
            {
                "name": node.name,
                "op": node.op,
                "inputs": node.inputs,
                "output": node.output,
                "attrs": node.attrs,
                "params": {name: keep(array) for name, array in node.params.items()},
                "source": list(node.source),
                "entry": node.entry,
                "like": node.like,
                "each": node.each,
            }
            for node in graph.nodes
        ],
    }
    (folder / "graph.json").write_text(json.dumps(data, indent=1))
    np.savez(folder / "params.npz", **arrays)  # type: ignore[arg-type]


def load_graph(folder: Path) -> Graph:
    """Read what `save_graph` wrote."""
    data = read_json(folder / "graph.json")
    try:
        arrays = load_npz(folder / "params.npz")
        values = {
            v["name"]: Value(
                v["name"],
                (v["shape"][0], v["shape"][1]),
                None if v["type"] is None else type_from_json(v["type"]),
                held=Held(**v["held"]) if "held" in v else None,
            )
            for v in data["values"]
        }
        nodes = [
            Node(
                name=n["name"],
                op=n["op"],
                inputs=n["inputs"],
                output=n["output"],
                attrs={key: tuple(value) if isinstance(value, list) else value for key, value in n["attrs"].items()},
                params={name: arrays[key] for name, key in n["params"].items()},
                source=tuple(n["source"]),
                entry=str(n["entry"]),
                like=str(n["like"]),
                each=str(n["each"]),
            )
            for n in data["nodes"]
        ]
        constants = {name: arrays[key] for name, key in data["constants"].items()}
        sessions, length = int(data["sessions"]), int(data["length"])
    except (DataError, ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise BuildError(f"{folder}: the quantized graph (graph.json, params.npz) is missing or damaged: {error}") from error
    return Graph(data["name"], data["inputs"], data["outputs"], nodes, values, constants, sessions, length)
