"""A mutant is a seed and a number: the files of a command line, made anew each time they are asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attnc.cli import main
from fuzz import files
from fuzz.models import Rng, mutate, pick
from fuzz.seeds import BOARD, BOARD_TOML, CONFIG, ROWS, Seed, all_seeds

BUILT = ("attention", "picture")
"""Seeds of which there are build folders to damage."""
DECODER, SEQUENCES = "tokens", ("--max-length", str(ROWS), "--block", "2")
"""The seed that generates tokens, in another folder, and how it is compiled for that."""
INPUTS = "x.npz"


@dataclass
class Mutant:
    """A command line for `folder`, and what was done to its files."""

    command: list[str]
    what: str


class Mutants:
    """Makes them. `builds` holds the folders that mutants damage copies of; it is filled if it is empty."""

    def __init__(self, seed: int, builds: Path, kind: str | None = None) -> None:
        self.seed, self.builds, self.kind = seed, builds, kind
        self.seeds = {one.name: one for one in all_seeds()}

    def prepare(self) -> None:
        """Compile what is to be damaged."""
        for name in BUILT:
            self.builds.mkdir(parents=True, exist_ok=True)
            model = self.builds / f"{name}.onnx"
            model.write_bytes(self.seeds[name].model.SerializeToString())
            assert main(["compile", str(model), "-o", str(self.builds / name), "--no-check", "--quiet"]) == 0
        model = self.builds / "decoder.onnx"
        model.write_bytes(self.seeds[DECODER].model.SerializeToString())
        assert main(["compile", str(model), *SEQUENCES, "-o", str(self.builds / "decoder"), "--no-check", "--quiet"]) == 0

    def make(self, number: int, folder: Path) -> Mutant:
        """Mutant `number` with its files in `folder`, which is there and empty."""
        rng = np.random.default_rng([self.seed, number])
        makers, weights = zip(*MAKERS, strict=True)
        maker = makers[int(rng.choice(len(makers), p=weights))]
        return (getattr(Mutants, self.kind) if self.kind else maker)(self, rng, folder)

    def _compile(self, rng: Rng, folder: Path, seed: Seed, *options: str) -> list[str]:
        """A command that compiles or inspects folder/model.onnx."""
        if not options and rng.integers(6) == 0:
            return ["inspect", str(folder / "model.onnx")]
        if rng.integers(2) and "--calib" not in options:
            np.savez(folder / "calib.npz", **seed.samples())  # type: ignore[arg-type]
            options = (*options, "--calib", str(folder / "calib.npz"))
        return ["compile", str(folder / "model.onnx"), "-o", str(folder / "out"), "--no-check", "--quiet", *options]

    def _any(self, rng: Rng, folder: Path) -> Seed:
        """A seed, its model written."""
        seed = pick(rng, list(self.seeds.values()))
        (folder / "model.onnx").write_bytes(seed.model.SerializeToString())
        return seed

    def model(self, rng: Rng, folder: Path) -> Mutant:
        """A model that is changed as a protobuf."""
        seed = pick(rng, list(self.seeds.values()))
        changed = type(seed.model).FromString(seed.model.SerializeToString())
        done = mutate(changed, rng, folder)
        data = changed.SerializeToString()
        if rng.integers(12) == 0:  # a text that is no text
            data = data.replace(pick(rng, (b"n1", b"v1", b"c1", b"Add", b"seed", b"x")), b"\xff\xfe", int(rng.integers(1, 5)))
        (folder / "model.onnx").write_bytes(data)
        return Mutant(self._compile(rng, folder, seed), f"{seed.name}: {', '.join(done)}")

    def raw(self, rng: Rng, folder: Path) -> Mutant:
        """A model whose bytes are changed."""
        seed = self._any(rng, folder)
        (folder / "model.onnx").write_bytes(files.flip(seed.model.SerializeToString(), rng))
        return Mutant(self._compile(rng, folder, seed), f"{seed.name}: bytes")

    def calibration(self, rng: Rng, folder: Path) -> Mutant:
        """Samples that are damaged."""
        seed = self._any(rng, folder)
        path = folder / INPUTS
        path.write_bytes(files.archive(seed.samples(), rng))
        return Mutant(self._compile(rng, folder, seed, pick(rng, ("--calib", "--heldout")), str(path)), f"{seed.name}: samples")

    def settings(self, rng: Rng, folder: Path) -> Mutant:
        """A file of settings that is damaged."""
        seed = self.seeds["perceptron"]
        (folder / "model.onnx").write_bytes(seed.model.SerializeToString())
        build = self.builds / pick(rng, BUILT)
        texts = {"--config": CONFIG, "--target": pick(rng, (BOARD, BOARD_TOML)), "--schedule": (build / "schedule.yaml").read_text()}
        option = pick(rng, list(texts))
        path = folder / ("settings.toml" if texts[option] is BOARD_TOML else "settings.yaml")
        path.write_bytes(files.settings(texts[option], rng))
        if option == "--target":
            return Mutant(["estimate", str(build), option, str(path)], "board")
        return Mutant(self._compile(rng, folder, seed, option, str(path)), option)

    def build(self, rng: Rng, folder: Path) -> Mutant:
        """A build folder of which a file is damaged, and what it runs on."""
        name = pick(rng, BUILT)
        damaged, samples = folder / "build", self.seeds[name].samples(2)
        shutil.copytree(self.builds / name, damaged)
        what = files.build(damaged, rng)
        data = files.archive(samples, rng) if rng.integers(6) == 0 else None
        if data is None:
            np.savez(folder / INPUTS, **samples)  # type: ignore[arg-type]
        else:
            (folder / INPUTS).write_bytes(data)
        model = str(self.builds / f"{name}.onnx")
        commands = (
            ["run", str(damaged), "--inputs", str(folder / INPUTS), "--output", str(folder / "y.npz"), "--backend", "golden"],
            ["csim", str(damaged), "--inputs", str(folder / INPUTS)],
            ["estimate", str(damaged)],
            ["compile", model, "-o", str(damaged), "--no-check", "--quiet"],
        )
        which = int(rng.choice(len(commands), p=(0.5, 0.2, 0.25, 0.05)))
        loose = ["--no-verify"] if which < 2 and rng.integers(4) else []
        return Mutant([*commands[which], *loose], f"build: {what}")

    def decoder(self, rng: Rng, folder: Path) -> Mutant:
        """A decoder: its model, the folder of its build, or a saved session."""
        which = int(rng.integers(3))
        if which == 0:
            seed = self.seeds[DECODER]
            changed = type(seed.model).FromString(seed.model.SerializeToString())
            done = mutate(changed, rng, folder)
            (folder / "model.onnx").write_bytes(changed.SerializeToString())
            return Mutant(self._compile(rng, folder, seed, *SEQUENCES), f"decoder: {', '.join(done)}")
        damaged, session = folder / "build", folder / "talk.json"
        shutil.copytree(self.builds / "decoder", damaged)
        what = files.build(damaged, rng) if which == 1 else "session"
        manifest = json.loads((self.builds / "decoder" / "manifest.json").read_text())
        own = [manifest["files"]["weights/program.bin"], manifest["model"]]
        saved = json.dumps({"version": 1, "build": own, "ids": [int(token) for token in rng.integers(0, 12, 2)]}, indent=1)
        session.write_bytes(files.settings(saved, rng) if which == 2 else saved.encode())
        ids = pick(rng, ("1", "1,2,3", "1,2,3,4,5", "11,12", "-1", ",", "9" * 30, "1,,2"))
        command = ["generate", str(damaged), "--ids", ids, "--tokens", pick(rng, ("1", "3", "0", "-1")), "--backend", "golden"]
        more = ["--session", str(session)] if which == 2 else ["--no-verify"] if rng.integers(4) else []
        return Mutant([*command, *more], f"decoder: {what}")


Maker = Callable[[Mutants, Rng, Path], Mutant]
MAKERS: tuple[tuple[Maker, float], ...] = (
    (Mutants.model, 0.5), (Mutants.raw, 0.08), (Mutants.calibration, 0.08), (Mutants.settings, 0.1), (Mutants.build, 0.12),
    (Mutants.decoder, 0.12),
)  # fmt: skip
