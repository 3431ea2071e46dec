"""The register map of the manifest, and what synthesis says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attnc.vendor.vitis import Run, Vitis, check_registers
from attnc_host import Accelerator, AcceleratorError
from attnc_host import manifest as manifests
from attnc_host.registers import check_synthesized
from small_build import random_inputs

HEADER = """// control
#define XATTNC_TOP_CONTROL_ADDR_AP_CTRL           0x00
#define XATTNC_TOP_CONTROL_ADDR_PROGRAM_R_DATA    0x10
#define XATTNC_TOP_CONTROL_BITS_PROGRAM_R_DATA    64
#define XATTNC_TOP_CONTROL_ADDR_LOAD_0_DATA       0x1c
#define XATTNC_TOP_CONTROL_ADDR_WEIGHTS_0_DATA    0x28
#define XATTNC_TOP_CONTROL_ADDR_RESULT_0_DATA     0x34
#define XATTNC_TOP_CONTROL_ADDR_INSTRUCTIONS_DATA 0x40
#define XATTNC_TOP_CONTROL_ADDR_STATUS_DATA       0x48
#define XATTNC_TOP_CONTROL_ADDR_STATUS_CTRL       0x50
"""
OFFSETS = {"CTRL": 0, "program_r_1": 16, "program_r_2": 20, "load_0_1": 28, "load_0_2": 32, "weights_0_1": 40, "weights_0_2": 44,
           "result_0_1": 52, "result_0_2": 56, "instructions": 64, "status_1": 72, "status_2": 76, "status_ctrl": 80}  # fmt: skip


def change(build: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads((build / "manifest.json").read_text())
    edit(data)
    (build / "manifest.json").write_text(json.dumps(data))


def hwh(offsets: dict[str, int]) -> str:
    rows = "".join(
        f'<REGISTER NAME="{name}"><PROPERTY NAME="ADDRESS_OFFSET" VALUE="{offset}"/></REGISTER>' for name, offset in offsets.items()
    )
    return (
        f'<?xml version="1.0"?><EDKSYSTEM><MODULES><MODULE MODTYPE="attnc_top"><REGISTERS>{rows}</REGISTERS></MODULE></MODULES></EDKSYSTEM>'
    )


def test_offsets_are_those_of_the_guide(shared_build: Path) -> None:
    """UG1399: arguments from 0x10; pointers of 64 bits 0x0c apart, a scalar of 32 takes 8 bytes."""
    registers = manifests.load(shared_build).registers
    assert {one.name: one.offset for one in registers.arguments} == {
        "program": 0x10, "load_0": 0x1C, "weights_0": 0x28, "result_0": 0x34, "instructions": 0x40, "status": 0x48
    }  # fmt: skip
    assert [one.memory for one in registers.of("pointer")] == ["program", "memory", "weights", "memory"]
    header = (shared_build / "hls" / "attnc_top.hpp").read_text()
    assert f"IDENTITY = {registers.identity:#010x};" in header and registers.scalars == ()


def test_the_test_bench_holds_the_status(build: Path) -> None:
    top = build / "hls" / "attnc_top.cpp"
    line = "  *status = attnc_design::status_of(instructions);\n"
    assert line in top.read_text()
    top.write_text(top.read_text().replace(line, ""))
    with Accelerator.open(build, "csim", verify=False) as device, pytest.raises(AcceleratorError, match="status does not say that all"):
        device.run(random_inputs(1))


@pytest.mark.parametrize("suffix", ["_hw.h", ".hwh"])
def test_what_was_synthesized_must_agree(suffix: str, shared_build: Path, tmp_path: Path) -> None:
    registers = manifests.load(shared_build).registers
    path = tmp_path / f"xattnc_top{suffix}"
    whole, moved = (HEADER, HEADER.replace("0x28", "0x30")) if suffix == "_hw.h" else (hwh(OFFSETS), hwh({**OFFSETS, "weights_0_1": 0x30}))
    path.write_text(whole)
    check_synthesized(registers, path, "attnc_top")
    path.write_text(moved)
    with pytest.raises(AcceleratorError, match="'weights_0' is at 0x30, in the manifest at 0x28"):
        check_synthesized(registers, path, "attnc_top")
    path.write_text(whole.replace("instructions", "steps").replace("INSTRUCTIONS", "STEPS"))
    with pytest.raises(AcceleratorError, match="no register 'instructions', which the manifest has at 0x40"):
        check_synthesized(registers, path, "attnc_top")
    path.write_text("<x/>" if suffix == ".hwh" else "")
    with pytest.raises(AcceleratorError, match="has no registers of attnc_top"):
        check_synthesized(registers, path, "attnc_top")


def test_what_vitis_leaves_is_compared(shared_build: Path, tmp_path: Path) -> None:
    manifest, folder = manifests.load(shared_build), tmp_path / "attnc_top_project" / "solution" / "impl" / "ip" / "drivers" / "src"
    folder.mkdir(parents=True)
    run = Run(Vitis(Path("vitis_hls")), tmp_path, tmp_path / "log", None)
    (folder / "xattnc_top_hw.h").write_text(HEADER)
    check_registers(run, manifest)
    (folder / "xattnc_top_hw.h").write_text(HEADER.replace("0x48", "0x44"))
    with pytest.raises(AcceleratorError, match="'status' is at 0x44, in the manifest at 0x48"):
        check_registers(run, manifest)


@pytest.mark.parametrize("text, message", [("<x", "not valid XML"), ('<!DOCTYPE x [<!ENTITY a "b">]><x/>', "without a DOCTYPE")])
def test_a_hardware_description_is_not_trusted(text: str, message: str, shared_build: Path, tmp_path: Path) -> None:
    (tmp_path / "x.hwh").write_text(text)
    with pytest.raises(AcceleratorError, match=message):
        check_synthesized(manifests.load(shared_build).registers, tmp_path / "x.hwh", "attnc_top")


@pytest.mark.parametrize(
    "edit, message",
    [
        ({"protocol": "ap_ctrl_chain"}, "needed 'ap_ctrl_hs'"),
        ({"identity": 0}, "registers.identity"),
        ({"bytes": 8}, "registers.bytes"),
    ],
)
def test_a_map_that_makes_no_sense_is_refused(edit: dict[str, object], message: str, build: Path) -> None:
    change(build, lambda data: data["registers"].update(edit))
    with pytest.raises(AcceleratorError, match=message):
        manifests.load(build, verify=False)


@pytest.mark.parametrize(
    "number, edit", [(1, {"offset": 0x14}), (1, {"bits": 48}), (0, {"kind": "fifo"}), (2, {"memory": "disk"}), (5, {"name": "load_0"})]
)
def test_arguments_that_make_no_sense_are_refused(number: int, edit: dict[str, object], build: Path) -> None:
    change(build, lambda data: data["registers"]["arguments"][number].update(edit))
    with pytest.raises(AcceleratorError, match="field 'registers"):
        manifests.load(build, verify=False)
