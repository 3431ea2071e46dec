"""The errors of the runtime."""


class AcceleratorError(Exception):
    """A build folder, an input or the machine is not what the accelerator needs; the message says what was needed and found."""


class InputError(AcceleratorError):
    """An input is not what the model takes. With other inputs the same accelerator works."""
