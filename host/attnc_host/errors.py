"""The one error of the runtime."""


class AcceleratorError(Exception):
    """A build folder, an input or the machine is not what the accelerator needs; the message says what was needed and found."""
