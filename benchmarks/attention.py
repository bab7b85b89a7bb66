"""Attention in DAFF: fused kernels against a materialised matrix; channels-last and torch.compile for the U-Net.

Axis letters: n heads, L tokens, d width of a head.
"""

import time

import torch
from torch import Tensor

from benchmarks.memory import peak_growth
from benchmarks.models import CAPTION, lq_image, tiny_model
from benchmarks.table import Goal, Row, seconds_row
from benchmarks.timing import Effort, alternate
from unildiff.core.attention import attend

HEADS, WIDTH = 4, 32  # of the tiny model's double-stream block
LIMIT = "its seven matrix products alone"


def materialised(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention with its (L, L) matrix written out, as repositories without fused kernels have it."""
    weights = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(dim=-1)
    return (weights @ value).transpose(1, 2).flatten(2)


def tokens(length: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, HEADS, length, WIDTH, generator=generator).requires_grad_() for _ in range(3)]


def step(method: object, leaves: list[Tensor]) -> None:
    output = method(*leaves)  # type: ignore[operator]
    output.backward(torch.ones_like(output))
    for leaf in leaves:
        leaf.grad = None


def products(leaves: list[Tensor]) -> None:
    """The products of L x L x d: two forward, five backward (the matrix is made again where it is not kept)."""
    query, key = leaves[0].detach(), leaves[1].detach()
    for _ in range(3):
        matrix = query @ key.transpose(-2, -1)
    for _ in range(4):
        matrix @ key


def rows(effort: Effort) -> list[Row]:
    length = 128 if effort.small else 2048  # both streams of a 512x512 image at the tiny model's patch size
    leaves = tokens(length)
    seconds = alternate(
        {
            "ours": lambda: step(attend, leaves),
            "peer": lambda: step(materialised, leaves),
            "limit": lambda: products(leaves),
        },
        effort.rounds,
        time.process_time,
    )
    made = [
        seconds_row(
            f"attention, forward and backward, {length} tokens, {HEADS} heads of {WIDTH}", seconds,
            peer_way="attention matrix written out", limit_is=LIMIT,
        ),
        memory_row(effort),
    ]  # fmt: skip
    return made + layouts(effort)


def memory_row(effort: Effort) -> Row:
    """Peak memory of a step against twice that of half the tokens: linear is a ratio of 1."""
    length = 256 if effort.small else 8192

    def peaks(method: object, count: int) -> list[float]:
        leaves = tokens(count)
        step(method, leaves)
        return [peak_growth(lambda: step(method, leaves)) for _ in range(3)]

    whole, half = peaks(attend, length), peaks(attend, length // 2)
    their = peaks(materialised, length)
    return Row(
        f"attention, peak memory of a step, {length} tokens", whole, their, [2 * value for value in half],
        "attention matrix written out", "twice that of half the tokens", Goal(1.1, "limit"), unit="MiB",
    )  # fmt: skip


@torch.inference_mode()
def layouts(effort: Effort) -> list[Row]:
    """One U-Net pass as it is, with weights in channels-last order, and compiled."""
    side = 32 if effort.small else 256
    plain, turned, compiled = tiny_model(), tiny_model().to(memory_format=torch.channels_last), tiny_model()  # type: ignore[call-overload]
    features = plain.encode_lq(lq_image(side))
    context = plain.context(features.deep, plain.embed(["", CAPTION]), (side, side))
    latents, timesteps = features.latents, torch.full((1,), 500)
    last = latents.to(memory_format=torch.channels_last)
    if not effort.small:  # minutes
        compiled.unet.compile()
    seconds = alternate(
        {
            "ours": lambda: plain.unet(latents, timesteps, context),
            "channels-last": lambda: turned.unet(last, timesteps, context),
            "compiled": lambda: compiled.unet(latents, timesteps, context),
        },
        effort.rounds,
        time.process_time,
    )
    return [
        seconds_row(
            f"U-Net pass under two captions, {side}x{side}, against {name}", {"ours": seconds["ours"], "limit": seconds[name]},
            limit_is=limit,
        )
        for name, limit in (("channels-last", "the same, channels-last"), ("compiled", "the same under torch.compile"))
    ]  # fmt: skip
