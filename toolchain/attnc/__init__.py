"""attnc compiles ONNX transformers to FPGA accelerators."""

__version__ = "0.1.0"
