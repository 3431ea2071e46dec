"""Run an accelerator that attnc compiled: NumPy in, NumPy out.

Needs numpy alone; onnxruntime too when a build keeps parts of its model on the host.
"""

import os

# onnxruntime would send usage data over the network, and keep files for that in the temporary folder and in the user's cache.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from attnc_host.accelerator import Accelerator
from attnc_host.backends import Backend, register_backend
from attnc_host.errors import AcceleratorError, DeviceError, InputError
from attnc_host.version import __version__

__all__ = ["Accelerator", "AcceleratorError", "Backend", "DeviceError", "InputError", "__version__", "register_backend"]
