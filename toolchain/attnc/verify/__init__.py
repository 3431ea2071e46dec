"""Simulation of the emitted code, and its comparison with golden."""
