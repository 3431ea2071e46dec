"""`attnc cosim --tool bambu`: RTL of single kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from attnc.cli_vitis import teller
from attnc.console import tell
from attnc_host import manifest as manifests
from attnc_host.progress import Progress

KernelOption = Annotated[
    str | None,
    typer.Option("--kernel", metavar="NAME", help="The kernel that bambu takes, or its slot (engine_0_3_linear); else each of them."),
]


def cosim_in_bambu(build: Path, kernel: str | None, work: Path | None, verify: bool, as_json: bool) -> None:
    """Kernels of a build in bambu: what was equal, what was not, what it did not take. One that is named has to be taken."""
    from attnc.estimation import open_build
    from attnc.vendor import tables
    from attnc.vendor.bambu import find_bambu, run_bambu
    from attnc.vendor.kernels import bench, kernels_of
    from attnc.vendor.recording import record

    program = find_bambu()
    manifest = manifests.load(build, verify, edited=True)
    _, design, _ = open_build(build)
    chosen = kernels_of(design, kernel)
    code = np.fromfile(manifest.folder / "weights" / "program.bin", np.int32).reshape(-1, design.instruction_ints)
    outcomes, passed = [], []
    with Progress() as progress:
        progress.stage("simulating what reaches the kernels")
        recording = record(manifest)
        for each in chosen:
            prepared = bench(each, design, code, recording)
            if isinstance(prepared, str):
                passed.append({"kernel": each.name, "function": each.function, "refused": prepared, "log": None})
                continue
            progress.stage(f"bambu: {each.name}")
            told = teller(progress, f"bambu, {each.name}")
            outcomes.append(run_bambu(program, manifest, prepared, design.design.lanes, work, told))
    taken = [outcome for outcome in outcomes if outcome.refused is None]
    first = next((outcome.refused for outcome in outcomes if outcome.refused is not None), None)
    if first is not None and (kernel is not None or not taken):
        raise first
    facts: dict[str, Any] = {"build": str(build), "tool": "bambu", "program": str(program)}
    facts["kernels"] = [*(outcome.facts() for outcome in outcomes), *passed]
    facts["bit_exact"] = all(outcome.mismatches == 0 for outcome in taken)
    tell(facts, tables.kernels(facts), as_json, not facts["bit_exact"])
