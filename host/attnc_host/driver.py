"""The one driver: a build's program on a board, through nothing but registers and shared memory (`attnc_host.device`).

    open     registers are those of the manifest, the hardware says that it is this build's, memory holds what was written to it,
             a golden vector comes out bit for bit
    run      inputs are in memory as they were given, the accelerator says that it did every step, every word of the outputs was written

What `checks` names is done: "none"; "open" (the default), as above; "all": each sample also runs twice, in different memory, with equal
results, a golden vector comes out between, and after each call weights, program and constants are still what they were. What only "all"
sees are bits that flip in memory while nobody looks at them, and what goes wrong inside the accelerator now and then, or from some time on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from attnc_host import boundary
from attnc_host import registers as regs
from attnc_host.boundary import Image
from attnc_host.caches import COPY
from attnc_host.device import Device
from attnc_host.errors import AcceleratorError, DeviceError
from attnc_host.explain import explain, state
from attnc_host.manifest import Manifest
from attnc_host.store import Slot, Store
from attnc_host.vectors import replay, stored, written

CHECKS = ("none", "open", "all")
FACTOR = 20
"""So many times the estimate a sample may take, by default,"""
FLOOR = 0.25
"""and so many seconds on top: a board has other things to do."""
SPARE = 0x40
"""Bytes of registers behind those of the manifest that are cleared too, before it is known whether they are those of this build."""
POLL = 1e-3
"""Seconds to wait at least between looks at the control register; an interrupt ends a wait."""


class Driver:
    """A backend on a device. `timeout` in seconds per sample (by default 0.25 and 20 times the estimate); `retries`: so often a sample that
    fails is tried again, after the board was brought back; `checks` as above; `coherent`: the memory ports are HPC and coherent,
    so that caches need no maintenance."""

    def __init__(
        self,
        manifest: Manifest,
        device: Device,
        timeout: float | None = None,
        retries: int = 0,
        checks: str = "open",
        coherent: bool = False,
        interrupts: bool = True,
        progress: Any = None,
    ) -> None:
        if checks not in CHECKS:
            raise AcceleratorError(f"checks: needed one of {', '.join(CHECKS)}, found {checks!r}")
        if timeout is not None and not timeout > 0:
            raise AcceleratorError(f"timeout: needed seconds above 0, found {timeout}")
        self.manifest, self.device, self.map = manifest, device, manifest.registers
        self.timeout = FLOOR + FACTOR * manifest.program.seconds if timeout is None else timeout
        self.retries, self.checks, self.interrupts = retries, checks, interrupts
        self.seconds: list[float] = []
        """What each sample took on the board, from start to done, of the last call."""
        self.missed = 0
        """Runs whose interrupt never came: they were found done by looking."""
        self.recovered = 0
        """Times that the board was brought back after an error."""
        self._store = Store(manifest, device, coherent)
        self._values: dict[str, int] = {}
        try:
            self._bring_up()
        except BaseException:
            self.close()
            raise

    # --- bringing the board up

    def _bring_up(self) -> None:
        """Whatever state the board is in: registers, identity, memory, a golden vector. If the bitstream is not this build's, or what it
        was left with does not end, it is loaded again where that can be done from here."""
        try:
            self._identify()
        except (DeviceError, OSError) as error:
            if not self.device.program():
                raise
            try:
                self._identify()
            except (DeviceError, OSError) as second:
                raise DeviceError(f"{second} (the bitstream was loaded again; before that: {error})") from error
        self._store.load()
        if self.checks != "none":
            self._golden()

    def _identify(self) -> None:
        """The accelerator is there, idle, has the registers of the manifest, and says whose it is."""
        if not self.device.has_registers:
            return
        self._wait_idle()
        self._check_registers()
        self._start(dict.fromkeys(self._pointers(), 0) | {"instructions": 0})  # a run of no steps: it tells the identity
        self._wait(0)
        found = self._status() >> 32
        if found != self.map.identity:
            raise self._error(
                f"the hardware says that it is {found:#010x}, this build is {self.map.identity:#010x}",
                "a bitstream of another build, or an older one, is loaded",
            )

    def _check_registers(self) -> None:
        """Arguments keep what is written to them, each in its own place, and what lies between them keeps nothing."""
        words = [(one.offset + at, one) for one in self.map.arguments if one.kind != "status" for at in range(0, one.bits // 8, 4)]
        for number, (offset, _) in enumerate(words):
            self.device.write(offset, 0x5A000000 + 0x10101 * number)
        for number, (offset, one) in enumerate(words):
            found, wanted = self.device.read(offset), 0x5A000000 + 0x10101 * number
            if found != wanted:
                hint = "the registers of this bitstream are laid out differently: it is of another build, or of another release of the tool"
                what = f"register {one.name!r} at {offset:#04x} does not keep what is written: {wanted:#x} became {found:#x}"
                raise self._error(what, hint)
        for offset in range(0x10, self.map.bytes + SPARE, 4):
            self.device.write(offset, 0)  # whatever it is, nothing is left in it that a run could take for an address or a length

    def _golden(self) -> None:
        """The first of the build's vectors; of a decoder all its runs, the last of which gives logits."""
        vectors = stored(self.manifest)
        used = vectors if self.manifest.decoder is not None else vectors[:1]
        found, expected = replay(lambda image, scalars: self._run_one(self._store.slots[0], image[0], scalars)[np.newaxis], used)
        different = boundary.different(self.manifest, found, expected)
        if different:
            hint = "timing of the bitstream, its memory ports, or the DDR; `attnc csim` of the same build shows whether the build is right"
            raise self._error(f"the golden vector comes out differently in {different} of {expected.size} bytes", hint)

    def _recover(self) -> None:
        """Bring the board back after an error, for another try."""
        self.recovered += 1
        self._halt()
        self._store.free()
        self._bring_up()

    def _halt(self) -> None:
        """No run is under way: it ends by itself, or with the bitstream being loaded anew. Before that its memory must not be freed."""
        try:
            self._wait_idle()
        except (DeviceError, OSError):
            if not self.device.program():
                raise

    # --- running

    def execute(self, images: Image, scalars: Mapping[str, int] | None = None) -> Image:
        """Input regions [samples, input_bytes] to output regions [samples, output_bytes]."""
        self.seconds = []
        images = np.ascontiguousarray(images)
        found = np.empty((images.shape[0], self.manifest.output_bytes), np.uint8)
        given = dict(scalars or {})
        if given.get("first") == COPY:
            self._store.copy(given["position"], given["session"])
            return np.zeros_like(found)
        run, done, tries = self._twice if self.checks == "all" else self._pass, 0, 0
        while done < images.shape[0]:
            try:
                for number, output in run(images, done, given):
                    found[number], done = output, number + 1
            except (DeviceError, OSError) as error:
                tries += 1
                if tries > self.retries or self.manifest.decoder is not None:  # what caches held would be lost
                    raise error if isinstance(error, DeviceError) else self._error(f"the system says: {error}", "") from error
                self._recover()
        return found

    def _twice(self, images: Image, first: int, scalars: Mapping[str, int]) -> Iterator[tuple[int, Image]]:
        """(sample, output) of all samples, once it is known that they are right: they run twice, all before any comes again, so that what
        goes wrong now and then hits different ones; between the two a golden vector shows what has gone wrong for good."""
        self.seconds = []
        slots = self._store.slots
        once = [self._run_one(slots[0], image, scalars) for image in images]
        if self.manifest.decoder is None:  # its caches would be lost
            self._golden()
        for number, image in enumerate(images):
            if boundary.different(self.manifest, self._run_one(slots[-1], image, scalars), once[number]):
                hint = "bits flip in memory, or on the way to it"
                raise self._error(f"sample {number} comes out differently when it runs again", hint)
        self._store.verify()
        self.seconds = self.seconds[: len(images)]
        yield from enumerate(once)

    def _pass(self, images: Image, first: int, scalars: Mapping[str, int]) -> Iterator[tuple[int, Image]]:
        """(sample, output) from sample `first` on; the inputs of the next sample are written while one computes."""
        slots, count = self._store.slots, images.shape[0]
        self._store.write(slots[first % len(slots)], images[first])
        for number in range(first, count):
            slot, after = slots[number % len(slots)], slots[(number + 1) % len(slots)]
            self._begin(slot, scalars)
            if number + 1 < count and after is not slot:
                self._store.write(after, images[number + 1])
            self._end()
            output = self._read(slot, scalars)
            if number + 1 < count and after is slot:
                self._store.write(after, images[number + 1])
            yield number, output

    def _run_one(self, slot: Slot, image: Image, scalars: Mapping[str, int]) -> Image:
        self._store.write(slot, image)
        self._begin(slot, scalars)
        self._end()
        return self._read(slot, scalars)

    def _read(self, slot: Slot, scalars: Mapping[str, int]) -> Image:
        """The outputs of a run; zeros beside what it gives."""
        place, outputs = written(self.manifest, scalars.get("first")), np.zeros(self.manifest.output_bytes, np.uint8)
        if place is not None:
            outputs[place] = self._store.read(slot, place)[place]
        return outputs

    def _begin(self, slot: Slot, scalars: Mapping[str, int]) -> None:
        self._wait_idle()
        places = {"memory": slot.buffer.address, "weights": self._store.weights.address, "program": self._store.program.address}
        values = {one.name: places[one.memory] for one in self.map.of("pointer")}
        self._start({"instructions": self.manifest.program.steps, **values, **scalars})
        self._since = self.device.now()

    def _end(self) -> None:
        self._wait(self._values["instructions"])
        self.seconds.append(self.device.now() - self._since)

    # --- registers

    def _pointers(self) -> list[str]:
        return [one.name for one in self.map.of("pointer")]

    def _start(self, values: Mapping[str, int]) -> None:
        """Write the arguments that changed, and start."""
        for one in self.map.arguments:
            value = values.get(one.name, 0) & ((1 << one.bits) - 1)
            if one.kind == "status":
                continue
            for at in range(0, one.bits // 8, 4):
                self.device.write(one.offset + at, (value >> (8 * at)) & 0xFFFFFFFF)
        self._values = dict(values)
        if self.device.has_registers:
            self._acknowledge()
            self.device.write(regs.GLOBAL_ENABLE, int(self.interrupts))
            self.device.write(regs.ENABLE, int(self.interrupts))
        self.device.write(regs.CONTROL, regs.START)

    def _acknowledge(self) -> None:
        """Interrupts that are pending go: in some releases of the tool by being read, in others by being written back."""
        if self.device.read(regs.PENDING) and (left := self.device.read(regs.PENDING)):
            self.device.write(regs.PENDING, left)

    def _control(self) -> int:
        found = self.device.read(regs.CONTROL)
        if found == regs.GONE:
            raise self._error("nothing answers at the registers", "the board has no power, the PL is not programmed, or its clock is off")
        return found

    def _status(self) -> int:
        offset = self.map.status.offset
        return self.device.read(offset) | self.device.read(offset + 4) << 32

    def _wait_idle(self) -> None:
        """What was left running, by a run that timed out or a process that is gone, ends first; power that went may come back."""
        end = self.device.now() + self.timeout
        while (control := self.device.read(regs.CONTROL)) == regs.GONE or not control & regs.IDLE:
            if self.device.now() > end:
                self._control()
                raise self._error(
                    f"still busy after {self.timeout:.3g} s", "what an earlier run left does not end: load the bitstream again"
                )
            self.device.wait(POLL)

    def _wait(self, steps: int) -> None:
        """Until a run of so many steps is over, which is when the accelerator is idle, did them all, and said once that it is done."""
        end, said, rang, waits = self.device.now() + self.timeout, False, False, 0
        while True:
            control = self._control()
            said = said or bool(control & regs.DONE)
            if control & regs.IDLE and not control & regs.START:
                reached = self._status() & 0xFFFFFFFF if self.device.has_registers else steps
                if reached == steps and said:
                    self.missed += bool(self.interrupts and waits and not rang)
                    return
                what = "says that it is done" if said else "stopped, and never said that it is done"
                raise self._error(f"{what}, {reached} of {steps} steps in", "" if said else "it was reset, or lost its power, in mid-run")
            if self.device.now() > end:
                raise self._error(f"not done after {self.timeout:.3g} s", self._late())
            rang, waits = self.device.wait(max(POLL, 2 * self.manifest.program.seconds)) or rang, waits + 1

    def _late(self) -> str:
        """What a run that does not end may be about."""
        if not self.device.has_registers:
            return "see the log of the driver below (dmesg, xbutil)"
        reached = self._status() & 0xFFFFFFFF
        if reached == 0:
            return "not even the program came: the memory ports do not reach these addresses (address map, port enabled, IOMMU)"
        return "a memory port or a kernel stands still: `attnc cosim` of the same build shows whether the design can"

    def _error(self, what: str, hint: str) -> DeviceError:
        return explain(what, hint, self.manifest, self.device, self._values)

    def registers(self) -> dict[str, int]:
        """Every register by name, for messages."""
        return state(self.map, self.device)

    def close(self) -> None:
        """Free the buffers and let go of the board; a run that is under way ends first, so that it writes into no memory of others."""
        with contextlib.suppress(DeviceError, OSError):
            self._halt()
        self._store.free()
        self.device.close()
