"""attnc.yaml: which rule wins, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attnc.errors import ConfigError
from attnc.ir import Graph, Node
from attnc.quant.weight_config import LayerSettings, WeightConfig, check_weight_config, read_weight_config
from attnc.weights import WeightFormat


def model() -> Graph:
    """Linear layers enc.0.q, enc.0.up, enc.1.q, enc.1.up of 128 inputs, and embed of 4."""
    graph = Graph("model", inputs=["x"])
    for name in ("embed", "enc.0.q", "enc.0.up", "enc.1.q", "enc.1.up"):
        inputs = 4 if name == "embed" else 128
        params = {"weight": np.zeros((8, inputs)), "bias": np.zeros(8)}
        graph.nodes.append(Node(name, "linear", ["x"], f"{name}.y", {}, params, (f"/onnx/{name}/MatMul", f"/onnx/{name}/Add")))
    graph.nodes.append(Node("act", "unary", ["enc.0.up.y"], "act", {"function": "gelu"}, source=("/onnx/Erf",)))
    return graph


def chosen(text: str, tmp_path: Path) -> dict[str, LayerSettings]:
    graph, path = model(), tmp_path / "attnc.yaml"
    path.write_text(text)
    choices = read_weight_config(path).bind(graph, f"config {path}")
    return {node.name: choices.choose(node) for node in graph.nodes if node.op == "linear"}


def test_an_empty_file_is_int8(tmp_path: Path) -> None:
    for text in ("", "{}", "# nothing"):
        assert set(chosen(text, tmp_path).values()) == {LayerSettings("int8", 0, "quantease", "static", "auto")}


def test_covariances_of_made_up_inputs_choose_no_fine_integers() -> None:
    def quantizers(calibrated: bool, **settings: str) -> set[tuple[str, str]]:
        found = check_weight_config(settings, "config").bind(model(), calibrated=calibrated)
        return {(each.quantizer, each.quantizer_why) for each in found.settings.values()}

    assert quantizers(True) == {("quantease", "calibration data")}
    assert quantizers(False) == {("mse", "no calibration data")} == quantizers(False, weights="int6")
    assert quantizers(False, weights="int4") == {("quantease", "coarse grid")}
    assert quantizers(True, quantizer="mse") == {("mse", "asked for")}


def test_experts_take_what_multipliers_take() -> None:
    """The file's own settings leave them out where they cannot follow; rules that name them do not."""
    graph = model()
    params = {"weight": np.zeros((4, 8, 128)), "bias": np.zeros((4, 8))}
    graph.nodes.append(Node("moe", "experts", ["x", "queue"], "moe", {}, params))

    def settings(**given: object) -> LayerSettings:
        return check_weight_config(given, "config").bind(graph).settings["moe"]

    assert settings(weights="ternary", group_size=32, activations="dynamic") == LayerSettings("ternary", 32, "quantease", "static", "auto")
    assert settings(weights="int4", engine="lookup").engine == "auto"
    for key, value in (("weights", "binary2"), ("activations", "dynamic"), ("engine", "lookup")):
        with pytest.raises(ConfigError, match=f"layer 'moe': {key} of experts: needed .*, found {value}"):
            settings(weights="int4", layers=[{"match": "experts", key: value}])
    with pytest.raises(ConfigError, match="layer 'moe': weights of experts"):
        settings(weights="binary3")


def test_every_key(tmp_path: Path) -> None:
    text = "weights: int4\ngroup_size: 64\nquantizer: gptq\nactivations: dynamic\nengine: lookup\n"
    found = chosen(text, tmp_path)
    assert found["enc.0.q"] == LayerSettings("int4", 64, "gptq", "dynamic", "lookup")
    assert found["enc.0.q"].format == WeightFormat("integer", 4, 64)
    assert found["embed"].group_size == 0


def test_the_last_rule_wins_for_every_key_on_its_own(tmp_path: Path) -> None:
    found = chosen(
        """
        weights: int4
        layers:
          - {match: "enc.*", weights: ternary, group_size: 32, engine: lookup}
          - {match: "*.up", group_size: 64}
          - {match: enc.1.up, weights: int6, quantizer: mse}
          - {match: enc.1.q, engine: auto}
        """,
        tmp_path,
    )
    assert found == {
        "embed": LayerSettings("int4", 0, "quantease", "static", "auto"),
        "enc.0.q": LayerSettings("ternary", 32, "quantease", "static", "lookup"),
        "enc.0.up": LayerSettings("ternary", 64, "quantease", "static", "lookup"),
        "enc.1.q": LayerSettings("ternary", 32, "quantease", "static", "auto"),
        "enc.1.up": LayerSettings("int6", 64, "mse", "static", "lookup"),
    }


def test_names_go_before_kinds_and_kinds_before_sources(tmp_path: Path) -> None:
    found = chosen('layers: [{match: linear, weights: int6}, {match: "/onnx/enc.0.*/MatMul", weights: int3}]', tmp_path)
    assert {name: s.weights for name, s in found.items()} == {
        "embed": "int6", "enc.0.q": "int3", "enc.0.up": "int3", "enc.1.q": "int6", "enc.1.up": "int6",
    }  # fmt: skip
    graph = model()
    graph.nodes[0].source = ("enc.0.q",)
    choices = check_weight_config({"layers": [{"match": "enc.0.q", "weights": "int2"}]}, "config").bind(graph)
    assert [choices.choose(node).weights for node in graph.nodes[:2]] == ["int8", "int2"]


def test_as_a_chooser() -> None:
    graph = model()
    choices = WeightConfig(weights="binary3", group_size=32).bind(graph)
    assert choices.weights(graph.nodes[1]) == (WeightFormat("binary", 3, 32), "quantease")


def test_auto_is_left_to_the_search(tmp_path: Path) -> None:
    found = chosen("weights: auto\nlayers: [{match: embed, weights: int8}]", tmp_path)
    assert found["embed"].format.name == "int8"
    assert found["enc.0.q"].weights == "auto" and found["enc.0.q"].open_group
    assert not chosen("weights: auto\ngroup_size: 0", tmp_path)["enc.0.q"].open_group
    assert not chosen("weights: auto\nlayers: [{match: enc.*, group_size: 0}]", tmp_path)["enc.0.q"].open_group
    with pytest.raises(ConfigError, match="auto is for the search"):
        _ = found["enc.0.q"].format


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wieghts: int4", r"unknown key wieghts \(did you mean weights\?\); needed weights, group_size"),
        ("layers: [{match: embed, wights: int4}]", r"unknown key layers\[0\]\.wights \(did you mean weights\?\); needed match, weights"),
        ("hold_out: 1", "hold_out: value error, needed 0 or at least 2"),
        ("weights: int7", r"weights: needed int8, .* or auto, found 'int7' \(did you mean int"),
        ("layers: [{match: embed}, {match: embed, weights: 4}]", r"layers\[1\]\.weights: needed int8, .*found 4"),
        ("weights: binary5", r"weights: needed .*found 'binary5' \(did you mean binary"),
        ("group_size: 48", r"group_size: needed 0, 16, 32, 64 or 128, found 48"),
        ("layers: [{match: enc.0.q, group_size: -1}]", r"layers\[0\]\.group_size: needed 0, 16, 32, 64 or 128, found -1"),
        ("quantizer: gpqt", r"quantizer: needed one of minmax, .*found 'gpqt' \(did you mean gptq\?\)"),
        ("layers: [{match: embed, quantizer: x}]", r"layers\[0\]\.quantizer: needed one of minmax, .*found 'x'"),
        ("activations: dinamic", r"activations: needed static or dynamic, found 'dinamic' \(did you mean dynamic\?\)"),
        ("engine: dsp48", r"engine: needed auto, dsp or lookup, found 'dsp48' \(did you mean dsp\?\)"),
        ("layers: [{weights: int4}]", r"layers\[0\]\.match is missing"),
        ("layers: [{match: ''}]", r"layers\[0\]\.match: .*found ''"),
        ("layers: {match: embed}", r"layers: needed a list of rules.*found \{'match': 'embed'\}"),
        ("layers: [embed]", r"layers\[0\]: .*found 'embed'"),
        (
            "layers: [{match: enc.0.u}]",
            r"layers\[0\]\.match: 'enc\.0\.u' matches no layer \(did you mean enc\.0\.up\?\); the layers are embed, enc",
        ),
        ("layers: [{match: act}]", r"layers\[0\]\.match: 'act' matches no layer"),
        ("layers: [{match: '*.up'}, {match: ENC.0.UP}]", r"layers\[1\]\.match: 'ENC\.0\.UP' matches no layer"),
        ("layers: [{match: embed, group_size: 32}]", r"layers\[0\]: layer 'embed': group_size 32 does not divide its 4 inputs; needed 0"),
        (
            "quantizer: gptq\nweights: binary2",
            r"layer 'embed': quantizer: gptq cannot make binary2 weights; needed one of quantease, binary",
        ),
        ("quantizer: absmean\nlayers: [{match: embed, weights: int4}]", r"layer '\S+': quantizer: absmean cannot make int"),
        ("engine: lookup", r"engine lookup takes weights of at most 6 bits, found int8; needed engine auto or dsp"),
        ("layers: [{match: *up}]", r"not valid YAML: .*\*up.*needs quotes|not valid YAML"),
        ("layers: [{match: *x}]", r"a pattern that starts with \* needs quotes"),
        ("weights: int4\nweights: int8", r"key 'weights' is given twice"),
        ("weights: [", r"not valid YAML"),
        ("- int4", r"needed keys weights, .*found list"),
        ("1: int4", r"\[1\]: keys should be strings, found 1"),
        ("&a [*a]", r"aliases are not supported, found \*a"),
        ("!!python/object/apply:os.getcwd []", r"not valid YAML"),
    ],
)
def test_what_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        chosen(text, tmp_path)
    assert "attnc.yaml" in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_weight_config(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_weight_config(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00weights")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_weight_config(tmp_path / "binary.yaml")
    (tmp_path / "long.yaml").write_text("#" * (1 << 20) + "\nweights: int4")
    with pytest.raises(ConfigError, match="at most 1048576 bytes"):
        read_weight_config(tmp_path / "long.yaml")


def test_a_size_that_does_not_divide_is_refused_with_those_that_do() -> None:
    graph = model()
    graph.nodes[2].params["weight"] = np.zeros((8, 96))
    with pytest.raises(ConfigError, match=r"layer 'enc\.0\.up': group_size 64 does not divide its 96 inputs; needed 0 or 16 or 32"):
        WeightConfig(group_size=64).bind(graph)
