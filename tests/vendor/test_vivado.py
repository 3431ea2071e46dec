"""What takes a build to a board: the block design evaluated by Tcl with stand-ins that know IP, pins, properties and addresses; the device
tree by dtc; everything held against the manifest and the interfaces of the emitted C++."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from attnc.codegen.platform_files import Wiring, platform_facts, write_platform
from attnc.codegen.processing_system import ULTRASCALE, system_of
from attnc.codegen.render import environment
from attnc.schedule.devices import BOARDS, Board
from attnc_host import manifest as manifests
from attnc_host.boards.uio import UioDevice
from attnc_host.store import Store
from attnc_host.virtual.system import VirtualSystem
from debian import needs
from vendor.scripts import ODD, needs_tcl

STAND_IN = Path(__file__).with_name("vivado.tcl")
ZYNQ_BOARDS = ("kv260", "zcu102", "zcu104", "ultra96", "pynq-z2", "aup-zu3")
BUNDLES = ("program", "load_0", "load_1", "weights_0", "wideweights_0")
SHARED = (5 << 32) + (3 << 12)
needs_dtc = needs("device-tree-compiler")


def wiring(board: Board, bundles: Sequence[str] = BUNDLES) -> Wiring:
    ports = {bundle: board.ports[i % len(board.ports)] for i, bundle in enumerate(bundles)}
    return Wiring("attnc_top", ports, board.clock_mhz, SHARED)


def written(folder: Path, board: Board, bundles: Sequence[str] = BUNDLES) -> Path:
    write_platform(environment(), folder, board, wiring(board, bundles))
    return folder


def vivado(
    build: Path, work: Path, bundles: Sequence[str] = BUNDLES, args: Sequence[object] | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    """build.tcl, run in `work`; its record is `work.record`."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "attnc_top_ip.zip").touch()
    given = ["attnc_top_ip.zip"] if args is None else args
    command = ["tclsh", STAND_IN, build / "vivado" / "build.tcl", work.parent / "record", *map(str, given)]
    env = {**os.environ, "STAND_IN_BUNDLES": " ".join(bundles), **environ}
    return subprocess.run(command, cwd=work, capture_output=True, text=True, env=env)


def made(record: Path) -> dict[str, dict[str, str]]:
    """What the stand-ins have in the end: cells, what is set, connections, addresses."""
    found: dict[str, dict[str, str]] = {"cell": {}, "value": {}, "peer": {}, "net": {}, "mapped": {}}
    for line in record.with_name("record.design").read_text().splitlines():
        kind, key, value = line.split("\t")
        found[kind][key] = value
    return found


@needs_tcl
@pytest.mark.parametrize("name", ZYNQ_BOARDS)
def test_block_design_of_every_board(name: str, tmp_path: Path) -> None:
    board = BOARDS[name]
    system = system_of(board)
    assert system is not None
    build = written(tmp_path / ODD / "build", board)
    done = vivado(build, tmp_path / ODD / "work")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / ODD / "work").iterdir()} >= {
        "attnc.bit",
        "attnc.hwh",
        "attnc.xsa",
        "timing.rpt",
        "utilization.rpt",
    }
    design = made(tmp_path / ODD / "record")
    facts = platform_facts(board, wiring(board))
    assert design["cell"]["ps"] == system.ip and design["cell"][facts["instance"]] == "attnc_top"
    clock = design["value"][f"ps,{system.frequency}"]
    assert float(clock) == board.clock_mhz
    # Every interface reaches the port that the plan has for it, at the width that the plan counts with.
    for interface, tag in facts["ports"].items():
        through = design["peer"][f"/attnc_0/{interface}"].split("/")[1]
        port = design["peer"][f"/{through}/M00_AXI"]
        assert port == f"/ps/{system.ports[tag].interface}"
        (width,) = [value for key, value in system.ports[tag].opened.items() if key.endswith("DATA_WIDTH")]
        assert design["value"]["ps," + next(k for k in system.ports[tag].opened if k.endswith("WIDTH"))] == width == str(board.axi_bits)
    registers = facts["registers"]
    assert design["mapped"]["/ps/Data,/attnc_0/s_axi_control/Reg"] == f"{registers['address']} {registers['bytes']}"
    outside = [key for key, place in design["mapped"].items() if place == ""]
    assert all("_DDR_" not in key for key in outside) and bool(outside) == (system is ULTRASCALE)
    assert design["net"][f"/ps/{system.interrupt}"] == "/attnc_0/interrupt"
    assert len({net for pin, net in design["net"].items() if pin.lower().endswith(("clk", "aclk"))}) == 1
    others = [key for key, value in design["value"].items() if "_USE_" in key and "AXI" in key and value == "1"]
    assert len(others) == 1 + len({*facts["ports"].values()})  # nothing is open but what is used


@needs_tcl
def test_interfaces_of_the_emitted_design(shared_build: Path, tmp_path: Path) -> None:
    """The AXI interfaces that Vitis HLS makes are those of the pragmas; the scripts know the same, wherever the build lies."""
    source = (shared_build / "hls" / "attnc_top.cpp").read_text()
    bundles = sorted(set(re.findall(r"INTERFACE m_axi port = \w+ bundle = (\w+)", source)))
    manifest = json.loads((shared_build / "manifest.json").read_text())
    assert sorted(manifest["platform"]["ports"]) == [f"m_axi_{bundle}" for bundle in bundles]
    assert vivado(shared_build, tmp_path / "work", bundles).returncode == 0
    other = vivado(shared_build, tmp_path / "other" / "work", [*bundles, "load_7"])
    assert other.returncode == 1 and "the IP is not of this build" in other.stderr and "m_axi_load_7" in other.stderr
    pool = manifest["platform"]["pool"]["bytes"]  # weights, program and two samples, all small
    assert pool == 4 * 4096
    assert all(f"{folder}/" in " ".join(manifest["files"]) for folder in ("vivado", "vitis", "firmware/attnc"))


@needs_tcl
def test_more_interfaces_than_a_smartconnect_takes(tmp_path: Path) -> None:
    board = BOARDS["kv260"].model_copy(update={"ports": ("HP0",)})
    bundles = [f"load_{i}" for i in range(35)]
    done = vivado(written(tmp_path / "build", board, bundles), tmp_path / "work", bundles)
    assert done.returncode == 0, done.stderr
    sizes = {key: value for key, value in made(tmp_path / "record")["value"].items() if key.endswith("NUM_SI")}
    assert sizes == {
        "control,NUM_SI": "1",
        "memory_HP0,NUM_SI": "3",
        **{f"memory_HP0_{i},NUM_SI": n for i, n in enumerate(("16", "16", "3"))},
    }


@needs_tcl
def test_what_build_tcl_refuses(tmp_path: Path) -> None:
    build = written(tmp_path / "build", BOARDS["kv260"])
    for args in ([], ["absent.zip"], ["attnc_top_ip.zip", "2", "3"]):
        done = vivado(build, tmp_path / "work", args=args)
        assert done.returncode == 1 and "needed the zip of the IP" in done.stderr
    done = vivado(build, build / "vivado" / "work")
    assert done.returncode == 1 and "outside of the build" in done.stderr
    done = vivado(build, tmp_path / "work", STAND_IN_FAILS="1")
    assert done.returncode == 1 and "no bitstream" in done.stderr and "runme.log" in done.stderr
    done = vivado(build, tmp_path / "work", STAND_IN_SLACK="setup 0.1 hold -0.02")
    assert done.returncode == 1 and "hold slack of -0.02 ns at 250 MHz" in done.stderr and (tmp_path / "work" / "timing.rpt").is_file()
    assert not (tmp_path / "work" / "attnc.bit").exists()
    away = BOARDS["kv260"].model_copy(update={"board_part": "xilinx.com:kv261"})
    done = vivado(written(tmp_path / "away", away), tmp_path / "work")
    assert done.returncode == 1 and "needed the board files xilinx.com:kv261" in done.stderr


@needs_tcl
def test_a_board_without_board_files(tmp_path: Path) -> None:
    board = Board(name="mine", part="xc7z010clg400-1", lut=1, ff=1, dsp=1, bram36=1, ddr_gb_s=1, axi_bits=64, ports=("HP0", "HP2"))
    done = vivado(written(tmp_path / "build", board), tmp_path / "work")
    assert done.returncode == 0, done.stderr


FAULTS = [
    ("design.tcl", "PSU__USE__S_AXI_GP2 1", "PSU__USE_S_AXI_GP2 1", "has no property 'PSU__USE_S_AXI_GP2'"),
    ("design.tcl", "PSU__SAXIGP2__DATA_WIDTH 128", "PSU__SAXIGP2__DATA_WIDTH 256", "cannot be '256'"),
    ("design.tcl", "REF_CTRL__FREQMHZ 250", "REF_CTRL__FREQMHZ 250MHz", "cannot be '250MHz'"),
    ("design.tcl", "CONFIG.PSU__USE__S_AXI_GP6 0", "", "saxi_lpd_aclk is not connected"),
    ("design.tcl", "CONFIG.PSU__USE__IRQ0 1", "CONFIG.PSU__USE__IRQ0 0", "nothing matches 'ps/pl_ps_irq0'"),
    ("design.tcl", "ps/saxihp0_fpd_aclk", "ps/saxihp0_aclk", "nothing matches 'ps/saxihp0_aclk'"),
    ("design.tcl", "lappend clocked ps/saxihp3_fpd_aclk", "", "saxihp3_fpd_aclk is not connected"),
    ("design.tcl", "ps/S_AXI_HP0_FPD", "ps/S_AXI_HP0", "nothing matches 'ps/S_AXI_HP0'"),
    ("design.tcl", "ps/S_AXI_HP1_FPD", "ps/S_AXI_HP0_FPD", "is connected already"),
    ("design.tcl", "reset/peripheral_aresetn", "reset/peripheral_reset", "pins of one kind"),
    ("design.tcl", "ps/pl_clk0", "ps/pl_resetn0", "pins of one kind"),
    ("design.tcl", "xilinx.com:ip:smartconnect", "xilinx.com:ip:smart_connect", "no IP 'xilinx.com:ip:smart_connect'"),
    ("design.tcl", "bd_rule:zynq_ultra_ps_e", "bd_rule:zynq_ultra_ps", "no rule"),
    ("design.tcl", 'apply_board_preset "1"', 'apply_board_presets "1"', "takes no 'apply_board_presets'"),
    ("design.tcl", "CONFIG.NUM_SI [llength $sources]", "CONFIG.NUM_SI 1", "nothing matches"),
    ("design.tcl", "CONFIG.NUM_SI [llength $sources]", "CONFIG.NUM_SI 4", "is not connected"),
    ("design.tcl", "0xA0000000", "0x60000000", "lies outside of what M_AXI_HPM0_FPD reaches"),
    ("design.tcl", "0xA0000000", "0xA0001000", "at a multiple"),
    ("design.tcl", "SAXIGP2/*", "SAXIGP3/*", "no path from"),
    ("design.tcl", "SAXIGP2/*", "S_AXI_HP0/*", "nothing matches"),
    ("design.tcl", "exclude_bd_addr_seg -target_address_space $space $segment", "list", "has no place in"),
    ("design.tcl", "assign_bd_address -target_address_space", "assign_bd_address -target_addr_space", "unknown option"),
    ("design.tcl", "connect_bd_intf_net", "connect_bd_intf_nets", "invalid command name"),
    ("design.tcl", "    validate_bd_design\n", "", "no valid yet"),
    ("build.tcl", "-to_step write_bitstream", "-to_step write_bitstreams", "unknown step"),
    ("build.tcl", "get_property PROGRESS", "get_property PROGRES", "a run has no property 'PROGRES'"),
    ("build.tcl", "set_property ip_repo_paths", "set_property ip_repo_path", "a project has no property 'ip_repo_path'"),
    ("build.tcl", "set_property board_part $board [current_project]", "", "no board yet"),
    ("build.tcl", "attnc_wrapper [current_fileset]", "attnc [current_fileset]", "no module 'attnc'"),
    ("build.tcl", "-fileset constrs_1", "-fileset constraints", "no fileset 'constraints'"),
    ("build.tcl", "update_ip_catalog -add_ip $ip -repo_path [file normalize ip]", "", "needed one attnc_top in the IP catalog, found 0"),
    ("attnc.xdc", "COMPRESS TRUE", "COMPRESS YES", "cannot be 'YES'"),
    ("attnc.xdc", "GENERAL.COMPRESS", "GENERAL.COMPRESSED", "has no property"),
]


@needs_tcl
def test_planted_faults_are_found(tmp_path: Path) -> None:
    build = written(tmp_path / "build", BOARDS["kv260"])
    assert vivado(build, tmp_path / "work").returncode == 0
    for name, right, wrong, said in FAULTS:
        path = build / "vivado" / name
        text = path.read_text()
        assert right in text, right
        path.write_text(text.replace(right, wrong))
        done = vivado(build, tmp_path / "work")
        path.write_text(text)
        assert done.returncode == 1 and said in done.stderr, (right, wrong, done.stderr)


@needs_tcl
def test_planted_faults_on_zynq_7000(tmp_path: Path) -> None:
    build = written(tmp_path / "build", BOARDS["pynq-z2"])
    path = build / "vivado" / "design.tcl"
    for right, wrong, said in (
        ("PCW_S_AXI_HP0_DATA_WIDTH 64", "PCW_S_AXI_HP0_DATA_WIDTH 128", "cannot be '128'"),
        ("PCW_USE_FABRIC_INTERRUPT", "PCW_USE_FABRIC_INTERUPT", "has no property"),
        ("CONFIG.PCW_USE_M_AXI_GP1 0", "", "M_AXI_GP1_ACLK is not connected"),
        ("FCLK_CLK0", "FCLK_CLK_0", "nothing matches"),
        ("0x43C00000", "0xA0000000", "lies outside of what M_AXI_GP0 reaches"),
        ('"FIXED_IO, DDR"', '"FIXED_IO,DDR"', "takes no 'make_external'"),
    ):
        text = path.read_text()
        assert right in text, right
        path.write_text(text.replace(right, wrong))
        done = vivado(build, tmp_path / "work")
        path.write_text(text)
        assert done.returncode == 1 and said in done.stderr, (right, done.stderr)


LINK = {
    "general": {"platform": re.compile(r"xilinx_\w+")},
    "connectivity": {
        "nk": re.compile(r"[A-Za-z]\w*:1:\w+"),
        "sp": re.compile(r"\w+\.m_axi_\w+:(HPC?[0-3]|(DDR|HBM)\[\d+\])"),
    },
    "clock": {"freqHz": re.compile(r"\d+:\w+"), "defaultFreqHz": re.compile(r"\d+")},
}
"""Sections and keys of a configuration for `v++ -l` (UG1702), of those that matter here, with their values."""


def settings(text: str) -> list[tuple[str, str, str]]:
    """Section, key and value of each line; fails for what v++ does not know."""
    found, section = [], "general"
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            assert section in LINK and key in LINK[section], line
            assert LINK[section][key].fullmatch(value), line
            found.append((section, key, value))
    return found


@pytest.mark.parametrize("name", BOARDS)
def test_link_configuration(name: str, tmp_path: Path) -> None:
    board = BOARDS[name]
    found = settings((written(tmp_path, board) / "vitis" / "link.cfg").read_text())
    assert {value for _, key, value in found if key == "sp"} == {f"attnc_top_1.m_axi_{b}:{t}" for b, t in wiring(board).ports.items()}
    assert [value for _, key, value in found if key != "sp"] == [
        *([board.platform] if board.platform else []), "attnc_top:1:attnc_top_1", f"{board.clock_mhz * 1e6:.0f}:attnc_top_1",
    ]  # fmt: skip
    assert bool(board.platform) != (name in ZYNQ_BOARDS)
    assert sorted(path.name for path in tmp_path.iterdir()) == (["firmware", "vitis", "vivado"] if name in ZYNQ_BOARDS else ["vitis"])


@pytest.mark.parametrize(
    ("right", "wrong"), [("freqHz", "freqhz"), ("sp=", "ps="), ("[clock]", "[clocks]"), ("HBM[0]", "HBM0]"), ("nk=", "nk=1:")]
)
def test_planted_faults_in_the_link_configuration(right: str, wrong: str, tmp_path: Path) -> None:
    text = (written(tmp_path, BOARDS["u50"]) / "vitis" / "link.cfg").read_text()
    assert right in text
    with pytest.raises(AssertionError):
        settings(text.replace(right, wrong))


class Memory:
    """A bus of memory alone."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)

    def to_memory(self, at: int, data: bytes) -> None:
        self.data[at : at + len(data)] = data

    def from_memory(self, at: int, size: int) -> bytes:
        return bytes(self.data[at : at + size])


def test_the_overlay_brings_what_the_runtime_looks_for(shared_build: Path, tmp_path: Path) -> None:
    """The UIO device by its name, and memory for the weights, the program and two samples, no page more."""
    manifest = manifests.load(shared_build)
    facts = manifest.data["platform"]
    size = facts["pool"]["bytes"]
    tree = (shared_build / "firmware" / "attnc" / "attnc.dtso").read_text()
    assert f"size = <{size:#x}>" in tree and f"\t{facts['uio']}@" in tree
    system = VirtualSystem(Memory(size), tmp_path, facts["uio"], pool=size)  # type: ignore[arg-type]
    device = UioDevice(manifest, system=system)
    store = Store(manifest, device, coherent=False)
    store.load()
    assert len(store.slots) == 2 and facts["registers"]["bytes"] >= manifest.registers.bytes
    with pytest.raises(MemoryError, match="in use: "):
        device.allocate(4096, "memory")
    device.close()


def test_devices_without_a_processing_system() -> None:
    board = BOARDS["kv260"]
    others = ({"part": "xcku115-flvb2104-2-e"}, {"part": "xc7k325tffg900-2"}, {"part": "xcvu9p-flga2104-2L-e"}, {"ports": ("DDR[0]",)})
    assert [system_of(board.model_copy(update=change)) for change in others] == [None] * len(others)
    assert system_of(board.model_copy(update={"part": "XCZU5EV-sfvc784-1-e", "ports": ("HPC0",)})) is ULTRASCALE


def test_the_same_board_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (written(tmp_path / name, BOARDS["kv260"]) for name in "ab")
    paths = [path.relative_to(first) for path in sorted(first.rglob("*")) if path.is_file()]
    assert len(paths) == 7 and all((first / path).read_bytes() == (second / path).read_bytes() for path in paths)


@pytest.mark.parametrize("name", ["kv260", "pynq-z2"])
def test_firmware_folder(name: str, tmp_path: Path) -> None:
    board = BOARDS[name]
    folder = written(tmp_path, board) / "firmware" / "attnc"
    facts = platform_facts(board, wiring(board))
    shell = json.loads((folder / "shell.json").read_text())
    assert shell["shell_type"] in ("XRT_FLAT", "PL_FLAT", "PL_DFX") and int(shell["num_slots"]) == shell["num_pl_slots"] == 1
    tree = (folder / "attnc.dtso").read_text()
    bitstream = re.search(r"^\s*(\S+\.bit)$", (folder / "attnc.bif").read_text(), re.M)
    assert bitstream and f'firmware-name = "{bitstream[1]}.bin"' in tree
    assert f"{facts['uio']}@{facts['registers']['address']:x} {{" in tree and f"interrupts = <0 {facts['interrupt']} 4>;" in tree
    assert f"assigned-clock-rates = <{board.clock_mhz * 1e6:.0f}>" in tree
    system = system_of(board)
    assert system is not None
    if system is ULTRASCALE:  # read and write channel of SAXIGP2 to 5 to 128 bits; 128 for the masters
        assert "config-afi = <4 0>, <5 0>, <6 0>, <7 0>, <8 0>, <9 0>, <10 0>, <11 0>, <14 0xa00>;" in tree
    else:
        assert re.findall(r"reg = <(\S+) 0x1000>;\s+xlnx,afi-width = <0>", tree) == [f"0xf800{digit}000" for digit in "89ab"]
    (pool,) = re.findall(r'device-name = "(\S+)";\s+size = <0x5 0x3000>', tree)
    assert facts["pool"] == {"device": pool, "bytes": SHARED}


def test_the_table_of_boards_in_the_guide() -> None:
    text = (Path(__file__).parents[2] / "docs" / "board.md").read_text()
    rows = []
    for name in ZYNQ_BOARDS:
        board = BOARDS[name]
        facts = platform_facts(board, wiring(board))
        ports, place = f"{' '.join(board.ports)}, {board.axi_bits}", f"0x{facts['registers']['address']:08X}"
        rows.append(f"| `{name}` | {board.part} | {board.board_part} | {ports} | {place} | {facts['interrupt'] + 32} |")
    assert sorted(re.findall(r"^\| `\S+` \| xc\S+ \|.*\|$", text, re.M)) == sorted(rows)


BASE = """/dts-v1/;
/ {{
	#address-cells = <{cells}>;
	#size-cells = <{cells}>;
	fpga_full: fpga-region {{ compatible = "fpga-region"; }};
	clkc: zynqmp_clk: clocks {{ #clock-cells = <1>; }};
	zynqmp_reset: resets {{ #reset-cells = <1>; }};
	amba: axi {{
		compatible = "simple-bus";
		#address-cells = <{cells}>;
		#size-cells = <{cells}>;
		ranges;
		intc: gic: interrupt-controller@f9010000 {{ reg = <{place}>; interrupt-controller; #interrupt-cells = <3>; }};
	}};
}};
"""


@needs_dtc
@pytest.mark.parametrize("name", ["kv260", "pynq-z2"])
def test_overlay_compiles_and_applies(name: str, tmp_path: Path) -> None:
    """Onto a tree with the labels that Linux' own trees of these devices have."""

    def run(*args: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(arg) for arg in args], capture_output=True, text=True, cwd=tmp_path)

    board = BOARDS[name]
    folder = written(tmp_path, board) / "firmware" / "attnc"
    wide = system_of(board) is ULTRASCALE
    (tmp_path / "base.dts").write_text(BASE.format(cells=1 + wide, place="0 0xf9010000 0 0x1000" if wide else "0xf9010000 0x1000"))
    assert run("dtc", "-@", "-O", "dtb", "-o", "base.dtb", "base.dts").returncode == 0
    overlay = run("dtc", "-@", "-O", "dtb", "-o", "attnc.dtbo", folder / "attnc.dtso")
    assert (overlay.returncode, overlay.stderr) == (0, "")
    assert run("fdtoverlay", "-i", "base.dtb", "-o", "all.dtb", "attnc.dtbo").returncode == 0
    all_of_it = run("dtc", "-I", "dtb", "-O", "dts", "all.dtb").stdout
    assert f"attnc_top@{platform_facts(board, wiring(board))['registers']['address']:x} {{" in all_of_it and "attnc-memory {" in all_of_it
    text = (folder / "attnc.dtso").read_text()
    for right, wrong in (("&fpga_full", "&fpga_ful"), ("interrupts = <0", "interrupts = <zero"), ('"generic-uio";', '"generic-uio"')):
        assert right in text
        (tmp_path / "wrong.dtso").write_text(text.replace(right, wrong))
        (tmp_path / "wrong.dtbo").unlink(missing_ok=True)
        run("dtc", "-@", "-O", "dtb", "-o", "wrong.dtbo", "wrong.dtso")
        assert run("fdtoverlay", "-i", "base.dtb", "-o", "wrong.dtb", "wrong.dtbo").returncode != 0
