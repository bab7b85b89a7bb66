"""UniLDiff: all-in-one image restoration with latent diffusion."""

from unildiff.utils.datamodules import install

__version__ = "0.1.0"

install()
