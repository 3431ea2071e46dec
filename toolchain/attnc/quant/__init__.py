"""Calibration data, statistics of activations, and the choice of scales."""
