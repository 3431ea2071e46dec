"""attnc compiles ONNX transformers to FPGA accelerators."""

import os

# onnxruntime would send usage data over the network, and keep files for that in the temporary folder and in the user's cache.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
