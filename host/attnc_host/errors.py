"""The errors of the runtime."""

from __future__ import annotations


class AcceleratorError(Exception):
    """A build folder, an input or the machine is not what the accelerator needs; the message says what was needed and found."""


class InputError(AcceleratorError):
    """An input is not what the model takes. With other inputs the same accelerator works."""


class DeviceError(AcceleratorError):
    """A board did not do what it should. The message has the registers, the step of the program that was reached, and what to look at."""
