"""What a board does, in its own environment: python on_board.py APP BUILD EXPECTED.npy [CASES]. Needs numpy and the runtime alone."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np

import attnc_host
import attnc_host.archive
from attnc_host import Accelerator
from attnc_host.__main__ import main as command

sys.path.insert(0, str(Path(__file__).parents[1]))

from board.cases import CASES, Bench, outcome


def main() -> None:
    app, build, expected, count = Path(sys.argv[1]), Path(sys.argv[2]), np.load(sys.argv[3]), int(sys.argv[4])
    absent = {"attnc", "onnx", "onnxruntime", "torch"} & {name.partition(".")[0] for name in sys.modules}
    assert not absent, absent
    assert command(["selftest", str(build), "--backend", "virtual", "--runs", "5"]) == 0
    with attnc_host.archive.opened(app) as manifest:
        assert manifest.data["files"].keys() < attnc_host.manifest.load(build).data["files"].keys()
    bench = Bench.of(build, expected)
    with Accelerator.open(build, "csim") as accelerator:
        np.testing.assert_array_equal(accelerator.run(bench.inputs)[bench.name], expected)
        futures = [accelerator.run_async(bench.inputs) for _ in range(2)]
        for future in futures:
            np.testing.assert_array_equal(future.result()[bench.name], expected)
    for one in CASES[:: max(1, len(CASES) // count)]:
        ends, _ = outcome(bench, one)
        assert ends == "equal" if one.ends == "equal" else re.search(one.ends, ends), (str(one), ends)
    print(f"fine with Python {sys.version_info.major}.{sys.version_info.minor}, numpy {np.__version__}, at {attnc_host.__file__}")


if __name__ == "__main__":
    main()
