"""Memory and dense bfloat16 throughput of common GPUs, from the vendors' data sheets."""

from dataclasses import dataclass

GIB = 2**30
UTILISATION = 0.4
"""Share of the peak throughput that a training step is assumed to reach (our choice)."""


@dataclass(frozen=True)
class GPU:
    """One kind of card.

    Attributes:
        memory: bytes.
        tflops: peak dense bfloat16 throughput with float32 accumulation, in 1e12 operations per second.
        source: where both numbers are published.
    """

    memory: int
    tflops: float
    source: str


GPUS: dict[str, GPU] = {
    "a100": GPU(80 * GIB, 312, "NVIDIA A100 data sheet (80 GB SXM); the A800 differs in its links only"),
    "h100": GPU(80 * GIB, 989, "NVIDIA H100 data sheet (SXM), without sparsity"),
    "h200": GPU(141 * 10**9, 989, "NVIDIA H200 data sheet (SXM), without sparsity"),
    "l40s": GPU(48 * GIB, 362, "NVIDIA L40S data sheet, without sparsity"),
    "4090": GPU(24 * GIB, 165, "NVIDIA Ada GPU architecture white paper, appendix A, FP32 accumulation"),
    "3090": GPU(24 * GIB, 71, "NVIDIA Ampere GA102 white paper, appendix A, FP32 accumulation"),
}
RESERVED = 2_000_000_000
"""Additional bytes for the CUDA context, cuDNN's workspaces and the allocator's fragments (our estimate)."""
