"""Mutants of ONNX models: each function changes a model in place, as `rng` says, so that the result is still a protobuf."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

Rng = np.random.Generator
NAMES = (
    "", " ", "\x1b[31mred", "a" * 3000, "two\nlines", "attnc: error: no", "日本", "../../up", "a/b", "nul\0nul", "{{ x }}", "%s%d",
    "\u202eright", "[bold]x[/bold]", '"*/ int y; /*', "\\", "$(id)", "..", "attnc::constant_0", "n0", "v0", "-o", "a\tb", "\r", "x" * 256,
)  # fmt: skip
SIZES = (
    0, -1, 1, 2, 3, 7, 63, 256, 1 << 14, 1 << 27, (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 40, 1 << 62, (1 << 63) - 1, -(1 << 63),
)  # fmt: skip
"""Odd and hostile, and not merely large: what fits into memory may take its time."""
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-38, 1e-30, 1e-8, 1e4, 1e15, 1e30, 3e38, -1e30, math.inf, -math.inf, math.nan)
_UNARY = """
Abs Acos Ceil Cos Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log LogSoftmax MeanVarianceNormalization
Mish Neg Not Reciprocal Relu Round Selu Shape Sigmoid Sign Sin Size Softmax Softplus Softsign Sqrt Squeeze Tan Tanh Transpose Flatten
NonZero ReduceMax ReduceMean ReduceSum ReduceL2 GlobalAveragePool Hardmax Dropout SequenceConstruct Cast
"""
_BINARY = """
Add And BitShift Compress CumSum Div Equal Expand Gather GatherElements GatherND Greater MatMul MatMulInteger Max Min Mod Mul Or Pow
PRelu ReduceMean Reshape Sub Tile TopK Unsqueeze Where Xor Concat Einsum Gemm Conv Slice Pad Split Range OneHot Trilu
"""
UNARY, BINARY = tuple(_UNARY.split()), tuple(_BINARY.split())
GROWERS = ("ConstantOfShape", "Expand", "Tile", "Range", "Pad", "OneHot", "EyeLike", "RandomNormal", "Resize")


def pick(rng: Rng, options: Any) -> Any:
    return options[int(rng.integers(len(options)))]


def messages(message: Message) -> list[Message]:
    """The message and all in it."""
    found, stack = [], [message]
    while stack:
        found.append(current := stack.pop())
        for field, value in current.ListFields():
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                stack += [value] if isinstance(value, Message) else list(value)
    return found


def _values(model: ModelProto) -> list[str]:
    """Names of all tensors."""
    graph = model.graph
    made = [name for node in graph.node for name in node.output]
    return [*made, *(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer)] or [""]


def _constant(model: ModelProto, array: np.ndarray) -> str:
    name = f"extra{len(model.graph.initializer)}"
    model.graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def text(model: ModelProto, rng: Rng, folder: Path) -> None:
    """Any text, in one place only."""
    places = [(m, f) for m in messages(model) for f, _ in m.ListFields() if f.type == FieldDescriptor.TYPE_STRING]
    message, field = pick(rng, places)
    if isinstance(value := getattr(message, field.name), str):
        setattr(message, field.name, pick(rng, NAMES))
    else:
        value[int(rng.integers(len(value)))] = pick(rng, NAMES)


def rename(model: ModelProto, rng: Rng, folder: Path) -> None:
    """A name wherever it stands, so that the model stays whole."""
    old, new = pick(rng, [*_values(model), *(node.name for node in model.graph.node)]), pick(rng, NAMES)
    for message in messages(model.graph):
        for field, value in message.ListFields():
            if field.type != FieldDescriptor.TYPE_STRING:
                continue
            if isinstance(value, str) and value == old:
                setattr(message, field.name, new)
            elif not isinstance(value, str):
                value[:] = [new if name == old else name for name in value]


def attribute(model: ModelProto, rng: Rng, folder: Path) -> None:
    nodes = [node for node in model.graph.node if node.attribute] or list(model.graph.node)
    if not nodes:
        return
    node = pick(rng, nodes)
    action = rng.integers(4)
    if action == 0 and node.attribute:
        del node.attribute[int(rng.integers(len(node.attribute)))]
    elif action == 1 or not node.attribute:
        values = (
            int(pick(rng, SIZES)), float(pick(rng, FLOATS)), pick(rng, NAMES), [1, 2], [1.5], ["a"],
            numpy_helper.from_array(np.eye(2)),
        )  # fmt: skip
        names = (
            "axis", "axes", "perm", "to", "alpha", "epsilon", "keepdims", "value", "odd", "transA", "pads", "group", "auto_pad",
            "scale",
        )  # fmt: skip
        node.attribute.append(helper.make_attribute(pick(rng, names), pick(rng, values)))
    else:
        _change(pick(rng, node.attribute), rng)


def _change(attribute: AttributeProto, rng: Rng) -> None:
    """Another value of the same kind, now and then another kind."""
    if rng.integers(8) == 0:
        attribute.type = int(rng.integers(0, 15))
    elif attribute.type == AttributeProto.INT:
        attribute.i = pick(rng, SIZES)
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = pick(rng, FLOATS)
    elif attribute.type == AttributeProto.STRING:
        attribute.s = pick(rng, (b"\xff\xfe", b"", b"NOTSET", b"SAME_UPPER", pick(rng, NAMES).encode()))
    elif attribute.type == AttributeProto.INTS:
        values = list(attribute.ints)
        if values and rng.integers(3):
            values[int(rng.integers(len(values)))] = pick(rng, SIZES)
        else:
            values = values[:-1] if rng.integers(2) else [*values, pick(rng, SIZES)]
        attribute.ints[:] = values
    elif attribute.type == AttributeProto.TENSOR:
        _tensor(attribute.t, rng)


def _tensor(tensor: TensorProto, rng: Rng) -> None:
    """Dimensions, type or bytes of a tensor, without regard for the others."""
    action = rng.integers(4)
    if action == 0 and tensor.dims:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = pick(rng, SIZES)
    elif action == 1:
        tensor.data_type = int(rng.integers(0, 26))
    elif action == 2:
        tensor.raw_data = tensor.raw_data[: int(rng.integers(len(tensor.raw_data) + 1))]
    else:
        tensor.dims.append(pick(rng, SIZES))


def tensor(model: ModelProto, rng: Rng, folder: Path) -> None:
    if model.graph.initializer:
        _tensor(pick(rng, model.graph.initializer), rng)


def numbers(model: ModelProto, rng: Rng, folder: Path) -> None:
    """Numbers of a constant that a file may hold: one, a row, or all."""
    if not model.graph.initializer:
        return
    found = pick(rng, model.graph.initializer)
    try:
        array = np.array(numpy_helper.to_array(found))
    except (ValueError, TypeError):
        return
    flat, size = array.reshape(-1), array.size
    where: Any = int(rng.integers(max(1, size))) if rng.integers(2) else slice(None, None, int(rng.integers(1, 4)))
    if not size or array.dtype.kind not in "fiub":
        return
    with np.errstate(all="ignore"):
        if array.dtype.kind == "f" and rng.integers(3) == 0:
            flat *= array.dtype.type(pick(rng, FLOATS))
        elif array.dtype.kind == "f":
            flat[where] = pick(rng, FLOATS)
        else:
            flat[where] = np.array(pick(rng, SIZES)).astype(array.dtype)
    found.CopyFrom(numpy_helper.from_array(array, found.name))


def dtype(model: ModelProto, rng: Rng, folder: Path) -> None:
    """A constant, or an input, of another type with data that fits it."""
    if rng.integers(3) == 0 and model.graph.input:
        pick(rng, model.graph.input).type.tensor_type.elem_type = int(rng.integers(0, 26))
    elif model.graph.initializer:
        found = pick(rng, model.graph.initializer)
        try:
            array = numpy_helper.to_array(found).astype(pick(rng, ("f2", "f4", "f8", "i1", "u1", "i4", "i8", "u8", "?", "c8")))
        except (ValueError, TypeError):
            return
        found.CopyFrom(numpy_helper.from_array(array, found.name))


def shape(model: ModelProto, rng: Rng, folder: Path) -> None:
    """Declared shapes of inputs and outputs."""
    values = [*model.graph.input, *model.graph.output]
    if not values:
        return
    dims = pick(rng, values).type.tensor_type.shape.dim
    action = rng.integers(6)
    if action == 0:
        pick(rng, values).type.tensor_type.ClearField("shape")
    elif action == 1:
        dims.add().dim_value = pick(rng, SIZES)
    elif not dims:
        return
    elif action == 2:
        del dims[int(rng.integers(len(dims)))]
    elif action == 3:
        pick(rng, dims).dim_param = pick(rng, ("n", "batch", "batch + 1", "batch - 7", "batch * 99999999999", *NAMES))
    else:
        pick(rng, dims).dim_value = pick(rng, SIZES)


def nodes(model: ModelProto, rng: Rng, folder: Path) -> None:
    """Remove, repeat, exchange, or move a node."""
    found = model.graph.node
    if not found:
        return
    index, action = int(rng.integers(len(found))), rng.integers(4)
    if action == 0:
        del found[index]
    elif action == 1:
        found.add().CopyFrom(found[index])
    elif action == 2:
        found[index].op_type = pick(rng, UNARY + BINARY + GROWERS)
    else:
        moved = [*found[:index], *found[index + 1 :]]
        moved.insert(int(rng.integers(len(found))), found[index])
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in moved]
        del found[:]
        found.extend(copies)


def wires(model: ModelProto, rng: Rng, folder: Path) -> None:
    """What a node reads or makes: cycles, missing and repeated operands."""
    if not model.graph.node:
        return
    node, names = pick(rng, model.graph.node), _values(model)
    action = rng.integers(5)
    if action == 0 and node.input:
        del node.input[int(rng.integers(len(node.input)))]
    elif action == 1:
        node.input.append(pick(rng, [*names, ""]))
    elif action == 2:
        node.output.append(pick(rng, [*names, "", "second"]))
    elif node.input:
        node.input[int(rng.integers(len(node.input)))] = pick(rng, names)


def insert(model: ModelProto, rng: Rng, folder: Path) -> None:
    """An operator between a tensor and one of its readers."""
    readers = [(node, i) for node in model.graph.node for i, name in enumerate(node.input) if name]
    if not readers:
        return
    reader, index = pick(rng, readers)
    op, operands = pick(rng, UNARY + BINARY), [reader.input[index]]
    if op in BINARY:
        constants = (
            np.float32(pick(rng, FLOATS)), np.array([int(pick(rng, SIZES))]), np.arange(4), np.ones((8, 8), np.float32), np.array(0),
        )  # fmt: skip
        operands.append(_constant(model, np.asarray(pick(rng, constants))))
        if rng.integers(4) == 0:
            operands.reverse()
    name = f"inserted{len(model.graph.node)}"
    node = helper.make_node(op, operands, [name], name=name)
    if op == "Cast":
        node.attribute.append(helper.make_attribute("to", int(rng.integers(1, 20))))
    if op == "Concat":
        node.attribute.append(helper.make_attribute("axis", int(rng.integers(-2, 3))))
    reader.input[index] = name
    _place(model, node)


def grow(model: ModelProto, rng: Rng, folder: Path) -> None:
    """A constant that expands to much more than its operands, added to what a node reads."""
    readers = [(node, i) for node in model.graph.node for i, name in enumerate(node.input) if name]
    if not readers:
        return
    reader, index = pick(rng, readers)
    side = int(pick(rng, (64, 1 << 10, 1 << 13, 1 << 15, 1 << 16, 1 << 20, 1 << 31, 1 << 40)))
    square = _constant(model, np.array([side, side]))
    made = {
        "ConstantOfShape": [square], "Expand": [_constant(model, np.float32(1.5).reshape(1, 1)), square],
        "Tile": [_constant(model, np.ones((1, 1), np.float32)), square],
        "Range": [_constant(model, np.array(n)) for n in (0, side, 1)],
        "Add": [_constant(model, np.ones(s, np.float32)) for s in ((min(side, 1 << 16), 1), (1, min(side, 1 << 16)))],
        "OneHot": [_constant(model, np.zeros(64, np.int64)), _constant(model, np.array(side)), _constant(model, np.array([0, 1]))],
        "Pad": [_constant(model, np.ones((1, 1), np.float32)), _constant(model, np.array([0, 0, side, side]))],
    }  # fmt: skip
    op = pick(rng, list(made))
    grown, mean = (f"grown{len(model.graph.node)}{part}" for part in "ab")
    first = helper.make_node(op, made[op], [grown], name=grown)
    total = helper.make_node("Add", [reader.input[index], mean], [f"{mean}s"], name=f"{mean}s")
    reader.input[index] = f"{mean}s"
    _place(model, total)
    _place(model, helper.make_node("ReduceMax", [grown], [mean], name=mean, keepdims=0))
    _place(model, first)


def _place(model: ModelProto, node: onnx.NodeProto) -> None:
    """Put a node right behind those that make its operands, so before its readers."""
    found = list(model.graph.node)
    at = max((i + 1 for i, other in enumerate(found) if set(other.output) & set(node.input)), default=0)
    copies = [onnx.NodeProto.FromString(one.SerializeToString()) for one in (*found[:at], node, *found[at:])]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def lists(model: ModelProto, rng: Rng, folder: Path) -> None:
    """Inputs, outputs and constants: one gone, one twice, one under another heading."""
    graph = model.graph
    action, chosen = rng.integers(5), pick(rng, (graph.input, graph.output, graph.initializer, graph.value_info))
    if action == 0 and chosen:
        del chosen[int(rng.integers(len(chosen)))]
    elif action == 1 and chosen:
        chosen.add().CopyFrom(pick(rng, chosen))
    elif action == 2:
        graph.output.add().CopyFrom(helper.make_tensor_value_info(pick(rng, _values(model)), TensorProto.FLOAT, None))
    elif action == 3 and graph.initializer:
        found = pick(rng, graph.initializer)
        graph.input.add().CopyFrom(helper.make_tensor_value_info(found.name, found.data_type, list(found.dims)))
    elif graph.initializer:
        values, places = TensorProto(), TensorProto()
        values.CopyFrom(numpy_helper.from_array(np.array([1.0], np.float32), graph.initializer[0].name))
        places.CopyFrom(numpy_helper.from_array(np.array([0])))
        dims = pick(rng, (list(graph.initializer[0].dims), [1 << 31], [1 << 20, 1 << 20]))
        graph.sparse_initializer.append(onnx.SparseTensorProto(values=values, indices=places, dims=dims))
        del graph.initializer[0]


def versions(model: ModelProto, rng: Rng, folder: Path) -> None:
    action = rng.integers(4)
    if action == 0:
        model.ir_version = int(pick(rng, (*SIZES, *range(1, 14))))
    elif action == 1 and model.opset_import:
        del model.opset_import[:]
    elif action == 2:
        model.opset_import.append(helper.make_opsetid(pick(rng, ("", "ai.onnx", "com.microsoft", *NAMES)), int(rng.integers(0, 30))))
    elif model.opset_import:
        model.opset_import[0].version = int(pick(rng, (*range(1, 30), *SIZES)))


def functions(model: ModelProto, rng: Rng, folder: Path) -> None:
    """A function of the model's own, which may call itself, or a branch with a body."""
    if not model.graph.node:
        return
    name = model.graph.node[0].output[0] if model.graph.node[0].output else "y"
    if rng.integers(2):
        body = [helper.make_node(pick(rng, ("Relu", "mine", "Nothing")), ["a"], ["b"], domain=pick(rng, ("", "own")))]
        model.functions.append(helper.make_function("own", "mine", ["a"], ["b"], body, [helper.make_opsetid("", 18)]))
        model.opset_import.append(helper.make_opsetid("own", 1))
        _place(model, helper.make_node("mine", [name], ["called"], domain="own", name="caller"))
    else:
        inner = helper.make_graph([helper.make_node("Relu", [name], ["z"])], "branch", [], [helper.make_tensor_value_info("z", 1, None)])
        for _ in range(int(pick(rng, (0, 1, 8, 20)))):
            deeper = helper.make_node("If", ["yes"], ["z"], then_branch=inner, else_branch=helper.make_graph([], "none", [], []))
            inner = helper.make_graph([deeper], "branch", [], [helper.make_tensor_value_info("z", 1, None)])
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
        _place(model, helper.make_node("If", ["yes"], ["called"], name="caller", then_branch=inner, else_branch=inner))
    for node in model.graph.node:
        if node.name != "caller" and node.input and node.input[0] == name:
            node.input[0] = "called"


def external(model: ModelProto, rng: Rng, folder: Path) -> None:
    """Data of a constant in a file beside the model, right or wrong."""
    candidates = [tensor for tensor in model.graph.initializer if tensor.HasField("raw_data")]
    if not candidates:
        return
    found = pick(rng, candidates)
    data = found.raw_data
    stored = pick(rng, (data, data[:-1], data + b"\0" * 5, data * 3, b"", b"\0" * 16 + data))
    (folder / "data.bin").write_bytes(stored)
    (folder.parent / "outside.bin").write_bytes(data)
    found.ClearField("raw_data")
    found.data_location = TensorProto.EXTERNAL
    places = (
        "data.bin", "data.bin", "data.bin", "model.onnx", "../outside.bin", "gone.bin", "", ".", "/dev/zero", "a\0b", "x" * 300,
        "\x1b[1m",
    )  # fmt: skip
    entries = {"location": pick(rng, places), "offset": pick(rng, (None, 0, 4, 16, -1, 1 << 40, "x"))}
    entries["length"] = pick(rng, (None, len(data), len(data) - 1, 0, -4, 1 << 50, "9" * 5000))
    for key, value in entries.items():
        if value is not None:
            found.external_data.add(key=key, value=str(value))
    if rng.integers(4) == 0:
        found.external_data.add(key="length", value=pick(rng, ("8", "0", "x")))


MUTATIONS: tuple[Callable[[ModelProto, Rng, Path], None], ...] = (
    numbers, numbers, numbers, numbers, numbers, insert, insert, insert, insert, grow, rename, shape, shape, dtype, attribute, attribute,
    nodes, wires, text, tensor, lists, versions, functions, external,
)  # fmt: skip


def mutate(model: ModelProto, rng: Rng, folder: Path) -> list[str]:
    """One to three changes; their names."""
    chosen = [pick(rng, MUTATIONS) for _ in range(int(pick(rng, (1, 1, 1, 2, 2, 3))))]
    for change in chosen:
        change(model, rng, folder)
    return [change.__name__ for change in chosen]
