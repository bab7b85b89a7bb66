"""Randomness as a pure function of who asks: every sample carries one integer key, every use of it names a stream.

Workers, ranks, batch composition and resumption therefore never change what a sample looks like (our choice;
global generators are how peers' test noise came to depend on file order, see the tests).
"""

import hashlib

import numpy as np


def sample_key(*parts: int | str) -> int:
    """Return a 63-bit key that depends on every part, e.g. ``sample_key(seed, epoch, index)``.

    Args:
        parts: integers or strings; ``1`` and ``"1"`` give different keys.

    Returns:
        An integer in [0, 2**63), fit for an int64 tensor.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(key: int, stream: str) -> np.random.Generator:
    """Return an independent numpy generator for one use (``stream``) of a sample's key."""
    return np.random.Generator(np.random.PCG64(sample_key(key, stream)))


def image_key(seed: int, lq: np.ndarray) -> int:
    """Return the key of an image to restore. It comes from the pixels, so that ``test`` and ``restore`` agree on any copy."""
    digest = hashlib.blake2b(np.ascontiguousarray(lq).data, digest_size=8).hexdigest()
    return sample_key(seed, *lq.shape, digest)
