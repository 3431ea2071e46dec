"""From a quantized graph to a program: engines, instructions, memory, and what they cost."""
