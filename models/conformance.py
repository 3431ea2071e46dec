"""The ONNX package's reference cases of single operators, against the float interpretation of the imported graph.

    python models/conformance.py                      all cases of operators that the frontend supports
    python models/conformance.py LayerNormalization   those of some operators
    python models/conformance.py --verbose            why cases do not apply

In a case everything is an input. Here some float inputs pass through an identity matrix, so that the operator has to run on the
device, and the others become constants, as weights are. A case applies if the device computes it in one of these ways, and passes if
all of them that do agree with the expected first output.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

ROOT = Path(__file__).resolve().parents[1]
OLDEST_OPSET = 13
ATOL = 1e-5


@dataclass(frozen=True)
class Outcome:
    """`status` is "passed", "failed" or "other": not computed on the device, for `reason`."""

    case: str
    operator: str
    status: str
    reason: str = ""


def cases(operators: Sequence[str] = ()) -> Iterator[tuple[str, Any]]:
    """(operator, case) of all operators that the frontend supports; the expansion of an operator into others counts as that one."""
    from onnx.backend.test.case.node import collect_testcases

    from attnc.frontend.interpreter import HANDLERS

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = [case for case in collect_testcases(None) if case.model is not None]  # type: ignore[arg-type]
    names = {case.name: case.model.graph.node[0].op_type for case in found if len(case.model.graph.node) == 1}
    for case in found:
        operator = names.get(case.name) or names.get(case.name.split("_expanded")[0], "")
        if operator in HANDLERS and (not operators or operator in operators):
            yield operator, case


def variants(case: Any) -> Iterator[tuple[onnx.ModelProto, dict[str, np.ndarray]]]:
    """The case with the first or all float inputs on the device, channels along the last axis or along axis 1."""
    inputs = [np.asarray(array) for array in case.data_sets[0][0]]
    names = [value.name for value in case.model.graph.input]
    floats = [name for name, array in zip(names, inputs, strict=True) if array.dtype.kind == "f" and array.ndim]
    if not floats:
        return
    choices = [floats[:1], *([floats] if len(floats) > 1 else []), *([floats[:3]] if len(floats) > 3 else [])]
    for moved in choices:
        for axis in (-1, 1):
            if axis == -1 or any(array.ndim > 2 for array in inputs):
                yield _variant(case.model, dict(zip(names, inputs, strict=True)), moved, axis)


def _variant(
    original: onnx.ModelProto, arrays: dict[str, np.ndarray], moved: Sequence[str], axis: int
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """One of them: `moved` inputs pass through an identity matrix along `axis`, the others are constants."""
    model = onnx.ModelProto()
    model.CopyFrom(original)
    graph = model.graph
    del graph.input[:], graph.output[1:]
    kept = {name for node in graph.node for name in node.input} | {graph.output[0].name}
    for node in graph.node:
        for index, name in enumerate(node.output[1:], 1):
            node.output[index] = name if name in kept else ""
    before: list[onnx.NodeProto] = []
    for name, array in arrays.items():
        if name in moved:
            graph.input.append(helper.make_tensor_value_info(f"{name}_host", onnx.TensorProto.FLOAT, array.shape))
            before += _through_identity(graph, name, array.shape, axis if array.ndim > 2 else -1)
        else:
            graph.initializer.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
    nodes = [*before, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    for opset in model.opset_import:
        opset.version = max(opset.version, OLDEST_OPSET) if opset.domain in ("", "ai.onnx") else opset.version
    return model, {f"{name}_host": arrays[name].astype(np.float32) for name in moved}


def _through_identity(graph: onnx.GraphProto, name: str, shape: tuple[int, ...], axis: int) -> list[onnx.NodeProto]:
    rank = len(shape)
    axis %= rank
    order = [*(i for i in range(rank) if i != axis), axis]
    matrix, rows = f"{name}_matrix", f"{name}_shape"
    graph.initializer.append(numpy_helper.from_array(np.eye(shape[axis], dtype=np.float32), matrix))
    moved = [shape[i] for i in order]
    graph.initializer.append(numpy_helper.from_array(np.array([-1, shape[axis]], np.int64), f"{rows}_in"))
    graph.initializer.append(numpy_helper.from_array(np.array(moved, np.int64), f"{rows}_out"))
    return [
        helper.make_node("Transpose", [f"{name}_host"], [f"{name}_1"], perm=order),
        helper.make_node("Reshape", [f"{name}_1", f"{rows}_in"], [f"{name}_2"]),
        helper.make_node("MatMul", [f"{name}_2", matrix], [f"{name}_3"]),
        helper.make_node("Reshape", [f"{name}_3", f"{rows}_out"], [f"{name}_4"]),
        helper.make_node("Transpose", [f"{name}_4"], [name], perm=[int(i) for i in np.argsort(order)]),
    ]


def run_case(operator: str, case: Any, folder: Path) -> Outcome:
    """Every variant of a case."""
    from attnc.errors import AttncError

    reason, passed = "no float inputs", False
    expected = np.asarray(case.data_sets[0][1][0])
    if expected.dtype.kind != "f" or any(np.asarray(array).dtype.kind not in "fiub" for array in case.data_sets[0][0]):
        return Outcome(case.name, operator, "other", f"results of type {expected.dtype}")
    if expected.dtype.itemsize < 4:
        return Outcome(case.name, operator, "other", "half precision")
    for model, feeds in variants(case):
        path = folder / "case.onnx"
        path.write_bytes(model.SerializeToString())
        try:
            found = _on_device(path, feeds, model.graph.output[0].name)
        except AttncError as error:
            reason = str(error).replace(str(path), "case").splitlines()[0]
            continue
        if isinstance(found, str):
            reason = found
        elif found.shape != expected.shape or not np.allclose(found, expected, rtol=case.rtol, atol=max(case.atol, ATOL)):
            worst = f"by up to {np.abs(found - expected).max():.3g}" if found.shape == expected.shape else f"in shape: {found.shape}"
            return Outcome(case.name, operator, "failed", f"differs {worst}")
        else:
            passed = True
    return Outcome(case.name, operator, "passed") if passed else Outcome(case.name, operator, "other", reason)


def _on_device(path: Path, feeds: dict[str, np.ndarray], output: str) -> np.ndarray | str:
    """The first output as the imported graph computes it, or why the host does."""
    from attnc.frontend import import_model
    from attnc.golden import run_reference
    from attnc.ops import verify

    model = import_model(path)
    if model.trailing is not None or not any(fetch.tensor == output for fetch in model.fetches):
        return next((place.reason for place in model.placements if place.where == "host"), "the host computes it")
    if model.leading is not None:
        return "a part of it runs on the host"
    verify(model.graph)
    arrays = {feed.value: feeds[feed.tensor].astype(np.float64).reshape(-1)[feed.index][np.newaxis] for feed in model.feeds}
    with np.errstate(all="ignore"):
        results = run_reference(model.graph, arrays)
    fetch = next(fetch for fetch in model.fetches if fetch.tensor == output)
    return results[fetch.value][0].reshape(-1)[fetch.index].reshape(fetch.shape)


def run(operators: Sequence[str] = ()) -> list[Outcome]:
    """All cases."""
    with tempfile.TemporaryDirectory(prefix="attnc-conformance-") as temporary:
        return [run_case(operator, case, Path(temporary)) for operator, case in cases(operators)]


def show(outcomes: Sequence[Outcome], verbose: bool) -> None:
    """A line per operator."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="ONNX reference cases")
    for title in ("operator", "cases", "apply", "pass"):
        table.add_column(title, justify="left" if title == "operator" else "right")
    table.add_column("why others do not apply", overflow="fold")
    for operator in sorted({outcome.operator for outcome in outcomes}):
        mine = [outcome for outcome in outcomes if outcome.operator == operator]
        count = Counter(outcome.status for outcome in mine)
        reasons = Counter(_short(outcome.reason) for outcome in mine if outcome.status == "other")
        text = "; ".join(f"{n} {reason}" for reason, n in reasons.most_common(None if verbose else 2))
        style = "red" if count["failed"] else None
        table.add_row(operator, str(len(mine)), str(len(mine) - count["other"]), str(count["passed"]), text, style=style)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    for outcome in outcomes:
        if outcome.status == "failed":
            print(f"failed: {outcome.case} ({outcome.operator}) {outcome.reason}")
    total = Counter(outcome.status for outcome in outcomes)
    print(f"{len(outcomes)} cases, {len(outcomes) - total['other']} apply, {total['passed']} pass")


def _short(reason: str) -> str:
    """A reason without the name of its node."""
    return reason.split("): ", 1)[-1][:110]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 1 if a case fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("operators", nargs="*", help="all by default")
    parser.add_argument("--verbose", action="store_true", help="every reason")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    args = parser.parse_args(argv)
    outcomes = run(args.operators)
    if args.json:
        print(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    else:
        show(outcomes, args.verbose)
    return int(any(outcome.status == "failed" for outcome in outcomes))


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "toolchain"), str(ROOT / "host")]
    sys.exit(main())
