"""Lightning callbacks: averaged weights, checkpoints that survive anything, bad steps skipped, randomness by step."""

from unildiff.callbacks.caption_cache import CaptionCache
from unildiff.callbacks.checkpoint_io import AtomicCheckpointIO
from unildiff.callbacks.checkpointing import Checkpointing
from unildiff.callbacks.compile import CompileRegions
from unildiff.callbacks.ema import ExponentialMovingAverage
from unildiff.callbacks.nonfinite import NonFiniteGuard
from unildiff.callbacks.recipe import GlobalBatch, MatmulPrecision
from unildiff.callbacks.seeding import StepSeed

__all__ = [
    "AtomicCheckpointIO",
    "CaptionCache",
    "Checkpointing",
    "CompileRegions",
    "ExponentialMovingAverage",
    "GlobalBatch",
    "MatmulPrecision",
    "NonFiniteGuard",
    "StepSeed",
]
