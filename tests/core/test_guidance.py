"""Guidance: what does not depend on the caption is computed once for both passes, with the same result."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.small import NETWORK, random_images, sdxl_like_base, small_base, small_model
from unildiff.core.model import UniLDiff
from unildiff.core.network import NetworkConfig
from unildiff.core.text import TextEmbedding
from unildiff.diffusion.sampler import SamplingSettings


def one_text_at_a_time(model: UniLDiff, text: TextEmbedding, x: Tensor, latents: Tensor, steps: Tensor) -> Tensor:
    """Return predictions (n B, C, h, w) by n separate passes, each with its own context."""
    features, batch = model.encode_lq(x), len(x)
    passes = []
    for first in range(0, len(text.tokens), batch):
        pooled = None if text.pooled is None else text.pooled[first : first + batch]
        alone = TextEmbedding(text.tokens[first : first + batch], pooled)
        passes.append(model.predict(latents, steps, model.context(features.deep, alone, (64, 48))))
    return torch.cat(passes)


@pytest.mark.parametrize(
    "fusion",
    [{}, {"text_attention": False}, {"kind": "plain"}, {"num_double_blocks": 2, "token_experts": 2}, {"patch_size": 2}],
    ids=str,
)
@pytest.mark.parametrize("base", [small_base, sdxl_like_base])
def test_shared_pass_equals_one_pass_per_caption(base: Any, fusion: dict[str, Any]) -> None:
    network = NetworkConfig(replace(NETWORK.fusion, **fusion), NETWORK.detail)
    model = small_model(base(), network=network).double()
    x, steps = random_images(64, 48).double(), torch.tensor([900.0, 30.0])
    latents = torch.randn(2, 4, 8, 6, generator=torch.Generator().manual_seed(1)).double()
    text = model.embed(["", "", "a red cat", "the table"])
    with torch.no_grad():
        expected = one_text_at_a_time(model, text, x, latents, steps)
        shared = model.predict(latents, steps, model.context(model.encode_lq(x).deep, text, (64, 48)))
    assert shared.shape == (4, 4, 8, 6)
    torch.testing.assert_close(shared, expected, atol=1e-10, rtol=1e-10)
    assert (shared[:2] - shared[2:]).abs().max() > 1e-6  # the caption matters


def test_a_guided_step_runs_the_fusion_blocks_once_per_image() -> None:
    model = small_model()
    rows: dict[str, list[int]] = {"conv_in": [], "double": [], "single": [], "text": [], "rest": []}

    def count(name: str) -> Any:
        return lambda module, args, kwargs, output: rows[name].append(
            len(output[0] if isinstance(output, tuple) else output.sample if hasattr(output, "sample") else output)
        )

    fusion = model.unet.fusion
    for name, module in {
        "conv_in": model.unet.conv_in,
        "double": fusion.double_blocks[0],
        "single": fusion.single_blocks[0],
        "text": fusion.text_attention,
        "rest": model.unet.rest,
    }.items():
        module.register_forward_hook(count(name), with_kwargs=True)
    model.restore(random_images(64, 48), ["a red cat", "the table"], [1, 2], SamplingSettings(3, 5.0))
    assert rows["conv_in"] == rows["double"] == rows["single"] == [2] * 3  # three steps of two images
    assert rows["text"] == rows["rest"] == [4] * 3


def test_skips_are_computed_for_the_decoder_if_sampling_did_not_keep_them() -> None:
    model = small_model()
    x = random_images(64, 48)
    kept, dropped = model.encode_lq(x), model.encode_lq(x, keep_skips=False)
    assert kept.skips and not dropped.skips
    assert torch.equal(model.decode(kept.latents, kept, x.shape), model.decode(kept.latents, dropped, x.shape))
