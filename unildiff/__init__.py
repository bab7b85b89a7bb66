"""UniLDiff: all-in-one image restoration with latent diffusion."""

__version__ = "0.1.0"
