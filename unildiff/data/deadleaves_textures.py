"""Textures and colours of the generated pictures: one bank a process, a pure function of a fixed constant.

Axis letters: N textures, S side of a texture, H/W pixels.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

BANK_SEED, BANK_SIZE, BANK_SIDE = 20261123, 40, 512
NAMES = ("plain", "grainy", "striped", "rough", "mottled")


@cache
def texture_bank() -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Return textures (N, S, S), mean 0 and standard deviation 1, and their names.

    Power spectra 1/f^a with a in 0.6..1.5, some stretched along a direction, some pushed towards two tones, some
    periodic: fields, cloth, bark, water, brick and print in photographs have such spectra (our choice).
    """
    rng = np.random.default_rng(BANK_SEED)
    rows = np.fft.fftfreq(BANK_SIDE)[:, None]
    columns = np.fft.rfftfreq(BANK_SIDE)[None]
    textures, names = [], []
    for index in range(BANK_SIZE):
        angle, stretch = rng.uniform(0, np.pi), float(rng.choice([1, 1, 2, 5]))
        slope = float(rng.uniform(0.6, 1.5))
        along = columns * np.cos(angle) + rows * np.sin(angle)
        across = -columns * np.sin(angle) + rows * np.cos(angle)
        frequency = np.sqrt((along * stretch) ** 2 + across**2 + 1e-6)
        phases = rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)
        texture = np.fft.irfft2(phases / frequency**slope * (frequency > 1.5 / BANK_SIDE), s=(BANK_SIDE, BANK_SIDE))
        texture /= texture.std()
        name = "striped" if stretch == 5 else ("rough" if slope > 1.3 else "grainy")
        if index % 4 == 0:
            texture, name = np.tanh(texture * rng.uniform(1, 4)), "mottled"
        elif index % 4 == 1:
            grid = np.mgrid[0:BANK_SIDE, 0:BANK_SIDE]
            period = rng.uniform(4, 24)
            wave = np.sin(2 * np.pi * (grid[1] * np.cos(angle) + grid[0] * np.sin(angle) + 2 * texture) / period)
            texture, name = np.clip(wave * rng.uniform(1, 4), -1, 1) + 0.3 * texture, "striped"
        textures.append(((texture - texture.mean()) / texture.std()).astype(np.float32))
        names.append(name)
    return np.stack(textures), tuple(names)


COLOURS: dict[str, tuple[float, float, float]] = {
    "grey": (0.5, 0.5, 0.5),
    "black": (0.08, 0.08, 0.09),
    "white": (0.88, 0.87, 0.85),
    "brown": (0.36, 0.25, 0.17),
    "beige": (0.72, 0.63, 0.5),
    "red": (0.66, 0.15, 0.12),
    "orange": (0.82, 0.45, 0.15),
    "yellow": (0.83, 0.73, 0.26),
    "green": (0.24, 0.38, 0.16),
    "olive": (0.4, 0.4, 0.22),
    "blue": (0.2, 0.34, 0.6),
    "cyan": (0.45, 0.66, 0.72),
    "purple": (0.4, 0.25, 0.45),
    "pink": (0.8, 0.55, 0.56),
}
# Photographs are mostly greys, browns and greens; saturated colours are rare (our choice of weights).
COLOUR_WEIGHTS = np.array([5, 3, 2, 4, 4, 1.2, 1, 1, 3, 3, 2.5, 2, 0.5, 0.8])
COLOUR_WEIGHTS = COLOUR_WEIGHTS / COLOUR_WEIGHTS.sum()


def draw_colour(rng: np.random.Generator, cast: NDArray[np.float32]) -> tuple[NDArray[np.float32], str]:
    """Return an RGB colour (3,) near a named one, its brightness spread widely, under a scene's cast; and the name."""
    name = tuple(COLOURS)[int(rng.choice(len(COLOURS), p=COLOUR_WEIGHTS))]
    brightness = float(np.exp(rng.normal(0, 0.6)))
    colour = np.asarray(COLOURS[name], np.float32) * brightness * cast + rng.normal(0, 0.03, 3).astype(np.float32)
    return np.clip(colour, 0.0, 1.0).astype(np.float32), name
