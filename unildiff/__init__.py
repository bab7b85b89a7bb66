"""UniLDiff: all-in-one image restoration with latent diffusion."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unildiff.weights.pipeline import UniLDiffPipeline

__version__ = "0.1.0"
__all__ = ["UniLDiffPipeline", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the pipeline when it is used: ``unildiff --help`` must not wait for torch."""
    if name == "UniLDiffPipeline":
        from unildiff.weights.pipeline import UniLDiffPipeline

        return UniLDiffPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
