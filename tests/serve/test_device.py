"""The service in front of a board that fails: the virtual one, which the driver of real boards drives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from attnc_host import Accelerator
from attnc_host.boards.uio import UioDevice
from attnc_host.driver import Driver
from attnc_host.virtual.board import VirtualBoard
from attnc_host.virtual.faults import Fault
from attnc_host.virtual.system import VirtualSystem
from board.cases import Bench
from serving import serving
from small_build import write_deep_build


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "says"), [("power", "nothing answers at the registers"), ("never done", "not done after")])
def test_a_board_that_fails_is_brought_back(kind: str, says: str, tmp_path: Path) -> None:
    """Who asked hears of it with the driver's own words; who asks next gets the right answer."""
    bench = Bench.of(write_deep_build(tmp_path / "build"))
    board = VirtualBoard(bench.manifest, [Fault(kind, value=0.01, skip=2)])

    def opener() -> Accelerator:
        device = UioDevice(bench.manifest, bitstream="design.bin", system=VirtualSystem(board, board.folder, bench.manifest.top))
        return Accelerator.open(bench.manifest, Driver(bench.manifest, device))

    (name, x), statuses = next(iter(bench.inputs.items())), []
    with serving(opener) as at:
        for _ in range(4):
            tensor = {"name": name, "datatype": "FP32", "shape": [1, *x.shape[1:]], "data": x[:1].ravel().tolist()}
            status, content, _ = at.ask("POST", at.infer, {"inputs": [tensor]})
            statuses.append(status)
            answer = json.loads(content)
            if status == 200:
                np.testing.assert_array_equal(np.float32(answer["outputs"][0]["data"]), bench.expected[0].ravel())
            else:
                assert says in answer["error"]
            at.wait(lambda: at.service.worker.ready)
        assert at.metric("attnc_failures_total") == 1
    assert statuses.count(500) == 1 and statuses[-1] == 200
    board.close()
