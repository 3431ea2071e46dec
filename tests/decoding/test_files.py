"""Files of decoders as exporters write them: names of the past, masks, switches, orders of inputs; each is the same function of tokens."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from attnc.errors import ModelError
from attnc.frontend import import_model, load_float32
from decoding.decoders import HEAD, HEADS, KV_HEADS, LAYERS, VOCABULARY, write_decoder

LENGTH = 6
BATCH = helper.make_tensor_value_info


def with_past(folder: Path) -> ModelProto:
    return onnx.load(write_decoder(folder / "past.onnx", past=True, mask=True))


def named(past: str, present: str) -> Callable[[Path], ModelProto]:
    """Keys and values called otherwise, their inputs in front."""

    def made(folder: Path) -> ModelProto:
        model, names = with_past(folder), dict[str, str]()
        for layer in range(LAYERS):
            for kind in ("key", "value"):
                for old, new in ((f"past_key_values.{layer}.{kind}", past), (f"present.{layer}.{kind}", present)):
                    names[old] = new.format(layer=layer, kind=kind, k=kind[0])
        for value in (*model.graph.input, *model.graph.output):
            value.name = names.get(value.name, value.name)
        for node in model.graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        inputs = [*model.graph.input][::-1]
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        return model

    return made


def masked(kind: int) -> Callable[[Path], ModelProto]:
    """A mask with a row per query is all that says what a token may look at."""

    def made(folder: Path) -> ModelProto:
        model = onnx.load(write_decoder(folder / "past.onnx", past=True))
        for node in (node for node in model.graph.node if node.op_type == "Attention"):
            node.input[3] = "attention_mask"
            next(attribute for attribute in node.attribute if attribute.name == "is_causal").i = 0
        model.graph.input.append(BATCH("attention_mask", kind, ["batch", 1, "sequence", "total"]))
        return model

    return made


def last_logits(folder: Path) -> ModelProto:
    """Logits of the last few tokens alone, where the caller wants no more."""
    model = with_past(folder)
    *nodes, last = model.graph.node
    count = helper.make_node("Neg", ["num_logits_to_keep"], ["back"])
    first = helper.make_node("Unsqueeze", ["back", "axis_0"], ["first"])
    kept = helper.make_node("Slice", [last.input[0], "first", "all", "axis_1"], ["kept"])
    last.input[0] = "kept"
    made = [copy.deepcopy(node) for node in (*nodes, count, first, kept, last)]
    del model.graph.node[:]
    model.graph.node.extend(made)
    constants = {"axis_0": [0], "all": [1 << 62], "axis_1": [1]}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(array), name) for name, array in constants.items())
    model.graph.input.append(BATCH("num_logits_to_keep", TensorProto.INT64, []))
    return model


def grouped(folder: Path) -> ModelProto:
    """GroupQueryAttention, which counts keys from the mask."""
    model = with_past(folder)
    one, axis = (numpy_helper.from_array(np.array(array), name) for name, array in (("one", [1]), ("axis", 1)))
    model.graph.initializer.extend([one, axis])
    counts = [
        helper.make_node("ReduceSum", ["attention_mask", "one"], ["seen"], keepdims=0),
        helper.make_node("Sub", ["seen", "one"], ["before"]),
        helper.make_node("Cast", ["before"], ["last_key"], to=TensorProto.INT32),
        helper.make_node("Shape", ["attention_mask"], ["mask_shape"]),
        helper.make_node("Gather", ["mask_shape", "axis"], ["columns"]),
        helper.make_node("Cast", ["columns"], ["keys"], to=TensorProto.INT32),
    ]
    heads, nodes = {"num_heads": HEADS, "kv_num_heads": KV_HEADS}, [*counts]
    for node in model.graph.node:
        if node.op_type == "Attention":
            *parts, _, past_k, past_v = node.input
            packed, given = f"{node.name}.packed", [past_k, past_v, "last_key", "keys"]
            nodes.append(helper.make_node("Concat", parts, [packed], axis=-1))
            node = helper.make_node("GroupQueryAttention", [packed, "", "", *given], node.output, domain="com.microsoft", **heads)
        nodes.append(copy.deepcopy(node))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def counted(folder: Path) -> ModelProto:
    """The same, told by its caller how many keys there are, and how many of them are of the past."""
    model = grouped(folder)
    nodes = [node for node in model.graph.node if not {*node.output} & {"seen", "before", "last_key", "mask_shape", "columns", "keys"}]
    names = {"last_key": "seqlens_k", "keys": "total_sequence_length"}
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
    kept = [copy.deepcopy(node) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    for name, dims in (("seqlens_k", ["batch"]), ("total_sequence_length", [1]), ("past_seq_len", [1])):
        model.graph.input.append(BATCH(name, TensorProto.INT32, dims))
    return model


def paired(folder: Path) -> ModelProto:
    """Keys and values of a layer in one tensor, as onnxruntime's tools write GPT-2."""
    model = with_past(folder)
    first, made = numpy_helper.from_array(np.array([0]), "first_axis"), list[onnx.NodeProto]()
    model.graph.initializer.append(first)
    inputs = [value for value in model.graph.input if not value.name.startswith("past")]
    outputs = [value for value in model.graph.output if not value.name.startswith("present")]
    for layer in range(LAYERS):
        halves = [f"{word}.{layer}.{kind}" for word in ("past_key_values", "present") for kind in ("key", "value")]
        made.append(helper.make_node("Split", [f"past_{layer}"], [f"half_{layer}_0", f"half_{layer}_1"], axis=0, num_outputs=2))
        made += [helper.make_node("Squeeze", [f"half_{layer}_{at}", "first_axis"], [halves[at]]) for at in (0, 1)]
        inputs.append(BATCH(f"past_{layer}", TensorProto.FLOAT, [2, "batch", KV_HEADS, "past", HEAD]))
        outputs.append(BATCH(f"present_{layer}", TensorProto.FLOAT, [2, "batch", KV_HEADS, "total", HEAD]))
    nodes = [*made, *(copy.deepcopy(node) for node in model.graph.node)]
    for layer in range(LAYERS):
        wide = [f"wide_{layer}_{at}" for at in (0, 1)]
        parts = [f"present.{layer}.{kind}" for kind in ("key", "value")]
        nodes += [helper.make_node("Unsqueeze", [part, "first_axis"], [name]) for part, name in zip(parts, wide, strict=True)]
        nodes.append(helper.make_node("Concat", wide, [f"present_{layer}"], axis=0))
    graph = helper.make_graph(nodes, "paired", inputs, outputs, model.graph.initializer)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=10)


def merged(folder: Path) -> ModelProto:
    """Both forms in one file, and an input that says which."""
    past, plain = with_past(folder), onnx.load(write_decoder(folder / "plain.onnx", mask=True))
    for node in (node for node in plain.graph.node if node.op_type == "Attention"):
        node.output.extend(f"present.{node.name.split('.')[0][5:]}.{kind}" for kind in ("key", "value"))
    outputs = [value.name for value in past.graph.output]

    def branch(model: ModelProto, prefix: str) -> onnx.GraphProto:
        nodes = [copy.deepcopy(node) for node in model.graph.node]
        own = {name for node in nodes for name in node.output}
        for node in nodes:
            node.input[:] = [prefix + name if name in own else name for name in node.input]
            node.output[:] = [prefix + name for name in node.output]
        return helper.make_graph(nodes, prefix, [], [BATCH(prefix + name, TensorProto.FLOAT, None) for name in outputs])

    branches = {"then_branch": branch(past, "with_"), "else_branch": branch(plain, "without_")}
    node = helper.make_node("If", ["use_cache_branch"], outputs, name="which", **branches)
    inputs = [*past.graph.input, BATCH("use_cache_branch", TensorProto.BOOL, [1])]
    graph = helper.make_graph([node], "merged", inputs, past.graph.output, past.graph.initializer)
    return helper.make_model(graph, opset_imports=past.opset_import, ir_version=10)


FILES: dict[str, Callable[[Path], ModelProto]] = {
    "past_key_values": with_past,
    "past_key_0": named("past_{kind}_{layer}", "present_{kind}_{layer}"),
    "key_cache.0": named("{kind}_cache.{layer}", "new_{kind}_cache.{layer}"),
    "layers.0.k_in": named("layers.{layer}.{k}_in", "layers.{layer}.{k}_out"),
    "mask of truth": masked(TensorProto.BOOL),
    "mask of numbers": masked(TensorProto.FLOAT),
    "last logits": last_logits,
    "GroupQueryAttention": grouped,
    "seqlens_k": counted,
    "past_0": paired,
    "merged": merged,
}


@pytest.mark.parametrize("name", FILES)
def test_all_are_the_same_function(name: str, tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (1, LENGTH))
    plain = write_decoder(tmp_path / "decoder.onnx")
    onnx.save(FILES[name](tmp_path), tmp_path / "file.onnx")
    found = []
    for path in (plain, tmp_path / "file.onnx"):
        model = load_float32(path, LENGTH)
        (value,) = model.graph.input
        (logits,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {value.name: ids})
        found.append(logits)
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-5)
    graphs = [import_model(path, {}, False, {}, LENGTH).graph for path in (plain, tmp_path / "file.onnx")]
    assert [node.op for node in graphs[1].nodes] == [node.op for node in graphs[0].nodes]


def test_keys_are_counted_by_constants(tmp_path: Path) -> None:
    """onnxruntime loads some files of known lengths with nothing else: its inference of shapes takes what a Cast gives for int64."""
    onnx.save(grouped(tmp_path), tmp_path / "file.onnx")
    graph = load_float32(tmp_path / "file.onnx", LENGTH).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    (*_, last) = (node for node in graph.node if node.op_type == "GroupQueryAttention")
    found = [constants[name] for name in last.input[5:7]]
    assert [array.dtype for array in found] == [np.int32] * 2 and [array.tolist() for array in found] == [[LENGTH - 1], LENGTH]


def test_inputs_that_nobody_knows(tmp_path: Path) -> None:
    model = with_past(tmp_path)
    model.graph.input.append(BATCH("image", TensorProto.FLOAT, ["batch", 3, 8]))
    onnx.save(model, tmp_path / "file.onnx")
    with pytest.raises(ModelError, match="does not know what input 'image' of a decoder is"):
        import_model(tmp_path / "file.onnx", {}, False, {}, LENGTH)
