"""The tables of a report. Their length does not grow with the depth of the model: long lists are summed, the worst entries shown."""

from __future__ import annotations

import io
from collections import Counter
from operator import itemgetter
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

ALL_LAYERS = 100
"""Models of up to this many nodes are shown node by node."""
WORST = 12


def render(facts: dict[str, Any]) -> RenderableType:
    """The report as tables."""
    cost = facts["estimate"]
    title = f"{escape(facts['model']['file'])} on {facts['target']['name']}"
    search = [_curve(facts["search"])] if "search" in facts else []
    tables = resources(cost), *_spent(cost), *_widths(facts), _layers(facts)
    return Group(_summary(facts, title), *search, *_linear_layers(facts), *tables)


def render_estimate(cost: dict[str, Any], title: str) -> RenderableType:
    """An estimate alone."""
    table = _pairs(escape(title))
    _cost_rows(table, cost)
    return Group(table, resources(cost), *_spent(cost), worst_stages(cost))


def _pairs(title: str) -> Table:
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    return table


def _cost_rows(table: Table, cost: dict[str, Any]) -> None:
    table.add_row("cycles", f"{cost['cycles']:,} per sample (estimate)")
    table.add_row("latency", f"{cost['latency_ms']:.4f} ms at {cost['clock_mhz']:g} MHz (estimate)")
    roof = f"{cost['dsp_roof_percent']:.1f} % of what the design's DSPs could do"
    table.add_row("multiply-adds", f"{cost['multiply_adds']:,}, {cost['multiply_adds_per_cycle']:.1f} per cycle, {roof} (estimate)")
    busy = f"{cost['multipliers_busy_percent']:.1f} % busy over the whole inference (estimate)"
    table.add_row("multipliers", f"{cost['multipliers']:,} in arrays, {busy}")
    if cost["hidden_cycles"]:
        together = f"{cost['instructions']:,} instructions in {cost['steps']:,} steps"
        table.add_row("at the same time", f"{together}, which hides {cost['hidden_cycles']:,} cycles beside slower ones (estimate)")
    floor = f"{cost['ddr_floor_bytes']:,} if everything passed once"
    table.add_row("DDR traffic", f"{cost['ddr_bytes']:,} bytes per sample, {cost['ddr_roof_percent']:.1f} % of the DDR roof; {floor}")
    table.add_row("energy", f"{cost['energy_mj']:.3g} mJ per sample at {cost['power_watts']:.1f} W (rough estimate, assumed coefficients)")
    table.add_row("memory", f"weights {cost['weight_bytes']:,} bytes, activations {cost['memory_bytes']:,} bytes")
    if cost.get("misfit"):
        table.add_row("DOES NOT FIT", escape(cost["misfit"]))


def _summary(facts: dict[str, Any], title: str) -> Table:
    table, calibration = _pairs(title), facts["calibration"]
    others = f"{calibration['held_out']} others{' of ' + calibration['held_out_from'] if calibration['held_out_from'] else ''}"
    measured = f"figures on {others if calibration['held_out'] else 'the same'}"
    table.add_row("calibration", escape(f"{calibration['samples']} samples, {calibration['source']}, {calibration['method']}; {measured}"))
    for warning in calibration["warnings"]:
        table.add_row("WARNING", escape(warning))
    searched = facts.get("search")
    if searched:
        pool = f", rows {searched['pool']}" if searched["pool"] else ""
        margin = f" (less {searched['margin']:.3g} for chance)" if searched["margin"] else ""
        table.add_row("weights", f"{searched['bits_per_weight']:.3f} bits each, {searched['weight_bytes']:,} bytes, scales included")
        measured = f"{searched['metric']} {searched['value']:.5g}{margin} on {searched['samples']} samples held out{pool}"
        table.add_row("budget", escape(f"{searched['budget']}: {measured}"))
    imported = facts.get("import")
    if imported:
        counts = f"{len(imported['weights'])} weights and {imported['activation_types']} types of activations as imported"
        table.add_row("quantized by", f"{' and '.join(imported['dialects'])}: {counts}, {len(imported['left_out'])} pairs left out")
    if sparse := facts.get("made_sparse"):
        taken, whole = (sum(one[key] for one in sparse) for key in ("taken", "whole"))
        share = f"{taken:,} products of a sample instead of {whole:,}, {100 * (1 - taken / whole):.0f} % less"
        table.add_row("made sparse", f"{len(sparse)} mixtures of experts that the model computes whole: {share}")
    widths = facts.get("activation_bits")
    if widths:
        measured = "SQNR, held out" if calibration["held_out"] else "SQNR, calibration"
        table.add_row(measured, _reached(widths, searched, facts["float_check"]))
        table.add_row("inputs", _widened(widths))
    biases = [layer["bias"] for layer in facts["layers"] if layer.get("bias")]
    if biases:
        table.add_row("attention bias", _bias(biases))
    if "check" in facts:
        table.add_row("C++ against golden", escape(checked(facts["check"])))
    evaluation = facts.get("evaluation")
    if evaluation:
        for kind, percent in evaluation.get("accuracy_percent", {}).items():
            name = {"float": "float (onnxruntime)"}.get(kind, kind)
            table.add_row(f"accuracy {name}", f"{percent:.2f} % of {evaluation['samples']} samples")
        table.add_row("elements compared", f"{evaluation['elements']:,} (C++ against golden, {evaluation['samples']} samples)")
        table.add_row("mismatches", f"{evaluation['mismatches']}")
        for name, value in evaluation.get("output_sqnr_db", {}).items():
            table.add_row(f"SQNR of {escape(name)}", f"{value:.1f} dB against {evaluation['float_model']}")
    if "decoder" in facts:
        for name, text in _decoder(facts["decoder"], facts.get("simulation")):
            table.add_row(name, text)
    for name, text in _experts(facts["experts"]) if "experts" in facts else ():
        table.add_row(name, text)
    if "simulation" in facts:
        table.add_row("simulated", _simulated(facts["simulation"], facts["estimate"]["clock_mhz"]))
    _cost_rows(table, facts["estimate"])
    table.add_row("files", ", ".join(facts["files"].values()))
    return table


def _decoder(found: dict[str, Any], simulation: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What generating tokens takes."""
    sessions = f" for each of {found['sessions']} sessions" if found["sessions"] > 1 else ""
    rows = [("decoder", f"sequences of {found['length']:,} tokens, caches of {found['cache_bytes']:,} bytes{sessions}")]
    rows, at = rows + choice_rows(found), itemgetter("entry", "position")
    for entry, tokens in tokens_of_runs(found).items():
        for row in (row for row in found["estimates"] if row["entry"] == entry):
            speed = f"{tokens / row['ms'] * 1000:,.1f} tokens/s" if row["ms"] else ""
            title = f"{entry}, position {row['position']:,}"
            later = [f"{style} {one['cycles']:,}" for style, runs in found["simulated"].items() for one in runs if at(one) == at(row)]
            shown = f"; {', '.join(later)} (simulated)" if later else ""
            host = f" and {row['host_ms']:.4g} ms of the host" if "host_ms" in row else ""
            rows.append((title, f"{row['cycles']:,} cycles{host}, {row['ms']:.4g} ms for {tokens}: {speed} (estimate){shown}"))
    for style, run in ((style, simulation[style]) for style in ("stp", "flp") if simulation and style in simulation):
        both = ", ".join(f"{entry} {one['cycles']:,} at position {found['simulated_at'][entry]:,}" for entry, one in run["entries"].items())
        rows.append((f"cycles, {style}", f"{both} (simulated)"))
    return rows


def _experts(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Load of experts on the calibration, and cycles by routing."""
    rows = []
    for (experts, k), mixtures in _grouped(found["mixtures"]).items():
        shares = [max(one["rows"]) / sum(one["rows"]) for one in mixtures]
        unused = sum(count == 0 for one in mixtures for count in one["rows"])
        load = f"the busiest one has {min(shares):.1%} to {max(shares):.1%} of the rows, {unused} have none ({found['samples']} samples)"
        rows.append(("experts", f"{len(mixtures)} times {experts}, of which a token takes {k}; {load}"))
    for one in found["routings"]:
        simulated = "".join(f", {style} {cycles:,} (simulated)" for style, cycles in one["simulated"].items())
        title = f"{one['entry']}, {one['routing']}" if "entry" in one else one["routing"]
        rows.append((f"cycles, {title}", f"{one['experts']:g} experts of each: {one['estimate_cycles']:,} (estimate){simulated}"))
    mean, sample = found["mean_estimate_cycles"], found["mean_sample"]
    rows.append(("mean of calibration", f"estimates of {found['samples']} samples are {mean:,} on average; sample {sample} is nearest"))
    return rows


def _grouped(mixtures: list[dict[str, Any]]) -> dict[tuple[int, int], list[dict[str, Any]]]:
    found: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for one in mixtures:
        found.setdefault((one["experts"], one["of_a_token"]), []).append(one)
    return found


def tokens_of_runs(found: dict[str, Any]) -> dict[str, int]:
    """Of a decoder, by entry."""
    branches = found.get("branches", 0)
    return {"prefill": found["block"], "decode": 1, **({"batch": branches} if branches else {})}


def choice_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What formats of caches cost a decoder, and where its head runs."""
    rows = [("head", head_text(found["head"]))] if "head" in found else []
    for one in found["cache_errors"]:
        which = " (this build's)" if one["format"] == found["cache"] else ""
        error = "no error" if one["sqnr_db"] is None else f"{one['sqnr_db']:.1f} dB SQNR of the logits"
        same = f"the likeliest token the same for {one['same_choice']:.1%} of {one['tokens']:,}"
        text = f"{error}, {same}, divergence {one['divergence']:.2g} nats; against a float cache, all else in float; {one['bytes']:,} bytes"
        rows.append((f"cache in {one['format']}{which}", text))
    return rows


def head_text(head: dict[str, Any] | None) -> str:
    """Where the last linear layer of a decoder runs, and what it takes there and in the other place."""
    if head is None:
        return "on the device: the logits come from no linear layer alone"
    layer = f"{head['rows']:,} x {head['channels']:,} weights of {head['format']}"
    cycles, read = head["device_cycles"], head["device_bytes"] / 1e6
    device = f"on the device at least {cycles:,} cycles, {head['device_ms']:.3g} ms per token, {read:.3g} MB read"
    if head["where"] == "device" and head["design_cycles"] is not None:
        device += f" ({head['design_cycles']:,} cycles in this design)"
    host = "nothing is known of the host"
    if head["host_ms"] is not None:
        host = f"on the host about {head['host_ms']:.3g} ms, {head['host_bytes'] / 1e6:.3g} MB ({head['processors']})"
    return f"on the {head['where']} ({head['why']}): {layer}; {device}; {host} (estimates)"


def checked(check: dict[str, Any]) -> str:
    """What the final check of a compilation says."""
    if "unchecked" in check:
        return f"NOT COMPARED: {check['unchecked']}; `attnc csim` compares"
    return f"equal in all {check['elements']:,} elements of the build's own {check['samples']} samples"


def _simulated(found: dict[str, Any], clock_mhz: float) -> str:
    """Cycles of the emitted C++ in time, by style of pipelines."""
    names = {"stp": "with stalling pipelines", "flp": "with flushing ones"}
    texts = []
    for style, name in names.items():
        run = found.get(style)
        if run is not None:
            wrong = "" if run["bit_exact"] else ", DEADLOCK" if run["deadlock"] else ", DIFFERENT from golden"
            texts.append(f"{run['cycles']:,} cycles, {run['latency_ms']:.4f} ms {name}{wrong}")
    return f"{'; '.join(texts)} (simulated, {clock_mhz:g} MHz)"


def causes(widths: dict[str, Any]) -> str:
    """What keeps a model from its target, summed over the nodes."""
    total: Counter[str] = Counter()
    for row in widths["binding"]:
        total[row["why"]] += row["percent"]
    found = ", ".join(f"{why} {percent:.0f} %" for why, percent in total.most_common(3))
    return found or "what brings the noise was not measured node by node, the model is large"


def _reached(widths: dict[str, Any], searched: dict[str, Any] | None, check: dict[str, Any]) -> str:
    """The SQNR of the output that is farthest from the model; where a budget asked for other than the target, that is no miss."""
    if not widths["sqnr_db"]:
        return "no output in floating point to measure"
    reached, margins, target = widths["sqnr_db"], widths["margin_db"], widths["target_db"]
    name = min(reached, key=lambda output: reached[output] - margins[output])
    least = reached[name] - margins[name]
    text = f"{reached[name]:.1f} dB against {check['against']} (worst output), {least:.1f} dB less what chance may hide"
    if check["undefined_samples"]:
        text += f"; {check['undefined_samples']} samples left out, on which the model itself gives NaN"
    if widths["missed"] and not searched:
        return f"{text}; MISSES the target of {target:g} dB: {causes(widths)}"
    doubtful = widths["missed"] is False and least < target and not searched
    return text + (f"; other samples may miss the target of {target:g} dB" if doubtful else "")


def _widened(widths: dict[str, Any]) -> str:
    """How many layers have inputs of 16 bits, and what the SQNR would be without those that the model needs."""
    counts, before = Counter(row["op"] for row in widths["wide"]), widths["sqnr_db_of_8_bits"]
    parts = [f"{count} of {op}" for op, count in counts.items()]
    text = f"{' and '.join(parts) or 'none'} with 16 bits"
    return text + (f" ({min(before.values()):.1f} dB without those that the model needs)" if before else "")


def _widths(facts: dict[str, Any]) -> list[Table]:
    """Which inputs have 16 bits and why; what binds where the target is missed."""
    widths, tables = facts.get("activation_bits"), []
    for key, title, names in (
        ("wide", "Operands of 16 bits", ("node", "why", "operands", "noise in 8 bits", "more multiply-adds")),
        ("binding", "What keeps the outputs from the target, by share of the noise", ("node", "why", "share", "operator")),
    ):
        rows = widths[key] if widths else []
        if not rows:
            continue
        more = f" (first {WORST} of {len(rows)})" if len(rows) > WORST else ""
        table = Table(title=title + more, title_justify="left")
        for name in names:
            left = name in ("node", "why", "operands", "operator")
            table.add_column(name, justify="left" if left else "right", overflow="ellipsis", max_width=56)
        for row in rows[:WORST]:
            if key == "binding":
                cells = f"{row['percent']:.1f} %", row["op"]
            else:
                found = (f"{row['noise_percent']:.1f} %", f"{row['multiply_adds']:,}") if "noise_percent" in row else ("", "")
                cells = f"{row['operands']} of {row['op']}", *found
            table.add_row(escape(row["node"]), escape(row["why"]), *cells)
        tables.append(table)
    return tables


def _bias(biases: list[dict[str, Any]]) -> str:
    """How constant biases are made; errors in natural units of scores, measured."""
    tables = f"table off by at most {max(bias['table_error'] for bias in biases):.2g}"
    fitted = [bias for bias in biases if bias["channels"]]
    ranks = "/".join(str(rank) for rank in sorted({bias["channels"] for bias in fitted}))
    found = f"{ranks} channels off by at most {max(bias['error'] for bias in fitted):.2g}" if fitted else ""
    layers = "1 layer" if len(biases) == 1 else f"{len(biases)} layers"
    if biases[0]["by"] == "channels":
        return f"{layers}, {found} (a {tables})"
    return f"{layers}, {tables}" + (f"; {found} would cost more or were not wanted" if fitted else "")


def _curve(found: dict[str, Any]) -> Table:
    """Every choice of formats that the search measured."""
    table = Table(title=f"Bits per weight against {found['metric']}", title_justify="left")
    for name in ("bits per weight", found["metric"], "less for chance", found["budget"], ""):
        table.add_column(escape(name), justify="right" if name else "left")
    for point in found["curve"]:
        numbers = f"{point['bits_per_weight']:.3f}", f"{point['value']:.5g}", f"{point['margin']:.3g}" if point["margin"] else ""
        table.add_row(*numbers, "holds" if point["holds"] else "no", "chosen" if point["chosen"] else "")
    return table


def _linear_layers(facts: dict[str, Any]) -> list[Table]:
    """How many linear layers have which format, from which quantizer, and which engine serves them; what each engine would have cost."""
    counted: dict[tuple[str, ...], list[int]] = {}
    for weights in (layer["weights"] for layer in facts["layers"] if layer.get("weights")):
        scale = "per token" if weights["activations"] == "dynamic" else "static"
        scales = f"group of {weights['group_size']}" if weights["group_size"] else "channel"
        quantizer = weights["quantizer"], weights["quantizer_why"]
        row = weights["format"], scales, *quantizer, f"{weights['input']} {scale}", weights["engine"], weights["why"]
        counted.setdefault(row, []).append(weights["count"])
    if not counted:
        return []
    choice = facts.get("engine_choice")
    table = Table(title="Linear layers: formats of weights, and engines", title_justify="left", caption_justify="left")
    for name in ("weights", "scale per", "quantizer", "why", "inputs", "engine", "why this engine", "layers", "number of weights"):
        table.add_column(name, justify="right" if name in ("layers", "number of weights") else "left")
    for row, sizes in sorted(counted.items()):
        table.add_row(*row, f"{len(sizes)}", f"{sum(sizes):,}")
    if choice:
        table.caption = "Cost of the whole design (estimates):\n" + "\n".join(_engine_cost(*tried) for tried in choice["tried"].items())
    return [table]


def _engine_cost(name: str, tried: dict[str, Any]) -> str:
    if "misfit" in tried:
        return f"{name}: does not fit"
    return f"{name}: {tried['cycles']:,} cycles, {tried['lut']:,} LUT, {tried['dsp']:,} DSP, {tried['bram36']:,} BRAM36"


def resources(cost: dict[str, Any]) -> Table:
    """Resources beside what the board has."""
    table, places = Table(title=f"Resources ({cost['note']})", title_justify="left"), {"lut": "lutram", "bram36": "bram", "uram": "uram"}
    for name in ("", "used", "of", "share", "limit", "buffers here"):
        table.add_column(name, justify="right" if name and name != "buffers here" else "left")
    for name, entry in cost["resources"].items():
        share = f"{100 * entry['used'] / entry['available']:.1f} %" if entry["available"] else "-"
        held = ", ".join(buffer["name"] for buffer in cost["buffers"] if buffer["place"] == places.get(name))
        table.add_row(name.upper(), f"{entry['used']:,}", f"{entry['available']:,}", share, f"{entry['limit']:,}", held)
    return table


def _spent(cost: dict[str, Any]) -> list[Table]:
    """Where cycles go; of a decoder for each entry of its program."""
    entries = {f" of {entry}": own for entry, own in cost["entries"].items()} or {"": cost}
    return [table for of, own in entries.items() for table in (operators(own, of), lost(own, of))]


def operators(cost: dict[str, Any], of: str) -> Table:
    """Cycles and traffic by the operator of each stage's main node."""
    table = Table(title=f"Where the cycles{of} go, by the main operator of each stage (estimates)", title_justify="left")
    for name in ("operator", "stages", "cycles", "share", "MAC busy", "of DDR roof", "DDR bytes", "lower bound", "bound by"):
        table.add_column(name, justify="left" if name in ("operator", "bound by") else "right")
    for row in cost["operators"]:
        bound = ", ".join(row["bound"]) if len(row["bound"]) < 4 else ", ".join(list(row["bound"])[:3]) + ", ..."
        shares = (f"{row[key]:.1f} %" for key in ("cycles_percent", "multipliers_busy_percent", "ddr_roof_percent"))
        traffic = f"{row['ddr_bytes']:,}", f"{row['ddr_floor_bytes']:,}"
        table.add_row(row["op"], f"{row['stages']}", f"{row['cycles']:,}", *shares, *traffic, escape(bound))
    return table


def lost(cost: dict[str, Any], of: str) -> Table:
    """Causes of lost cycles."""
    table = Table(title=f"Where multiplier cycles{of} are lost (estimates)", title_justify="left")
    for name in ("operator", "cause", "cycles", "share", "worst stage"):
        table.add_column(name, justify="right" if name in ("cycles", "share") else "left", overflow="ellipsis", max_width=56)
    for row in cost["lost"][:WORST]:
        table.add_row(row["op"], escape(row["cause"]), f"{row['cycles']:,}", f"{row['cycles_percent']:.1f} %", escape(row["worst_stage"]))
    return table


def worst_stages(cost: dict[str, Any]) -> Table:
    """The stages that take longest."""
    table = Table(title=f"The {min(WORST, len(cost['stages']))} longest of {len(cost['stages'])} stages (estimates)", title_justify="left")
    for name in ("main node", "operators", "cycles", "MAC busy", "of DDR roof", "DDR bytes", "bound by"):
        table.add_column(
            name, justify="left" if name in ("main node", "operators", "bound by") else "right", overflow="ellipsis", max_width=44
        )
    for stage in sorted(cost["stages"], key=lambda s: -s["cycles"])[:WORST]:
        shares = (f"{stage[key]:.1f} %" for key in ("multipliers_busy_percent", "ddr_roof_percent"))
        numbers = f"{stage['cycles']:,}", *shares, f"{stage['ddr_bytes']:,}"
        table.add_row(escape(stage["node"]), " > ".join(stage["ops"]), *numbers, escape(stage["bound"]))
    return table


def _layers(facts: dict[str, Any]) -> Table:
    layers = facts["layers"]
    title = "Layers (golden against attnc's own float graph in dB: where noise comes from; cycles are estimates)"
    if len(layers) > ALL_LAYERS:
        title = f"The {WORST} of {len(layers)} layers in which golden is farthest from attnc's own float graph (cycles are estimates)"
        layers = sorted(layers, key=lambda layer: layer["float_graph_db"])[:WORST]
    table = Table(title=title, title_justify="left")
    for name in ("node", "operator", "weights", "engine", "output", "type", "graph dB", "cycles"):
        table.add_column(name, justify="right" if name in ("output", "graph dB", "cycles") else "left", overflow="ellipsis", max_width=44)
    for layer in layers:
        rows, channels = layer["shape"]
        cycles = f"{layer['cycles']:,}" if layer["with"] is None else escape(f"with {layer['with']}")
        numbers = f"{layer['float_graph_db']:.1f}", cycles
        weights = layer.get("weights")
        group = f"g{weights['group_size']}" if weights and weights["group_size"] else ""
        served = (f"{weights['format']}{group} {weights['quantizer']}", weights["engine"]) if weights else ("", "")
        table.add_row(escape(layer["node"]), layer["op"], *served, f"{rows}x{channels}", layer["type"], *numbers)
    return table


def as_text(content: RenderableType) -> str:
    """Tables as plain text."""
    stream = io.StringIO()
    Console(file=stream, width=140, color_system=None, legacy_windows=False).print(content, markup=False, highlight=False)
    return stream.getvalue()
