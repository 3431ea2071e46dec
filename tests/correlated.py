"""Layers whose inputs hang together, as those of a real network do."""

from __future__ import annotations

import numpy as np

from attnc.arrays import Array


def layer(n: int = 24, k: int = 64, samples: int = 400, seed: int = 0) -> tuple[Array, Array]:
    """Weight [n, k] and inputs [samples, k] whose channels are mixtures of few causes, of very different size."""
    rng = np.random.default_rng(seed)
    mixture = rng.normal(size=(k, k)) * np.exp(-4 * np.arange(k) / k)[:, None]
    return rng.normal(size=(n, k)) * 0.05, rng.normal(size=(samples, k)) @ mixture + 0.05 * rng.normal(size=(samples, k))


def gram(inputs: Array) -> Array:
    """X^T X / count."""
    return inputs.T @ inputs / len(inputs)


def loss(inputs: Array, weight: Array, found: Array) -> float:
    """||X W^T - X Q^T||^2 / count."""
    return float(np.square(inputs @ (weight - found).T).sum() / len(inputs))
