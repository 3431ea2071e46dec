"""The page of `attnc report`: what stands in it, names that mean harm, damaged files, and what a browser makes of it."""

from __future__ import annotations

import copy
import html
import json
import random
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from attnc import page
from attnc.cli import main
from attnc.page import memories
from attnc.page.reasons import by_entry, reasons
from chromium import visit

Facts = dict[str, Any]
MEASURED = {
    **{"backend": "pynq", "device": "attnc_0", "mismatches": 0, "throughput_per_second": 12_000.5},
    "latency_ms": {"p50": 0.0815, "p99": 0.09},
    "power_watts": {"idle": {"ina260": 3.5}, "busy": {"ina260": 4.25}},
}


@pytest.fixture(scope="session")
def facts(digits: Path) -> Facts:
    return dict(json.loads((digits / "report.json").read_text()))


@pytest.fixture(scope="session")
def simulation(digits: Path) -> Facts:
    return dict(json.loads((digits / "cosim.json").read_text()))


class Reader(HTMLParser):
    """Tags, their attributes, and the text outside of styles."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.inside: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" not in self.inside:
            self.text += data


def test_every_figure_stands_beside_its_source(facts: Facts, simulation: Facts) -> None:
    read = Reader(page.render(facts, simulation, MEASURED))
    text = " ".join(read.text.split())
    cost = facts["estimate"]
    assert f"cost model estimate {cost['cycles']:,} cycles" in text.replace("modelestimate", "model estimate ").replace("  ", " ")
    for style, name in (("stp", "pipelines that stall"), ("flp", "pipelines that flush")):
        assert re.search(rf"{name} ?simulated ?{simulation['styles'][style]['cycles']:,} cycles", text)
    assert re.search(r"device, median ?measured ?20,375 cycles, 0.0815 ms", text) and "No device was measured" not in text
    assert f"{facts['activation_bits']['sqnr_db']['logits']:.1f} dB" in text
    assert all(f"{row['used']:,} of {row['available']:,}" in text for row in cost["resources"].values())
    assert re.search(r"0.0815 ms ?measured ?20,375 cycles at 250 MHz, 12,000 per second", text) and "ina260 4.25 W (idle 3.50)" in text
    assert "No device was measured" in page.render(facts, simulation)
    assert "differs from golden in 7 bytes" in page.render(facts, simulation, {**MEASURED, "mismatches": 7})


def test_a_decoder_has_times_of_its_tokens(facts: Facts) -> None:
    one = copy.deepcopy(facts)
    rows = [("decode", 0, 8000), ("decode", 8, 8100), ("prefill", 0, 5000)]
    estimates = [{"entry": entry, "position": at, "cycles": cycles, "ms": cycles / 250_000} for entry, at, cycles in rows]
    one["decoder"] = {"length": 24, "block": 8, "simulated_at": {"prefill": 0, "decode": 8}, "estimates": estimates, "cache_errors": []}
    for run in (one["simulation"]["stp"], one["simulation"]["flp"]):
        run["entries"] = {"prefill": {"cycles": 5125}, "decode": {"cycles": 8250}}
    text = " ".join(Reader(page.render(one)).text.split())
    assert re.search(r"a token, at position 8 takes ?0.033 ms ?simulated ?8,250 cycles at 250 MHz, 30,303 per second", text)
    assert re.search(r"A block of 8 tokens of a prompt, at position 0 ?cost model ?estimate ?5,000 cycles, 0.02 ms", text)
    assert "Sequences of up to 24 tokens" in text and "Of all cycles of a block of a prompt and a token" in text
    halves = {"prefill": one["estimate"]["stages"][:1], "decode": one["estimate"]["stages"][1:]}
    for entry, stages in halves.items():
        for stage in stages:
            stage["entry"] = entry
    own = {entry: {"cycles": sum(stage["cycles"] for stage in stages), "multipliers_busy_percent": 0} for entry, stages in halves.items()}
    one["estimate"]["entries"] = own
    found = by_entry(one)
    assert found.keys() == halves.keys() and all(reason.worst != halves["prefill"][0]["node"] for reason in found["decode"])
    assert {reason.worst for reason in found["prefill"]} == {halves["prefill"][0]["node"]}
    assert all(sum(reason.cycles for reason in found[entry]) <= own[entry]["cycles"] for entry in own)
    text = " ".join(Reader(page.render(one)).text.split())
    assert "Of all cycles of a token, at position 8," in text and "Of all cycles of a block of 8 tokens of a prompt, at position 0," in text
    del one["simulation"]
    assert "8,100 cycles at 250 MHz" in Reader(page.render(one)).text


def test_every_stage_layer_and_process_is_there(facts: Facts, simulation: Facts) -> None:
    read = Reader(page.render(facts, simulation))
    assert all(stage["node"] in read.text for stage in facts["estimate"]["stages"])
    assert all(layer["node"] in read.text for layer in facts["layers"])
    strips = [strip["name"] for strips in simulation["timeline"]["engines"].values() for strip in strips]
    assert strips and all(name in read.text for name in strips)
    dots = [attributes for tag, attributes in read.tags if tag == "circle"]
    products = {stage["node"] for stage in facts["estimate"]["stages"] if stage["multiply_adds"]}
    alike = sum(1 + int(more) for more in re.findall(r" and (\d+) alike: ", read.text)) + len(dots) - len(re.findall(r"alike: ", read.text))
    assert alike == len(products)
    bars = [attributes for tag, attributes in read.tags if tag == "rect"]
    weighted = sum(layer["weights"] is not None for layer in facts["layers"])
    assert len(bars) == 2 * len(facts["layers"]) + 2 * weighted  # decibels and bits of results; bits of weights and of inputs


def test_a_strip_is_as_long_as_what_it_shows(facts: Facts, simulation: Facts) -> None:
    """The area of what a process works in is its share of the run."""
    found = page.timeline._strip(
        time := page.from_facts(simulation["timeline"]).engines["engine_0"][0], page.timeline.SPENT, page.from_facts(simulation["timeline"])
    )
    path = re.search(r'd="([^"]*)" class="t-working"', found)
    assert path
    boxes = re.findall(r"M(\d+) (\d+)h(\d+)V(\d+)h-\d+z", path[1])
    area = sum(int(width) * (int(low) - int(high)) for _, low, width, high in boxes) / page.timeline.LEVELS
    assert area == pytest.approx(float(time.shares["working"].sum()), abs=0.02 * len(time.shares["working"]) + 1)


def test_reasons_are_the_largest_and_add_up(facts: Facts) -> None:
    found = reasons(facts)
    cost = facts["estimate"]
    assert len(found) == 3 and [r.cycles for r in found] == sorted((r.cycles for r in found), reverse=True)
    assert sum(r.cycles for r in found) <= cost["cycles"]
    start = next(r for r in found if r.title.startswith("Starting"))
    assert start.cycles == sum(stage["lost"].get("start", 0) for stage in cost["stages"])
    busy = copy.deepcopy(facts)
    busy["estimate"]["multipliers_busy_percent"] = 90.0
    first = reasons(busy)[0]
    assert first.title == "The work itself" and first.cycles == round(0.9 * cost["cycles"])
    assert "--utilisation " in first.change  # it takes all that a limit allows
    busy["estimate"]["resources"]["dsp"]["used"] = 10
    busy["estimate"]["resources"]["lut"]["used"] = 10
    assert "there is room" in reasons(busy)[0].change


@pytest.mark.parametrize(
    ("bound", "title"),
    [
        ("port y_4", "Memory ports"),
        ("ddr", "Memory ports"),
        ("HP1 (b_0+others)", "Memory ports"),
        ("linear_accumulate", "Process linear_accumulate"),
    ],
)
def test_what_binds_is_told_from_what_comes_one_after_the_other(facts: Facts, bound: str, title: str) -> None:
    one = copy.deepcopy(facts)
    stage = next(stage for stage in one["estimate"]["stages"] if stage["op"] == "linear")
    stage |= {"cycles": 1000, "hidden_cycles": 0, "start_cycles": 100, "bound": bound, "busy": {bound: 700}}
    stage["lost"] = {"start": 100, f"own multipliers idle, bound by {bound}": 850}
    one["estimate"] |= {"stages": [stage], "cycles": 1000, "multipliers_busy_percent": 5.0}
    assert {(r.title, r.cycles) for r in reasons(one)} == {
        (title, 650),
        ("Parts of a stage, one after the other", 200),
        ("Starting and ending instructions", 100),
    }


def test_the_floor_plan_has_every_block(facts: Facts) -> None:
    for kind in memories.NAMES:
        parts, row = memories.parts(facts, kind), facts["estimate"]["resources"][kind]
        assert sum(part.blocks for part in parts) == pytest.approx(row["used"], abs=1)
        cells = re.findall(r"<i\b", memories.floor_plan(facts, kind).partition('class="keys"')[0])
        assert len(cells) == row["available"]
    assert {"engine_0: layer_normalization.buffer", "memory ports and control"} <= {part.name for part in memories.parts(facts, "bram36")}
    large = copy.deepcopy(facts)
    large["estimate"]["resources"]["bram36"]["available"] = 2688
    assert "A cell stands for 5 blocks." in memories.floor_plan(large, "bram36")


HOSTILE = '"><script>alert(1)</script><img src=http://example.invalid/x onerror=alert(2)>{{7*7}}`x`\u202e\x1b]0;t\x07&amp;'


def renamed(value: Any, names: set[str]) -> Any:
    """A copy in which these texts are hostile, wherever they stand."""
    if isinstance(value, dict):
        return {renamed(key, names): renamed(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [renamed(inner, names) for inner in value]
    return f"{value}{HOSTILE}" if isinstance(value, str) and value in names else value


@pytest.fixture(scope="session")
def hostile(facts: Facts, simulation: Facts) -> str:
    names = {layer["node"] for layer in facts["layers"]} | {"vit_digits.onnx", "calib.npz", "logits", "kv260", facts["target"]["part"]}
    measured = {**MEASURED, HOSTILE: HOSTILE}
    return page.render(renamed(facts, names), renamed(simulation, names), measured)


def test_names_that_mean_harm_are_text(facts: Facts, simulation: Facts, hostile: str) -> None:
    read, plain = Reader(hostile), Reader(page.render(facts, simulation, {**MEASURED, "x": "x"}))
    assert [tag for tag, _ in read.tags] == [tag for tag, _ in plain.tags]
    assert [set(attributes) for _, attributes in read.tags] == [set(attributes) for _, attributes in plain.tags]
    assert "alert(1)" in read.text and "{{7*7}}" in read.text and "49" not in re.findall(r"\{\{7\*7\}\}(\d*)", read.text)
    assert not re.search("[\u202e\x1b\x07]", hostile)
    assert html.unescape("&lt;script&gt;") in read.text


def test_a_name_without_end_does_not_make_a_page_without_end(facts: Facts, simulation: Facts) -> None:
    long = "n" * 100_000
    found = page.render(renamed_to(facts, "node_linear_2", long), renamed_to(simulation, "node_linear_2", long))
    assert len(Reader(found).text) < 60_000


def renamed_to(value: Any, name: str, other: str) -> Any:
    return json.loads(json.dumps(value).replace(f'"{name}"', json.dumps(other)))


def test_the_page_asks_for_nothing(facts: Facts, simulation: Facts) -> None:
    source = page.render(facts, simulation, MEASURED)
    read = Reader(source)
    assert not {"script", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in read.tags}
    assert [attributes for tag, attributes in read.tags if tag == "link"] == [{"rel": "icon", "href": "data:,"}]
    assert "url(" not in source and "@import" not in source and not re.search(r'(src|href)="(?!data:)', source)
    policy = [attributes["content"] for tag, attributes in read.tags if attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_what_is_wrong_stands_on_top(facts: Facts) -> None:
    assert 'class="warning"' not in page.render(facts)
    bad = copy.deepcopy(facts)
    bad["estimate"]["misfit"] = "DSP 2,000 of 998"
    bad["check"] = {"unchecked": "--no-check"}
    bad["activation_bits"] |= {"missed": True, "binding": [{"node": "x", "percent": 80.0, "op": "linear", "why": "weights"}]}
    shown = re.findall(r'class="warning">([^<]*)<', page.render(bad))
    assert [text.split(":")[0] for text in shown] == [
        "Does not fit",
        "The SQNR misses its target of 30 dB",
        "The C++ was not compared with golden",
    ]
    assert "weights 80 %" in shown[1]


def test_a_build_that_was_not_simulated(facts: Facts) -> None:
    without = {key: value for key, value in facts.items() if key != "simulation"}
    text = Reader(page.render(without)).text
    assert "This build has none yet" in text and "simulated" in text and "cost model" in text
    assert "this build has none yet" in Reader(page.render(facts, {"styles": {}})).text.lower()


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        ("report.json", ("estimate", "cycles"), "many"),
        ("report.json", ("estimate", "stages"), 3),
        ("report.json", ("layers",), [{"node": "x"}]),
        ("report.json", ("layers", 0, "shape"), None),
        ("report.json", ("board", "ddr_gb_s"), 0),
        ("cosim.json", ("timeline", "bin_cycles"), 0),
        ("cosim.json", ("timeline", "bands"), [{}]),
        ("measured.json", ("latency_ms",), 4),
    ],
)
def test_damaged_files_are_one_clear_error(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, field: tuple[Any, ...], value: object
) -> None:
    build = tmp_path / "build"
    build.mkdir()
    for name in ("report.json", "cosim.json", "manifest.json"):
        shutil.copy(digits / name, build)
    (build / "measured.json").write_text(json.dumps(MEASURED))
    data = json.loads((build / file).read_text())
    inner = data
    for key in field[:-1]:
        inner = inner[key]
    inner[field[-1]] = value
    (build / file).write_text(json.dumps(data))
    assert main(["report", str(build), "-o", str(tmp_path / "r.html")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("attnc: error: ") and "is damaged" in err and "Traceback" not in err
    assert not (tmp_path / "r.html").exists()


ODD = (None, "x", "<script>", -1, 0, 1e308, float("nan"), float("inf"), [], {}, [1, 2], {"a": 1}, True, 10**40, "9" * 400)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where anything stands in a file."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(inner, (*path, key))


def test_whatever_stands_in_a_file_ends_in_a_page_or_in_an_error(facts: Facts, simulation: Facts) -> None:
    small = {"report": copy.deepcopy(facts), "simulation": copy.deepcopy(simulation), "measured": MEASURED}
    small["report"]["estimate"]["stages"], small["report"]["layers"] = facts["estimate"]["stages"][:3], facts["layers"][:4]
    small["simulation"]["styles"] = {}
    time = small["simulation"]["timeline"]
    time["engines"], time["bands"] = {name: strips[:1] for name, strips in time["engines"].items()}, time["bands"][:3]
    found, rng = [path for path in places(small) if len(path) > 1], random.Random(0)
    known: list[tuple[tuple[Any, ...], Any]] = [(("report", "estimate", "resources", "uram", "used"), 10**40)]
    for path, odd in known + [(rng.choice(found), rng.choice(ODD)) for _ in range(40)]:
        mutant = copy.deepcopy(small)
        inner: Any = mutant
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = odd
        try:
            text = page.render(*mutant.values())
        except page.DAMAGE:
            continue
        assert "<script" not in text and len(text) < 300_000, path


def test_the_command(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    output, before = tmp_path / "report.html", sorted(digits.iterdir())
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(digits), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        found["output"] == "report.html" and len(found["reasons"]) == 3 and {"title", "why", "change", "cycles"} <= set(found["reasons"][0])
    )
    first = output.read_bytes()
    assert main(["report", str(digits), "-o", str(output)]) == 0 and output.read_bytes() == first and len(first) < 300_000
    assert "page: " in capsys.readouterr().out and sorted(digits.iterdir()) == before
    measured = tmp_path / "measured.json"
    measured.write_text(json.dumps(MEASURED))
    assert main(["report", str(digits), "--measured", str(measured)]) == 0 and b"device, median" in output.read_bytes()
    capsys.readouterr()
    for args, message in (
        (["-o", str(measured), "--measured", str(measured)], "would overwrite it"),
        (["-o", str(digits / "report.json")], "would overwrite it"),
        (["-o", str(digits / "schedule.yaml")], "attnc did not make it"),
        (["--measured", str(tmp_path / "none.json")], "no such file"),
        (["-o", str(tmp_path / "none" / "r.html")], "does not exist"),
    ):
        assert main(["report", str(digits), *args]) == 2
        assert message in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 2 and capsys.readouterr().err.startswith("attnc: error: ")


WIDTHS = (390, 1280)
HARNESS = """<!doctype html><title>none</title>{frames}<script>
onload = () => {{ document.title = [...document.querySelectorAll("iframe")].map(
  (frame) => frame.contentDocument.documentElement.scrollWidth).join(" "); }};
</script>"""


def test_a_browser_finds_no_fault_and_asks_for_nothing(hostile: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(hostile)
    frames = "".join(f'<iframe src="report.html" style="border:0;width:{width}px;height:800px"></iframe>' for width in WIDTHS)
    (tmp_path / "harness.html").write_text(HARNESS.format(frames=frames))
    found = visit(f"file://{tmp_path}/harness.html", tmp_path)
    assert found.console == [] and found.requests == []
    assert f"<title>{' '.join(map(str, WIDTHS))}</title>" in found.document  # no page is wider than its window


def test_a_browser_would_tell(tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text("<!doctype html><script>nothing()</script><img src='http://example.invalid/x.png'>")
    found = visit(f"file://{tmp_path}/bad.html", tmp_path)
    assert any("nothing is not defined" in line for line in found.console) and found.requests == ["http://example.invalid/x.png"]
