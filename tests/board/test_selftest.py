"""The self-test of a board: bits, times, power, and what the report makes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from attnc.errors import BuildError
from attnc.page import _measured
from attnc_host import AcceleratorError, selftest
from attnc_host.__main__ import main
from attnc_host.integrity import OWN, manifest_checksum, sha256
from board.cases import Bench


@pytest.fixture
def sensors(tmp_path: Path) -> str:
    """One that works, with a name, and one that does not answer."""
    for number, power in enumerate(("4250000\n", "no number")):
        folder = tmp_path / "hwmon" / f"hwmon{number}"
        folder.mkdir(parents=True)
        (folder / "power1_input").write_text(power)
    (tmp_path / "hwmon" / "hwmon0" / "name").write_text("ina260_u14\n")
    return str(tmp_path / "hwmon")


def test_facts(bench: Bench, sensors: str) -> None:
    facts = selftest.selftest(bench.manifest.folder, "virtual", runs=7, sensors=sensors)
    assert (facts["vectors"], facts["bytes"], facts["mismatches"], facts["runs"]) == (3, 768, 0, 7)
    assert facts["power_watts"] == {"idle": {"hwmon0:ina260_u14": 4.25}, "busy": {"hwmon0:ina260_u14": 4.25}}
    latency, estimate = facts["latency_ms"], bench.manifest.program.seconds * 1000
    assert latency["min"] == pytest.approx(estimate, abs=0.001) and latency["min"] <= latency["p50"] <= latency["p99"] <= latency["max"]
    assert 0 < facts["throughput_per_second"] <= 1 / bench.manifest.program.seconds
    assert facts["build"] == bench.manifest.data["checksum"] and not facts["hardware"]
    shown = selftest.text(facts)
    assert "equal to golden, bit for bit" in shown and "ina260_u14 4.25 W" in shown and "no device" in shown


def test_backends_without_a_device(bench: Bench) -> None:
    facts = selftest.selftest(bench.manifest.folder, "golden", runs=2, sensors="/nowhere")
    assert facts["mismatches"] == 0 and facts["power_watts"] is None and "no sensor" in selftest.text(facts)


def damaged(bench: Bench, folder: Path) -> Path:
    """A build whose second vector expects another byte, with checksums that say so."""
    build = Path(shutil.copytree(bench.manifest.folder, folder / "build"))
    manifest = json.loads((build / "manifest.json").read_text())
    data = bytearray((build / "golden" / "expected.bin").read_bytes())
    data[bench.manifest.output_bytes + 4] ^= 1
    for name in ("golden/expected.bin", "hls/data/expected.bin"):
        (build / name).unlink()
        (build / name).write_bytes(data)
        manifest["files"][name]["sha256"] = sha256(build / name)
    (build / "manifest.json").write_text(json.dumps({**manifest, OWN: manifest_checksum(manifest)}))
    return build


def test_exit_codes(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "measured.json"
    given = ["selftest", str(bench.manifest.folder), "--backend", "virtual", "--runs", "2"]
    assert main([*given, "--output", str(output)]) == 0 and json.loads(output.read_text())["mismatches"] == 0
    assert main(["selftest", str(damaged(bench, tmp_path)), "--backend", "golden", "--runs", "1"]) == 1
    assert "1 bytes DIFFER from golden" in capsys.readouterr().out
    assert main(["selftest", str(tmp_path / "none"), "--backend", "golden"]) == 2
    assert "no such build folder" in capsys.readouterr().err
    output.unlink()
    assert main(given) == 0 and not output.exists()  # what no device did is written only where it is asked for
    with pytest.raises(AcceleratorError, match="needed 1 or more"):
        selftest.selftest(bench.manifest.folder, "golden", runs=0)


def test_the_report_takes_what_was_measured_of_this_build(bench: Bench, tmp_path: Path) -> None:
    def measured(**fields: Any) -> Path:
        path = tmp_path / "measured.json"
        path.write_text(json.dumps({"build": bench.manifest.data["checksum"], "latency_ms": {"p50": 1.0}, **fields}))
        return path

    build = bench.manifest.folder
    assert _measured(build, measured(hardware=True))["latency_ms"] == {"p50": 1.0}
    assert _measured(build, measured(hardware=False)) is None
    with pytest.raises(BuildError, match="was measured with another build"):
        _measured(build, measured(build="0" * 64, hardware=True))
