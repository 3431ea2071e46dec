"""Two processes for a dataflow region that wait for each other unless `first` holds 7 tokens."""

PLANTED = """\
  hls::stream<int> first("engine_0.first"), second("engine_0.second");
  ATTNC_DEPTH(first, 4)
  ATTNC_DEPTH(second, 4)
  ATTNC_REGION
  ATTNC_PROCESS("engine_0.writer", for (int i = 0; i < 7; ++i) first.write(i); for (int i = 0; i < 7; ++i) second.write(i);)
  ATTNC_PROCESS("engine_0.reader", for (int i = 0; i < 7; ++i) second.read(); for (int i = 0; i < 7; ++i) first.read();)
"""
"""What comes first is what the reader wants last."""
