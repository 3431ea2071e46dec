"""Compile a model, with a search for the formats of its weights where they are `auto`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from glob import escape
from pathlib import Path
from typing import Any

import yaml

from attnc import compiler
from attnc.arrays import Array
from attnc.codegen.folder import CONFIG, Note
from attnc.config import CompileOptions
from attnc.errors import BuildError, ConfigError, DataError
from attnc.files import check_folder, write_whole
from attnc.frontend import load_float32
from attnc.frontend.quantized import runnable
from attnc.npz import load_npz
from attnc.ops.linear_weights import weight_format
from attnc.outputs import check_outputs, files_read
from attnc.passes.weights import weighted
from attnc.pipeline.phases import Phase, run
from attnc.pipeline.rewrite import WEIGHT_OPTIONS, weight_config
from attnc.pipeline.state import State
from attnc.quant.samples import Edge, FloatModel, count_samples, load_samples, one_sample, select_samples
from attnc.quant.split import split_samples
from attnc.quant.weight_config import LayerSettings
from attnc.quant.weights import default_quantizer
from attnc.search.budget import UNITS, Budget, Pool, Score, Yardstick
from attnc.search.ladder import Ladder, Option, Position, descend, hull
from attnc.search.layers import Assignment, Layers, Samples, assignment_key, golden_outputs
from attnc.search.sensitivity import make_weights, measure_gains
from attnc.search.state import Store, fingerprint, version
from attnc.tensors import embedded
from attnc_host.progress import Progress

HOLD_OUT = 4
"""Without samples of its own, the search measures on every 4th calibration sample."""
PROBES = 8
"""Held-out samples on which gains are measured."""
ROUNDS = 2
"""Times that gains are measured and their ladder is searched; around a choice they differ from those around the finest formats."""
SEARCH_OPTIONS = ("budget", "labels", "pool")


def compile_model(
    path: Path, options: CompileOptions, progress: Progress, note: Note = lambda text: None, moved: Note = lambda text: None
) -> Path:
    """Compile `path` into `options.output` and return it, after a search for formats if the weights of a layer are `auto`.

    The search keeps what it knows in a folder beside the output, `<output>.search`, from which the same command goes on after an
    interruption. `moved` is told of a folder that had to be moved aside. Raises `AttncError`; leaves no half-written build behind.
    """
    if options.budget is None:
        for name in SEARCH_OPTIONS:
            if getattr(options, name) is not None:
                raise ConfigError(f"--{name} is for a search over formats of weights; it needs --weights auto and a --budget")
        return compiler.compile_model(path, options, progress.stage, moved)
    search = Search(path, options, progress, note)
    state = compiler.begin(path, search.run(), progress.stage)
    run(state, progress.stage)
    state.search = search.facts(state)
    build = compiler.write(state, progress.stage, moved)
    note(f"{search.folder} ({search.store.bytes() / 1e6:.1f} MB) makes a search for another budget quick; it is not needed otherwise")
    return build


@dataclass(frozen=True)
class Measured:
    """A choice of formats that golden was run with."""

    bytes: float
    score: Score
    assignment: Assignment


class Search:
    """One search: prepares the finest formats, looks for cheaper ones, writes the config."""

    def __init__(self, path: Path, options: CompileOptions, progress: Progress, note: Note) -> None:
        self.path, self.options, self.progress, self.note = path, options, progress, note
        self.budget = Budget.parse(options.budget or "")
        if options.calib is None:
            raise ConfigError("--budget needs --calib: on made-up inputs the accuracy of a model means nothing")
        config = weight_config(options)
        if config.weights != "auto" and not any(rule.weights == "auto" for rule in config.layers):
            raise ConfigError("--budget is for weights that a search may choose; give --weights auto, or auto for layers in the config")
        check_outputs(path, options)
        self.folder = options.output.absolute().with_name(f"{options.output.absolute().name}.search")
        check_folder(self.folder, files_read(path, options))
        self.hold_out = config.hold_out or (0 if options.heldout else HOLD_OUT)
        self.measured: dict[str, Measured] = {}

    def run(self) -> CompileOptions:
        """Search; the options that compile the choice."""
        self.state = self._prepare()
        self.layers = Layers(self.state)
        self.heldout, self.labels = self._heldout(self.state)
        self.pool = None if self.options.pool is None else Pool.parse(self.options.pool, [s.name for s in self.state.model.inputs])
        self.yardstick = self._yardstick(self.heldout, self.labels)
        self.store = self.layers.store = Store(self.folder, self._key(), self.note)
        if self.store.resumed:
            self.note(f"search: goes on with {self.store.resumed} results in {self.folder}")
        make_weights(self.layers, self.store, self.heldout, self.progress)
        self.samples = self.layers.samples(self.heldout)
        self.chosen = self._search()
        text = self._config_text()
        write_whole(self.folder / CONFIG, text.encode())
        cleared: dict[str, Any] = dict.fromkeys((*WEIGHT_OPTIONS, *SEARCH_OPTIONS))
        return self.options.model_copy(update={**cleared, "config": self.folder / CONFIG})

    def _prepare(self) -> State:
        """The model, quantized with the finest formats; the held-out samples leave the calibration."""
        state = compiler.begin(self.path, self.options.model_copy(update={"hold_out": self.hold_out}), self.progress.stage)
        state.searched = {}
        run(state, self.progress.stage, Phase.QUANTIZE)
        return state

    def _heldout(self, state: State) -> tuple[dict[str, Array], Array | None]:
        """The samples to measure on, and their labels."""
        given, specs = self.options.heldout or self.options.calib, state.model.inputs
        assert given is not None
        samples, name = load_samples(given, specs), self.options.labels
        arrays = load_npz(given)
        if name is not None and name not in arrays:
            raise DataError(f"{given}: needed the labels {name!r}, found {', '.join(map(repr, arrays))}")
        labels = arrays.get(name or "label")
        if self.options.heldout is not None:
            return samples, labels
        total, split = count_samples(samples), split_samples(samples, self.hold_out)
        index = split.held_out
        if len(index) < 2:
            raise DataError(
                f"{given}: 1 sample in {self.hold_out} is held out for the search; needed {2 * self.hold_out} that differ or --heldout, "
                f"found {split.distinct}"
            )
        return select_samples(samples, index), labels[index] if labels is not None and labels.shape[:1] == (total,) else labels

    def _yardstick(self, arrays: Mapping[str, Array], labels: Array | None) -> Yardstick:
        """Float outputs of samples."""
        float_model = FloatModel(runnable(load_float32(self.path)))
        total = count_samples(arrays)
        self.progress.stage(f"search: float model on {total} samples")
        single, expected = [], []
        for index in range(total):
            self.progress.update(index, total)
            single.append(one_sample(arrays, index))
            expected.append(float_model(single[-1]))
        self.progress.finish()
        return Yardstick(self.budget.metric, expected, single, self.pool, labels)

    def _key(self) -> str:
        """What the results depend on, all of it but the bound of the budget."""
        graph, model = self.state.float_graph, self.state.model
        assert graph is not None
        types = {
            name: None if v.type is None else (v.type.bits, v.type.signed, v.type.scale, v.type.zero_point)
            for name, v in graph.values.items()
        }
        nodes = [(n.name, n.op, n.inputs, n.output, n.attrs, n.params) for n in graph.nodes]
        protos = [None if p is None else embedded(p).SerializeToString(deterministic=True) for p in (model.leading, model.trailing)]
        choices = {name: [repr(s) for s in found] for name, found in self.layers.choices.items()}
        data = (self.state.samples, self.heldout, self.labels, self.budget.metric, self.options.pool, self.path.read_bytes())
        return fingerprint(version(), nodes, types, graph.constants, protos, choices, data)

    def _measure(self, ladder: Ladder, position: Position) -> Score:
        assignment = self._assignment(ladder, position)
        key = assignment_key(assignment)
        if key in self.measured:
            return self.measured[key].score
        score = self.store.score(key)
        if score is None:
            score = self.yardstick.score(self.layers.run(assignment, self.samples))
            self.store.put_score(key, score)
        size = self.layers.bytes(assignment)
        self.measured[key] = Measured(size, score, assignment)
        held = "holds" if self.budget.holds(score) else "fails"
        self.progress.stage(f"search: {8 * size / self.layers.weights:.2f} bits per weight: {describe(self.budget, score)}, {held}")
        return score

    def _assignment(self, ladder: Ladder, position: Position) -> dict[str, LayerSettings]:
        return {name: self.layers.choices[name][ladder.hulls[name][i].index] for name, i in position.items()}

    def _steps(self, gains: Mapping[str, float]) -> Ladder:
        """Hulls with the damages that follow from `gains`."""
        return Ladder({name: self._hull(name, gain) for name, gain in gains.items()})

    def _hull(self, name: str, gain: float) -> list[Option]:
        shape = self.layers.shapes[name]
        errors = [self.store.error(name, settings) or 0.0 for settings in self.layers.choices[name]]
        return hull([Option(i, s.format.promised_bytes(*shape), gain * errors[i]) for i, s in enumerate(self.layers.choices[name])])

    def _search(self) -> Measured:
        """Two rounds: gains around the finest formats, then around what the first found."""
        ladder = self._steps(dict.fromkeys(self.layers.choices, 1.0))
        finest = ladder.position(0)
        score = self._measure(ladder, finest)
        if not self.budget.holds(score):
            raise ConfigError(self._unreachable(score, self._assignment(ladder, finest)))
        probes = Samples(self.samples.single[:PROBES], self.samples.integers[:PROBES])
        halfway = {name: len(found) // 2 for name, found in ladder.hulls.items()}
        position, around = halfway, finest
        gains: dict[str, float] = {}
        for _ in range(ROUNDS):
            change = {name: s for name, s in self._assignment(ladder, position).items() if position[name] != around[name]}
            here = self._assignment(ladder, around)
            gains |= measure_gains(self.layers, self.store, here, change, probes, self.yardstick, self.progress)
            ladder = self._steps({name: gains.get(name, 1.0) for name in self.layers.choices})
            found = descend(ladder, self.budget, self._measure)
            assert found is not None
            around = found
            if found == ladder.position(len(ladder.steps)):
                break
            position = {name: i + 1 if i + 1 < len(ladder.hulls[name]) else max(i - 1, 0) for name, i in found.items()}
        holding = [m for m in self.measured.values() if self.budget.holds(m.score)]
        return min(holding, key=lambda m: (m.bytes, -self.budget.slack(m.score)))

    def _unreachable(self, score: Score, assignment: Assignment) -> str:
        finest = sorted({settings.label for settings in assignment.values()})
        return (
            f"--budget {self.budget} cannot be held: the finest formats ({', '.join(finest)}) reach {describe(self.budget, score)} on "
            f"{len(self.samples.single)} held-out samples; what is left is the error of activations (see --activations and --calibration) "
            "and of nonlinear functions"
        )

    def _config_text(self) -> str:
        """attnc.yaml: what most layers have, and a rule for every other."""
        rows: dict[str, dict[str, Any]] = {}
        for node in weighted(self.state.graph):
            row = asdict(self.chosen.assignment.get(node.name) or self.state.settings(node))
            del row["open_group"], row["quantizer_why"]
            if node.attrs.get("quantizer") == "lossless":
                format = weight_format(node)
                row.update(weights=format.name, group_size=format.group_size, quantizer=default_quantizer(format)[0])
            rows[node.name] = row
        top = dict(Counter(tuple(row.items()) for row in rows.values()).most_common(1)[0][0])
        rules = [{"match": escape(name), **{k: v for k, v in row.items() if v != top[k]}} for name, row in rows.items() if row != top]
        size = f"{8 * self.chosen.bytes / self.layers.weights:.3f} bits per weight"
        head = f"# Chosen by a search for {self.budget}: {size}, {describe(self.budget, self.chosen.score)}.\n"
        return head + yaml.safe_dump(
            {**top, "hold_out": self.hold_out, "layers": rules}, sort_keys=False, width=140, default_flow_style=None
        )

    def facts(self, state: State) -> dict[str, Any]:
        """What the search found, for the report, with the score measured once more on the state that is to be written."""
        edge = Edge(state.model)
        score = self.yardstick.score(list(golden_outputs(state, edge, self.layers.samples(self.heldout))))
        if not self.budget.holds(score):
            raise BuildError(
                f"the build gives {describe(self.budget, score)}, the search found {describe(self.budget, self.chosen.score)}: "
                f"{self.folder} comes from another machine or version; remove it and search again"
            )
        source = self.options.heldout or self.options.calib
        assert source is not None
        weights = self.layers.weights
        curve = sorted(self.measured.values(), key=lambda m: (-m.bytes, m.score.value))
        return {
            "budget": str(self.budget),
            "samples": len(self.samples.single),
            "source": f"1 in {self.hold_out} of {source.name}" if self.options.heldout is None else source.name,
            "pool": self.options.pool,
            "metric": self.budget.metric,
            "value": score.value,
            "margin": score.margin,
            "weights": weights,
            "weight_bytes": round(self.chosen.bytes),
            "bits_per_weight": round(8 * self.chosen.bytes / weights, 4),
            "curve": [
                {
                    "bits_per_weight": round(8 * m.bytes / weights, 4),
                    "value": m.score.value,
                    "margin": m.score.margin,
                    "holds": self.budget.holds(m.score),
                    "chosen": m is self.chosen,
                }
                for m in curve
            ],
            "layers": [
                {
                    "node": node.name,
                    "weights": node.attrs.get("weights", "int8"),
                    "group_size": node.attrs.get("group_size", 0),
                    "size": math.prod(self.layers.shapes[node.name]),
                    "searched": node.name in self.layers.choices,
                }
                for node in weighted(state.graph)
            ],
        }


def describe(budget: Budget, score: Score) -> str:
    """A score in words: "cosine 0.9812 (less 0.0007 for chance)"."""
    margin = f" (less {score.margin:.3g} for chance)" if score.margin else ""
    return f"{budget.metric} {score.value:.5g}{UNITS[budget.metric]}{margin}"
