"""Run an accelerator that attnc compiled: NumPy in, NumPy out.

Needs numpy alone; onnxruntime too when a build keeps parts of its model on the host.
"""

from attnc_host.accelerator import Accelerator, Backend, register_backend
from attnc_host.errors import AcceleratorError

__all__ = ["Accelerator", "AcceleratorError", "Backend", "register_backend"]
