"""Broken, hostile and unsupported models: one clear error each."""

from __future__ import annotations

import re
import resource
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import Builder, C, T
from onnx import TensorProto, helper

from attnc.errors import AttncError, ConfigError, ModelError, UnsupportedError
from attnc.frontend import import_model, inspect_model, load_float32
from attnc.quant.samples import FloatModel


def small() -> tuple[Builder, str]:
    b = Builder()
    return b, b.linear(b.input("x", ["n", T, C]), C, C)


def model() -> onnx.ModelProto:
    b, y = small()
    return b.model(y)


def write(tmp_path: Path, proto: onnx.ModelProto) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def refused(path: Path, pattern: str, kind: type[AttncError] = ModelError, **options: object) -> None:
    with pytest.raises(kind, match=pattern) as caught:
        import_model(path, **options)  # type: ignore[arg-type]
    if kind is ModelError:
        assert str(path) in str(caught.value) or re.search("node|input|output", str(caught.value))


# ---- files ----


def test_files(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx", "no such file")
    refused(tmp_path, "folder")
    (tmp_path / "empty.onnx").write_bytes(b"")
    refused(tmp_path / "empty.onnx", "empty")
    (tmp_path / "text.onnx").write_text("this is no model, but a text" * 10)
    refused(tmp_path / "text.onnx", "not an ONNX")
    data = model().SerializeToString()
    for cut in (len(data) // 3, len(data) // 2, len(data) - 3):
        (tmp_path / "cut.onnx").write_bytes(data[:cut])
        refused(tmp_path / "cut.onnx", "not a|no graph|opset|needs")


def test_opsets(tmp_path: Path) -> None:
    for versions, pattern in (([10], "opset 10 is too old"), ([], "no opset"), ([99], "opset 99")):
        proto = model()
        del proto.opset_import[:]
        proto.opset_import.extend(helper.make_opsetid("", version) for version in versions)
        refused(write(tmp_path, proto), pattern)


def test_foreign_operator(tmp_path: Path) -> None:
    proto = model()
    proto.opset_import.append(helper.make_opsetid("org.example", 1))
    for node in proto.graph.node:
        node.domain = "org.example"
    refused(write(tmp_path, proto), "org.example")
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    for node in proto.graph.node:
        node.domain = "com.microsoft"
    with pytest.raises(UnsupportedError, match=r"com\.microsoft\.\w+\): this operator of onnxruntime is not read") as caught:
        import_model(write(tmp_path, proto))
    assert all(repr(place.node) in str(caught.value) for place in inspect_model(write(tmp_path, proto)) if place.where == "unsupported")


def test_invalid_graphs(tmp_path: Path) -> None:
    proto = model()
    proto.graph.node[0].input[0], proto.graph.node[0].output[0] = proto.graph.node[1].output[0], "x2"
    refused(write(tmp_path, proto), "not a valid")
    proto = model()
    proto.graph.node[1].output[0] = proto.graph.node[0].output[0]
    refused(write(tmp_path, proto), "not a valid")
    proto = model()
    proto.graph.node[0].op_type = "NoSuchOperator"
    refused(write(tmp_path, proto), "NoSuchOperator")


def test_tensors(tmp_path: Path) -> None:
    def broken(change: Callable[[TensorProto], None], pattern: str) -> None:
        proto = model()
        change(proto.graph.initializer[0])
        refused(write(tmp_path, proto), pattern)

    broken(lambda t: t.dims.__setitem__(0, 1000), "needs")
    broken(lambda t: t.dims.__setitem__(0, -8), "negative")
    broken(lambda t: t.dims.__setitem__(0, 1 << 40), "elements")
    broken(lambda t: setattr(t, "data_type", 77), "type 77")
    broken(lambda t: setattr(t, "raw_data", t.raw_data[:-1]), "needs")

    def typed(t: TensorProto) -> None:
        t.ClearField("raw_data")
        t.float_data.extend([1.0, 2.0])

    broken(typed, "needs 64 numbers in its float_data, found 2")

    def elsewhere(t: TensorProto) -> None:
        t.ClearField("raw_data")
        t.int64_data.extend([1] * 64)

    broken(elsewhere, "needs 64 numbers in its float_data, found 0")
    broken(lambda t: setattr(t, "data_type", TensorProto.STRING), "needs 64 texts, found 0")


ONE = np.ones((1, 1), np.float32)
GROWN: dict[str, Callable[[Builder, int], str]] = {
    "ConstantOfShape": lambda b, n: b("ConstantOfShape", np.array([n, n])),
    "Expand": lambda b, n: b("Expand", ONE, np.array([n, n])),
    "Tile": lambda b, n: b("Tile", ONE, np.array([n, n])),
    "Range": lambda b, n: b("Range", np.array(0), np.array(n * n), np.array(1)),
    "Pad": lambda b, n: b("Pad", ONE, np.array([0, 0, n - 1, n - 1])),
    "OneHot": lambda b, n: b("OneHot", np.zeros(n, np.int64), np.array(n), np.array([0, 1])),
    "Add": lambda b, n: b("Add", np.ones((n, 1), np.float32), np.ones((1, n), np.float32)),
    "MatMul": lambda b, n: b("MatMul", np.ones((n, 1), np.float32), np.ones((1, n), np.float32)),
}


@pytest.mark.parametrize("side", [1 << 10, 1 << 14, 46_340, 1 << 20])
@pytest.mark.parametrize("operator", GROWN)
def test_constants_that_grow(tmp_path: Path, operator: str, side: int) -> None:
    """They are refused by their size, which is known before they are there; those of a mask over a thousand tokens are fine."""
    if side == 1 << 20 and operator in ("Add", "MatMul", "OneHot"):
        return  # operands of a MiB say nothing else
    b = Builder()
    y = b.linear(b.input("x", [1, T, C]), C, C)
    path = b.save(tmp_path / "m.onnx", b("Add", y, b("Cast", b("ReduceMax", GROWN[operator](b, side), keepdims=0), to=TensorProto.FLOAT)))
    tracemalloc.start()
    if side == 1 << 10:
        assert import_model(path).graph.nodes
    else:
        refused(path, "needed constants of at most|elements are supported|at most 4194304 are supported")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 29


def test_constants_that_grow_together(tmp_path: Path) -> None:
    b = Builder()
    y = b.linear(b.input("x", [1, T, C]), C, C)
    grown = b("ConstantOfShape", np.array([1 << 12, 1 << 12]))
    for _ in range(8):
        grown = b("Add", grown, ONE)
    refused(b.save(tmp_path / "m.onnx", b("Add", y, b("ReduceMax", grown, keepdims=0))), "needed constants of at most .* more bytes")


def peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_what_no_output_depends_on_is_not_run(tmp_path: Path) -> None:
    """onnxruntime would run it, and take the 4 GiB that it makes."""
    b, y = small()
    b("ReduceMax", b("ConstantOfShape", np.array([1 << 15, 1 << 15])), name="dead")
    model = FloatModel(load_float32(b.save(tmp_path / "m.onnx", y)))
    start = peak_kib()
    assert model({"x": np.zeros((1, T, C), np.float32)})[y].shape == (1, T, C)
    assert peak_kib() - start < 1 << 20


def test_tensors_that_are_too_large_to_be_followed(tmp_path: Path) -> None:
    b = Builder()
    refused(b.save(tmp_path / "m.onnx", b.linear(b.input("x", [1, 1 << 25, C]), C, C)), r"input 'x': .*needed at most \d+ elements")
    b = Builder()
    wide = b("Expand", b.linear(b.input("x", [1, 1, C]), C, C), np.array([1, 1 << 25, C]))
    refused(b.save(tmp_path / "m.onnx", wide), r"Expand.*needed at most \d+ elements")


@pytest.mark.parametrize("text", [b"\xff\xfe", b"\xc3"])
@pytest.mark.parametrize("place", [b"named", b"const_0", b"mode_", b"batch"])
def test_text_that_is_not_utf8(tmp_path: Path, place: bytes, text: bytes) -> None:
    b = Builder()
    y = b("MatMul", b.input("x", ["batch", T, C]), b.random(C, C), name="named")
    b.nodes.append(helper.make_node("Gelu", [y], ["out"], approximate="mode_"))
    (tmp_path / "m.onnx").write_bytes(b.model("out").SerializeToString().replace(place, text.ljust(len(place), b"x")))
    refused(tmp_path / "m.onnx", "needed text in UTF-8, found b'.x")
    with pytest.raises(ModelError, match="UTF-8"):
        inspect_model(tmp_path / "m.onnx")


@pytest.mark.parametrize("axis", [4, -5, (1 << 63) - 1, -(1 << 63)])
@pytest.mark.parametrize("operator", ["LayerNormalization", "Softmax", "Gather", "Concat"])
def test_axes_that_are_not_there(tmp_path: Path, operator: str, axis: int) -> None:
    b, y = small()
    operands = {"LayerNormalization": [b.random(C)], "Gather": [np.array([0])], "Concat": [y]}
    found = b(operator, y, *operands.get(operator, []), axis=axis)
    proto = b.model(found)
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info(found, TensorProto.FLOAT, [1, T, C]))
    refused(write(tmp_path, proto), f"{operator}.*axis {axis}, but its operand has shape")


def test_types_that_do_not_fit(tmp_path: Path) -> None:
    """The checker looks at none."""
    b, y = small()
    refused(b.save(tmp_path / "m.onnx", b("Where", b("Not", y), y, 0.0)), "Not.*its operands do not fit together")


def test_results_that_do_not_depend_on_inputs(tmp_path: Path) -> None:
    """In float32, 1e30 swallows whatever it is added to."""
    b, y = small()
    refused(
        b.save(tmp_path / "m.onnx", b.linear(b("Add", y, np.float32(1e30)), C, C)),
        "m.onnx: nothing of this model would run on the device: .* between its inputs and",
    )


# ---- external data ----


def test_external_data_without_a_length(tmp_path: Path) -> None:
    """The tensor's shape says how many bytes there are; a file may go on, and may not end before."""
    path = external(tmp_path, length=None)
    with open(tmp_path / "weights.bin", "ab") as file:
        file.write(b"\0" * 37)
    assert len(import_model(path).graph.nodes) == 1
    (tmp_path / "weights.bin").write_bytes(b"\0" * 100)
    refused(path, "bytes 64 to 320 of 'weights.bin' are needed, the file has 100")


def test_external_text(tmp_path: Path) -> None:
    proto = onnx.load(external(tmp_path), load_external_data=False)
    proto.graph.initializer[0].data_type = TensorProto.STRING
    refused(write(tmp_path, proto), "not a valid ONNX model|needed numbers")


def external(tmp_path: Path, **entries: object) -> Path:
    proto = model()
    tensor = proto.graph.initializer[0]
    data = tensor.raw_data
    (tmp_path / "weights.bin").write_bytes(b"\0" * 64 + data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": "weights.bin", "offset": 64, "length": len(data)} | entries).items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return write(tmp_path, proto)


def test_external_data(tmp_path: Path) -> None:
    assert len(import_model(external(tmp_path)).graph.nodes) == 1
    outside = tmp_path.parent / "outside.bin"
    outside.write_bytes(b"\0" * 4096)
    (tmp_path / "link.bin").symlink_to(outside)
    (tmp_path / "loop.bin").symlink_to(tmp_path / "loop.bin")
    for location, pattern in (
        (str(outside), "relative"), ("../outside.bin", "relative"), ("link.bin", "leaves the folder"), ("gone.bin", "missing"),
        ("", "no location"), (".", "missing"), ("a/../../outside.bin", "relative"), ("loop.bin", "missing|link|leaves"),
    ):  # fmt: skip
        refused(external(tmp_path, location=location), pattern)
    for key, value, pattern in (
        ("offset", 1 << 40, "are needed"), ("offset", -1, "are needed"), ("length", 8, "needs 256"), ("length", "many", "whole numbers"),
        ("length", 1 << 50, "are needed"),
    ):  # fmt: skip
        refused(external(tmp_path, **{key: value}), pattern)


# ---- shapes ----


def save_shapes(tmp_path: Path, *shapes: list[object]) -> Path:
    b = Builder()
    names = [b.input(f"in{i}", shape) for i, shape in enumerate(shapes)]
    total = names[0]
    for name in names[1:]:
        total = b("Add", total, name)
    return b.save(tmp_path / "m.onnx", b.linear(total, C, C))


def test_shapes(tmp_path: Path) -> None:
    path = save_shapes(tmp_path, ["n", "seq", C], ["n", "seq", C])
    refused(path, re.escape("--shape in0=1,128,8"))
    found = import_model(path, {"in0": (1, 6, C)})
    assert [spec.shape for spec in found.inputs] == [(1, 6, C)] * 2 and all(spec.batched for spec in found.inputs)
    refused(path, "'nothing'.*'in0', 'in1'", ConfigError, shapes={"nothing": (1,)})
    refused(path, "2 dimensions", ConfigError, shapes={"in0": (1, 6)})
    refused(path, "declares", ConfigError, shapes={"in0": (1, 6, 9)})
    refused(path, "nothing to compute", shapes={"in0": (1, 0, C)})
    refused(path, "contradict", ConfigError, shapes={"in0": (1, 6, C), "in1": (1, 7, C)})
    refused(save_shapes(tmp_path, ["n", 0, C]), "positive size")


def test_inputs_of_other_kinds(tmp_path: Path) -> None:
    proto = model()
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, [1])
    proto.graph.input.append(sequence)
    refused(write(tmp_path, proto), "sequence")
    proto = model()
    proto.graph.input.append(helper.make_tensor_value_info("s", TensorProto.STRING, [1]))
    refused(write(tmp_path, proto), "numbers are needed")


# ---- what cannot be compiled ----


def unsupported(tmp_path: Path, build: Callable[[Builder, str], str], operator: str, pattern: str) -> None:
    b, y = small()
    path = b.save(tmp_path / "m.onnx", b.linear(build(b, y), C, C))
    with pytest.raises(UnsupportedError, match=pattern) as caught:
        import_model(path)
    assert caught.value.operator == operator and caught.value.node
    bad = [place for place in inspect_model(path) if place.where == "unsupported"]
    assert [(place.node, place.operator) for place in bad] == [(caught.value.node, operator)]
    assert sum(place.where == "device" for place in inspect_model(path)) >= 2


def turn(b: Builder, x: str) -> str:
    return str(b("Transpose", x, perm=[0, 2, 1]))


UNSUPPORTED: dict[str, tuple[Callable[[Builder, str], str], str, str]] = {
    "operator": (lambda b, y: b("CumSum", y, np.array(1)), "CumSum", "waits for the one before"),
    "function": (lambda b, y: b("Sin", y), "Sin", "gelu_tanh"),
    "padding": (lambda b, y: b("Pad", y, np.array([0, 1, 0, 0, 1, 0]), 1.0), "Pad", "zeros only"),
    "channels": (lambda b, y: b("Slice", b("Pad", y, np.array([0, 0, 1, 0, 0, 1])), [0], [C], [2]), "Pad", "axes of rows"),
    "division": (lambda b, y: b("Div", y, b.linear(y, C, C)), "Div", "cannot divide"),
    "dropout": (lambda b, y: b("Dropout", y, 0.5, np.array(True)), "Dropout", "training"),
    "maximum": (lambda b, y: b("Add", y, b("ReduceMax", y, np.array([2]))), "ReduceMax", "over rows"),
    "minimum": (lambda b, y: b("ReduceMin", y, np.array([1])), "ReduceMin", "maxima over tokens or windows"),
    "linear attention": (lambda b, y: b("MatMul", b("MatMul", y, turn(b, b.linear(y, C, C))), y), "MatMul", "part of attention"),
    "gather": (lambda b, y: b("GatherND", y, b.input("which", [2, 2], TensorProto.INT64)), "GatherND", "only constant indices"),
    "cast": (lambda b, y: b("Cast", b("Cast", y, to=TensorProto.INT32), to=1), "Cast", "integers"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_unsupported(tmp_path: Path, case: str) -> None:
    unsupported(tmp_path, *UNSUPPORTED[case])


def test_control_flow(tmp_path: Path) -> None:
    branch = helper.make_graph([helper.make_node("Identity", ["y"], ["z"])], "branch", [], [helper.make_tensor_value_info("z", 1, None)])
    b = Builder()
    y = b.linear(b.input("x", [1, T, C]), C, C)
    b.nodes[-1].output[0] = "y"
    condition = b.input("c", [], TensorProto.BOOL)
    b.nodes.append(helper.make_node("If", [condition], ["out"], name="choice", then_branch=branch, else_branch=branch))
    assert y
    path = tmp_path / "m.onnx"
    graph = helper.make_graph(b.nodes, "g", b.inputs, [helper.make_tensor_value_info("out", 1, [1, T, C])], b.initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    refused(path, "control flow", UnsupportedError)
    assert any(place.node == "choice" and place.where == "unsupported" for place in inspect_model(path))


def test_routing_that_depends_on_data(tmp_path: Path) -> None:
    b, y = small()
    chosen = b("NonZero", b("Greater", b("ReduceSum", b("Sin", y), np.array([0, 2]), keepdims=0), 0.0))
    some = b("Gather", b("Reshape", y, np.array([T, C])), b("Squeeze", chosen, np.array([0])), axis=0)
    result = b("MatMul", some, b.random(C, 3))
    path = tmp_path / "m.onnx"
    graph = helper.make_graph(b.nodes, "g", b.inputs, [helper.make_tensor_value_info(result, 1, ["n", 3])], b.initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    reasons = {place.operator: place.reason for place in inspect_model(path) if place.where == "unsupported"}
    assert "depends on data" in reasons["NonZero"]


def test_nothing_for_the_device(tmp_path: Path) -> None:
    b = Builder()
    refused(b.save(tmp_path / "m.onnx", b("Relu", b.input("x", [1, T, C]))), "nothing of this model")


def test_strict(tmp_path: Path) -> None:
    b = Builder()
    y = b.linear(b("Gather", b.random(10, C), b.input("ids", ["n", T], TensorProto.INT64), name="look-up"), C, C)
    path = b.save(tmp_path / "m.onnx", y)
    assert import_model(path).leading is not None
    refused(path, "look-up.*strict", UnsupportedError, strict=True)


def test_constant_output(tmp_path: Path) -> None:
    b, y = small()
    path = b.save(tmp_path / "m.onnx", y, b("Add", b.random(3), 1.0))
    refused(path, "constant")


def test_output_that_is_an_input(tmp_path: Path) -> None:
    b, y = small()
    proto = b.model(y)
    proto.graph.output.append(proto.graph.input[0])
    refused(write(tmp_path, proto), "'x' of the model is one of its inputs")


def test_incompatible_shapes(tmp_path: Path) -> None:
    b = Builder()
    b.input("x", [1, T, C])
    y = b("MatMul", "x", b.random(C + 1, C))
    proto = b.model(y)
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info(y, 1, [1, T, C]))
    refused(write(tmp_path, proto), "do not fit|contradict")


def test_loops_are_named_and_what_comes_before_is_shown(tmp_path: Path) -> None:
    def value(name: str, elem_type: int, shape: list[int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, elem_type, shape)

    nodes = [helper.make_node("Identity", ["more"], ["again"]), helper.make_node("Relu", ["state"], ["next"])]
    inputs = [value("i", TensorProto.INT64, []), value("more", TensorProto.BOOL, []), value("state", 1, [1, T, C])]
    body = helper.make_graph(nodes, "body", inputs, [value("again", TensorProto.BOOL, []), value("next", 1, [1, T, C])])
    b = Builder()
    y = b.linear(b.input("x", [1, T, C]), C, C)
    b.nodes.append(helper.make_node("Loop", [b.input("trips", [], TensorProto.INT64), "", y], ["looped"], name="again", body=body))
    path = tmp_path / "m.onnx"
    graph = helper.make_graph(b.nodes, "g", b.inputs, [value("looped", 1, [1, T, C])], b.initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    refused(path, "again.*control flow", UnsupportedError)
    places = {place.operator: place.where for place in inspect_model(path)}
    assert places == {"MatMul": "device", "Add": "device", "Loop": "unsupported"}


def test_every_unsupported_node_is_named(tmp_path: Path) -> None:
    b = Builder()
    y = b("CumSum", b.linear(b.input("x", [1, T, C]), C, C), np.array(1), name="first")
    y = b("Sin", b.linear(y, C, C), name="second")
    y = b("ConvTranspose", b.linear(y, C, C), b.random(T, T, 1), name="third")
    path = b.save(tmp_path / "m.onnx", b.linear(y, C, C))
    bad = {place.node: place.reason for place in inspect_model(path) if place.where == "unsupported"}
    assert list(bad) == ["first", "second", "third"] and "transposed convolutions" in bad["third"]
    assert all("; split the model there" in reason for reason in bad.values())  # what to do, whatever the reason


def test_an_output_whose_shape_depends_on_data(tmp_path: Path) -> None:
    b = Builder()
    y = b.linear(b.input("x", ["n", T, C]), C, C)
    b("Compress", y, b("Greater", b("ReduceMax", y, np.array([0, 2]), keepdims=0), 0.0), axis=1, name="pick")
    path = b.save(tmp_path / "m.onnx", b.nodes[-1].output[0])
    with pytest.raises(UnsupportedError, match=r"node 'pick' .*depends on data"):
        import_model(path)
    assert [place.node for place in inspect_model(path) if place.where == "unsupported"] == ["pick"]
