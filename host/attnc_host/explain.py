"""What a board was doing when something went wrong."""

from __future__ import annotations

from collections.abc import Mapping

from attnc_host import registers as regs
from attnc_host.device import Device
from attnc_host.errors import DeviceError
from attnc_host.manifest import Manifest

BITS = ((regs.START, "start"), (regs.DONE, "done"), (regs.IDLE, "idle"), (regs.READY, "ready"))


def state(registers: regs.RegisterMap, device: Device) -> dict[str, int]:
    """Every register by name; -1 where nothing answers."""
    found = {"control": regs.CONTROL, "enable": regs.ENABLE, "interrupts": regs.PENDING}
    offsets = {name: (offset, 32) for name, offset in found.items()} | {one.name: (one.offset, one.bits) for one in registers.arguments}
    values = {}
    for name, (offset, bits) in offsets.items():
        try:
            values[name] = sum(device.read(offset + at) << (8 * at) for at in range(0, bits // 8, 4))
        except OSError:
            values[name] = -1
    return values


def explain(what: str, hint: str, manifest: Manifest, device: Device, written: Mapping[str, int]) -> DeviceError:
    """An error with the registers, the step that was reached, and a hint."""
    parts = [f"{manifest.top} on {device.name}: {what}"]
    if device.has_registers:
        values = state(manifest.registers, device)
        status = values.pop(manifest.registers.status.name)
        reached, steps = status & 0xFFFFFFFF, manifest.program.steps
        if status >= 0 and reached <= steps and status >> 32 == manifest.registers.identity:
            at = f" ({manifest.program.node(reached)})" if reached < steps else ""
            parts.append(f"reached: step {reached} of {steps}{at}")
        control = values["control"]
        names = " ".join(name for bit, name in BITS if control & bit) if 0 <= control < regs.GONE else "no answer"
        shown = [f"{name} {value & 0xFFFFFFFFFFFFFFFF:#x}" for name, value in values.items()]
        parts.append(f"registers: {shown[0]} ({names or 'none'}), status {status & 0xFFFFFFFFFFFFFFFF:#x}, {', '.join(shown[1:])}")
        moved = [name for name, value in written.items() if name in values and values[name] != value & 0xFFFFFFFFFFFFFFFF]
        if moved and control != regs.GONE:
            parts.append(f"what was written to {', '.join(moved)} is gone: the accelerator was reset or loaded anew")
    if hint:
        parts.append(f"hint: {hint}")
    return DeviceError("; ".join(parts))
