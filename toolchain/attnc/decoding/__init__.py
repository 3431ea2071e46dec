"""Decoders: the host's tables of tokens, and a graph with caches in integers."""
