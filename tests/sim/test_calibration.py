"""II and depth of loops from synthesis reports: whose they are, what is taken, and what a simulation makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attnc.cli import main
from attnc.errors import DataError
from attnc.kernels.loops import LOOPS
from attnc.sim.calibration import read_calibration
from attnc.verify.csynth import read_csynth

Loops = dict[str, tuple[object, object]]


def loops_xml(loops: Loops) -> str:
    """As a report lists loops: an element each, named after the label."""
    rows = "".join(
        f"<{label}><TripCount><range><min>1</min><max>9</max></range></TripCount><Latency>30 ~ 541</Latency>"
        f"<PipelineII>{ii}</PipelineII><PipelineDepth>{depth}</PipelineDepth><InstanceList/></{label}>"
        for label, (ii, depth) in loops.items()
    )
    return f"<SummaryOfLoopLatency>{rows}</SummaryOfLoopLatency>"


def estimates_xml(loops: Loops, style: str = "flp") -> str:
    return (
        f"<PerformanceEstimates><PipelineType>loop auto-rewind {style} (delay=0 cycles)</PipelineType>"
        f"<SummaryOfOverallLatency/>{loops_xml(loops)}</PerformanceEstimates>"
    )


def report(path: Path, modules: dict[str, Loops], top: str = "attnc_top", own: Loops | None = None) -> Path:
    """A report of a design and its modules, or of one module with loops of its `own`."""
    inner = "".join(f"<Module><Name>{name}</Name>{estimates_xml(loops)}</Module>" for name, loops in modules.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<profile><UserAssignments><TopModelName>{top}</TopModelName></UserAssignments>{estimates_xml(own or {}, 'none')}"
        f"<ModuleInformation>{inner}</ModuleInformation></profile>"
    )
    return path


def test_loops_of_a_module(tmp_path: Path) -> None:
    """With those inside others; without a pipeline an iteration begins when the one before ends."""
    text = (
        "<profile><PerformanceEstimates><SummaryOfLoopLatency>"
        "<OUTER><Name>OUTER</Name><TripCount>3</TripCount><Latency>undef</Latency><IterationLatency>undef</IterationLatency>"
        "<INNER><Name>INNER</Name><PipelineII>2</PipelineII><PipelineDepth>30</PipelineDepth></INNER></OUTER>"
        "<SLOW><TripCount>3</TripCount><IterationLatency>5</IterationLatency><PipelineII>-</PipelineII></SLOW>"
        "</SummaryOfLoopLatency></PerformanceEstimates></profile>"
    )
    (tmp_path / "csynth.xml").write_text(text)
    assert read_csynth(tmp_path / "csynth.xml").top.loops == (("INNER", 2, 30), ("SLOW", 5, 5))


def test_modules_name_functions_and_the_largest_is_taken(tmp_path: Path) -> None:
    found = read_calibration(
        report(
            tmp_path / "csynth.xml",
            {
                "linear_accumulate_ap_int_8_ap_int_8_s_Pipeline_MULTIPLY": {"MULTIPLY": (1, 14)},
                "linear_accumulate_ap_int_8_ap_int_8_1_Pipeline_MULTIPLY": {"MULTIPLY": (2, 12)},
                "depthwise_ap_int_16_s": {"MULTIPLY": (1, 9)},
                "softmax_scores_Pipeline_SCORES": {"SCORES": (1, 21)},
                "p_anonymous_namespace_engine_0_operands": {"TAKE_RUN": (1, 7)},  # inlined, and no other function has it
                "engine_1_0_attention_processes": {"NORMALISE": (1, 6)},  # inlined, and two functions have it
                "load_words_2_16_2_s": {"LOAD_WORDS_2": (1, 4), "VITIS_LOOP_9_1": (1, 2)},
            },
        )
    )
    assert found.loops == {
        "linear_accumulate.MULTIPLY": (2, 14),
        "depthwise.MULTIPLY": (1, 9),
        "softmax_scores.SCORES": (1, 21),
        "take_run.TAKE_RUN": (1, 7),
        "load_words_2.LOAD_WORDS_2": (1, 4),
    }
    assert found.unknown == ("engine_1_0_attention_processes: NORMALISE", "load_words_2_16_2_s: VITIS_LOOP_9_1")
    assert len(found.modules["linear_accumulate.MULTIPLY"]) == 2 and found.styles == ("flp",)
    timing = found.timing
    assert timing.keys() == LOOPS.keys() and (timing["depthwise.MULTIPLY"].ii, timing["depthwise.MULTIPLY"].depth) == (1, 9)
    assert timing["linear_rescale.RESCALE"].depth == LOOPS["linear_rescale.RESCALE"].depth


def test_facts_name_what_one_side_alone_has(tmp_path: Path) -> None:
    loops = {"store_16_s": {"STORE": (1, 9)}, "tee_s": {"TEE": (3, 4)}}
    facts = read_calibration(report(tmp_path / "csynth.xml", loops)).facts(["store.STORE", "load.LOAD"])
    reasoned = LOOPS["store.STORE"]
    (taken,) = facts["taken"]
    assert taken == {
        "loop": "store.STORE", "modules": 1, "ii": 1, "depth": 9, "reasoned_ii": reasoned.ii, "reasoned_depth": reasoned.depth
    }  # fmt: skip
    assert (facts["not_in_the_report"], facts["not_in_the_build"], facts["unknown"]) == (["load.LOAD"], ["tee.TEE"], [])


@pytest.mark.parametrize("inner", ["", "syn/report"])
def test_a_folder_of_reports(tmp_path: Path, inner: str) -> None:
    folder = tmp_path / inner
    report(folder / "csynth.xml", {"store_s": {"STORE": (1, 9)}})
    report(folder / "load_s_csynth.xml", {}, "load_s", {"LOAD": (1, 8)})
    (folder / "csynth_design_size.xml").write_text("<other/>")
    assert read_calibration(tmp_path).loops == {"store.STORE": (1, 9), "load.LOAD": (1, 8)}


def test_what_is_no_report_of_a_design_of_attnc(tmp_path: Path) -> None:
    def refused(path: Path, message: str) -> None:
        with pytest.raises(DataError, match=message):
            read_calibration(path)

    refused(
        report(tmp_path / "a.xml", {"main": {"VITIS_LOOP_3_1": (1, 2)}}), "needed the synthesis report of an attnc design.*VITIS_LOOP_3_1"
    )
    refused(report(tmp_path / "b.xml", {}), "no pipelined loop at all")
    refused(report(tmp_path / "c.xml", {"store_s": {"STORE": (0, 9)}}), "loop STORE of store_s: needed II and depth from 1 to 10000")
    refused(report(tmp_path / "d.xml", {"store_s": {"STORE": (1, 10**9)}}), "found 1 and 1000000000")
    refused(tmp_path / "none.xml", "cannot be read")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "found none")


def simulated_facts(build: Path, capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, dict[str, object]]:
    assert main(["cosim", str(build), "--json", *args]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_a_simulation_with_the_loops_of_a_report(build: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usual = simulated_facts(build, capsys)
    reasoned = LOOPS["store.STORE"]
    same = report(tmp_path / "same.xml", {"store_4_s": {"STORE": (reasoned.ii, reasoned.depth)}})
    deep = report(tmp_path / "csynth.xml", {"store_4_s": {"STORE": (reasoned.ii, reasoned.depth + 50)}})
    found = [simulated_facts(build, capsys, "--calibrate", str(path)) for path in (same, deep)]
    for style, run in usual["styles"].items():
        assert [one["styles"][style]["cycles"] - run["cycles"] for one in found] == [0, 50]  # type: ignore[index]
    assert found[1]["assumed"]["loops"].startswith("1 of ") and "from csynth.xml" in str(found[1]["assumed"]["loops"])  # type: ignore[attr-defined]
    assert main(["cosim", str(build), "--calibrate", str(deep)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Loops from csynth.xml" in out and "store.STORE" in out and "the report does not name, so they are as reasoned: " in out


def test_a_broken_report_is_one_error(build: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "csynth.xml"
    path.write_text("<profile><PerformanceEstimates>")
    assert main(["cosim", str(build), "--calibrate", str(path)]) == 2
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1 and "csynth.xml: not valid XML" in err
