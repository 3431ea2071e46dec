"""What small models are made and fed with, for those who need neither torch nor transformers: importing these takes seconds."""

from __future__ import annotations

import numpy as np

WIDTH, LAYERS, HEADS, HEAD, INNER, TOKENS, VOCABULARY = 64, 2, 4, 16, 128, 16, 96


def signals(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Noise; pictures have areas of colour as well, since pure noise looks alike to a network that takes means."""
    made = rng.standard_normal(shape)
    if len(shape) == 4 and shape[1] == 3:
        areas = rng.standard_normal((*shape[:2], 4, 4)) + rng.standard_normal((*shape[:2], 1, 1))
        made = 0.5 * made + np.kron(areas, np.ones((shape[2] // 4, shape[3] // 4)))
    return made.astype(np.float32)


def speech(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Log spectra [..., bands, frames] as Whisper's are scaled: syllables, each a burst of a few bands, then silence."""
    *lead, bands, frames = shape
    made = rng.normal(-1, 0.1, shape)
    for index in np.ndindex(*lead):
        places = rng.uniform(0, rng.uniform(0.3, 1) * frames, rng.integers(9, 36))
        loud = sum(rng.uniform(0.5, 1) * _bump(frames, place, rng.uniform(5, 15)) for place in places)
        voice = sum(rng.uniform(0.5, 1) * _bump(bands, place, rng.uniform(3, 8)) for place in rng.uniform(0, bands, 4))
        made[index] += 2 * np.clip(np.multiply.outer(voice, loud), 0, 1)
    return made.astype(np.float32)


def _bump(count: int, place: float, width: float) -> np.ndarray:
    return np.exp(-np.square((np.arange(count) - place) / width))
