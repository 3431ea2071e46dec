"""The driver on every face of the board: UIO, PYNQ, XRT; memory, caches, time."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnc.sim.program import load_listing
from attnc_host import Accelerator, AcceleratorError, DeviceError
from attnc_host import manifest as manifests
from attnc_host.boards.pynq import PynqDevice
from attnc_host.boards.uio import UioDevice
from attnc_host.boards.xrt import XrtDevice
from attnc_host.driver import Driver
from attnc_host.virtual.board import VirtualBoard
from attnc_host.virtual.faults import Fault
from attnc_host.virtual.system import VirtualSystem
from board.cases import ALWAYS, Bench
from board.faces import pynq_module, pyxrt_module


@pytest.fixture
def board(bench: Bench) -> Iterator[VirtualBoard]:
    with contextlib.closing(VirtualBoard(bench.manifest)) as board:
        yield board


def uio(bench: Bench, board: VirtualBoard, pool: int = 1 << 20) -> UioDevice:
    return UioDevice(bench.manifest, system=VirtualSystem(board, board.folder, bench.manifest.top, pool))


def assert_answers(bench: Bench, device: Any, **options: Any) -> Driver:
    driver = Driver(bench.manifest, device, **options)
    with Accelerator(bench.manifest, driver) as accelerator:
        np.testing.assert_array_equal(accelerator.run(bench.inputs)[bench.name], bench.expected)
    return driver


@pytest.fixture
def bitstreams(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files that the boards' modules are given; locks are of this test alone."""
    for suffix in ("bit", "xclbin"):
        (tmp_path / f"attnc_top.{suffix}").write_bytes(b"bits")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / "attnc_top"


def test_pynq(bench: Bench, board: VirtualBoard, bitstreams: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pynq_module(board)
    monkeypatch.setitem(sys.modules, "pynq", module)
    with Accelerator.open(bench.manifest, "pynq", bitstream=f"{bitstreams}.bit") as accelerator:
        np.testing.assert_array_equal(accelerator.run(bench.inputs)[bench.name], bench.expected)
        with pytest.raises(AcceleratorError, match="another process drives the accelerator"):
            PynqDevice(bench.manifest, f"{bitstreams}.bit", module)
    assert not module.memory.held and board.loaded == 1


def test_xrt(bench: Bench, board: VirtualBoard, bitstreams: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pyxrt_module(board)
    monkeypatch.setitem(sys.modules, "pyxrt", module)
    with Accelerator.open(bench.manifest, "xrt", xclbin=f"{bitstreams}.xclbin", checks="all") as accelerator:
        np.testing.assert_array_equal(accelerator.run(bench.inputs)[bench.name], bench.expected)
    assert not module.memory.held
    with pytest.raises(AcceleratorError, match="on card 1: cannot be loaded: could not open device"):
        Accelerator.open(bench.manifest, "xrt", xclbin=f"{bitstreams}.xclbin", index=1)


FAULTS = [
    ("never done", "not done after"),
    ("power", "nothing answers|XRT says of the run|it was reset, or lost its power|not done after"),
    ("stale read", "are what they were before"),
]


@pytest.mark.parametrize("face", ["pynq", "xrt"])
@pytest.mark.parametrize("kind, message", FAULTS)
def test_faults_behind_other_faces(face: str, kind: str, message: str, bench: Bench, board: VirtualBoard, bitstreams: Path) -> None:
    device: Any
    if face == "pynq":
        device = PynqDevice(bench.manifest, f"{bitstreams}.bit", pynq_module(board))
    else:
        device = XrtDevice(bench.manifest, f"{bitstreams}.xclbin", module=pyxrt_module(board))
    device.wait, device.now = board.wait, board.now  # in the board's time
    with Accelerator(bench.manifest, Driver(bench.manifest, device, retries=1)) as accelerator:
        board.faults.append(Fault(kind, value=4e-7, skip=2 if kind == "stale read" else 0))
        np.testing.assert_array_equal(accelerator.run(bench.inputs)[bench.name], bench.expected)
        assert accelerator.backend.recovered == 1 and board.faults[0].struck == 1  # type: ignore[attr-defined]
        accelerator.backend.retries = 0  # type: ignore[attr-defined]
        board.faults[:] = [Fault(kind, value=4e-7, skip=2 if kind == "stale read" else 0)]
        with pytest.raises(DeviceError, match=message):
            accelerator.run(bench.inputs)


def test_a_module_that_is_not_there(bench: Bench, bitstreams: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, option in (("pynq", "bit"), ("pyxrt", "xclbin")):
        monkeypatch.setitem(sys.modules, name, None)
        backend = name.removeprefix("py") if name == "pyxrt" else name
        with pytest.raises(AcceleratorError, match=f"backend '{backend}' needs"):
            Accelerator.open(bench.manifest, backend, **{"xclbin" if option == "xclbin" else "bitstream": f"{bitstreams}.{option}"})
        with pytest.raises(AcceleratorError, match=f"{backend}: needed"):
            Accelerator.open(bench.manifest, backend)


def test_no_uio_device(bench: Bench, board: VirtualBoard) -> None:
    system = VirtualSystem(board, board.folder, "another")
    with pytest.raises(AcceleratorError, match=r"needed a node named 'attnc_top' in the device tree, found uio0 \(another\)"):
        UioDevice(bench.manifest, system=system)


def test_an_overlay_without_the_ip(bench: Bench, board: VirtualBoard, bitstreams: Path) -> None:
    other = replace(bench.manifest, data={**bench.manifest.data, "top": "other_top"})
    with pytest.raises(AcceleratorError, match=r"needed an IP 'other_top' in the overlay, found .*attnc_top"):
        PynqDevice(other, f"{bitstreams}.bit", pynq_module(board))


@pytest.mark.parametrize("pool, slots", [(1 << 20, 2), (3 * 4096, 1)])
def test_memory_that_suffices(pool: int, slots: int, bench: Bench, board: VirtualBoard) -> None:
    """Without room for a second sample they go one after the other."""
    driver = Driver(bench.manifest, uio(bench, board, pool))
    assert len(driver._store.slots) == slots
    with Accelerator(bench.manifest, driver) as accelerator:
        np.testing.assert_array_equal(accelerator.run(bench.inputs)[bench.name], bench.expected)


@pytest.mark.parametrize("face", ["uio", "pynq", "xrt"])
def test_memory_is_exhausted(face: str, bench: Bench, board: VirtualBoard, bitstreams: Path) -> None:
    size = 2 * 4096
    devices = {
        "uio": lambda: uio(bench, board, size),
        "pynq": lambda: PynqDevice(bench.manifest, f"{bitstreams}.bit", pynq_module(board, size)),
        "xrt": lambda: XrtDevice(bench.manifest, f"{bitstreams}.xclbin", module=pyxrt_module(board, size)),
    }
    with pytest.raises(AcceleratorError, match="memory"):
        Driver(bench.manifest, devices[face]())
    assert_answers(bench, uio(bench, board))  # and the board is free again


def test_addresses_are_beyond_4_gib(bench: Bench, board: VirtualBoard) -> None:
    driver = Driver(bench.manifest, uio(bench, board))
    driver.execute(np.zeros((1, bench.manifest.input_bytes), np.uint8))
    for one in driver.map.of("pointer"):
        assert driver.device.read(one.offset + 4) == 8 and board.values[one.name] > 1 << 32
    driver.close()


def test_the_next_inputs_come_while_a_sample_computes(bench: Bench, board: VirtualBoard) -> None:
    """And go where the accelerator is not reading."""
    seen: list[tuple[bool, int]] = []
    whole = board.to_memory
    board.to_memory = lambda at, data: (seen.append((board.run is not None, at)), whole(at, data))[1]  # type: ignore[method-assign]
    assert_answers(bench, uio(bench, board), checks="none")
    assert [running for running, _ in seen[-6:]] == [True] * 6 and len({at for _, at in seen[-8:]}) == 4


def test_coherent_memory_needs_no_maintenance(bench: Bench) -> None:
    """Where the ports are coherent, caches and memory are one, and the driver flushes nothing; where they are not, that is found."""
    moved: list[int] = []
    with contextlib.closing(VirtualBoard(bench.manifest)) as board:
        device = uio(bench, board)
        whole = board.to_memory
        board.to_memory = lambda at, data: (moved.append(at), whole(at, data))[1]  # type: ignore[method-assign]
        with pytest.raises(DeviceError, match=r"golden vector comes out differently|not done after|are what they were"):
            Driver(bench.manifest, device, coherent=True)
        assert not moved
    with contextlib.closing(VirtualBoard(bench.manifest)) as board:
        device = uio(bench, board)
        for pool in device.pools:
            pool.array = board.memory[: pool.size]
        assert_answers(bench, device, coherent=True)


def test_without_interrupts(bench: Bench, board: VirtualBoard) -> None:
    driver = assert_answers(bench, uio(bench, board), interrupts=False)
    assert driver.missed == 0 and board.enabled == [0, 0]


def test_time_is_that_of_the_simulation(bench: Bench) -> None:
    """With the simulator in time a sample takes its cycles."""
    from attnc.sim.simulator import open_simulator

    listing = load_listing(bench.manifest.folder)
    with open_simulator(bench.manifest.folder, listing.timing(), listing) as simulator:
        cycles = simulator.run("flp").cycles
    with Accelerator.open(bench.manifest, "virtual", time="cosim") as accelerator:
        np.testing.assert_array_equal(accelerator.run(bench.inputs)[bench.name], bench.expected)
        expected = cycles / bench.manifest.program.clock_mhz / 1e6
        assert accelerator.backend.seconds == pytest.approx([expected] * len(bench.expected), abs=1.5e-6)  # type: ignore[attr-defined]


def test_the_backend_virtual(bench: Bench) -> None:
    with Accelerator.open(bench.manifest, "virtual", checks="all") as accelerator:
        np.testing.assert_array_equal(accelerator.run(bench.inputs)[bench.name], bench.expected)


@pytest.mark.parametrize(
    "options, message", [({"checks": "some"}, "needed one of none, open, all"), ({"timeout": 0}, "needed seconds above 0")]
)
def test_options_of_the_driver(options: dict[str, Any], message: str, bench: Bench, board: VirtualBoard) -> None:
    with pytest.raises(AcceleratorError, match=message):
        Driver(bench.manifest, uio(bench, board), **options)


def test_a_damaged_golden_vector_is_told(bench: Bench, board: VirtualBoard, tmp_path: Path) -> None:
    """A board is not believed against the build's vectors."""
    import shutil

    build = Path(shutil.copytree(bench.manifest.folder, tmp_path / "build"))
    data = bytearray((build / "golden" / "expected.bin").read_bytes())
    data[5] ^= 1
    (build / "golden" / "expected.bin").unlink()
    (build / "golden" / "expected.bin").write_bytes(data)
    manifest = manifests.load(build, verify=False)
    with pytest.raises(DeviceError, match="the golden vector comes out differently in 1 of 256 bytes"):
        Driver(manifest, uio(bench, board))
    assert_answers(bench, uio(bench, board))


def test_power_that_does_not_come_back_hangs_nobody(bench: Bench, board: VirtualBoard) -> None:
    driver = Driver(bench.manifest, uio(bench, board), retries=3)
    board.faults.append(Fault("power", value=ALWAYS))
    with Accelerator(bench.manifest, driver) as accelerator, pytest.raises(DeviceError, match="nothing answers at the registers"):
        accelerator.run(bench.inputs)
