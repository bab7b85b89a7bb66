"""UniLDiff: all-in-one image restoration with latent diffusion."""

from importlib import import_module
from typing import Any

from unildiff.utils.datamodules import install

__version__ = "0.1.0"

install()


def __getattr__(name: str) -> Any:
    """Import ``UniLDiffPipeline`` when it is used: ``unildiff --help`` must not wait for torch."""
    if name == "UniLDiffPipeline":
        return import_module("unildiff.weights.pipeline").UniLDiffPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
