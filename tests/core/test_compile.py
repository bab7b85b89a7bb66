"""What torch.compile can take whole; traced with the ``eager`` backend, which has graph breaks but no code generation."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, _dynamo

from tests.small import NETWORK, small_base, small_model
from unildiff.core.daem import DetailConfig
from unildiff.core.decoder import DetailDecoder


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    _dynamo.reset()
    yield
    _dynamo.reset()


def pictures() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@torch.no_grad()
def test_fused_unet_and_lq_encoder_are_one_graph_each() -> None:
    model, timesteps = small_model(), torch.tensor([1, 900])
    features = model.encode_lq(pictures())
    context = model.context(features.deep, model.embed(["a cat", ""]), (32, 32))
    for part, inputs in ((model.unet, (features.latents, timesteps, context)), (model.lq_encoder, (pictures(),))):
        whole = torch.compile(part, fullgraph=True, backend="eager")
        torch.testing.assert_close(whole(*inputs)[0], part(*inputs)[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_decoder_breaks_only_where_experts_are_chosen() -> None:
    base, latents = small_base(), torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    plain = DetailDecoder(base.vae, DetailConfig(kind="none"))
    torch.compile(plain, fullgraph=True, backend="eager")(latents, [])
    # How many inputs an expert gets is known only at run time, so that idle ones cost nothing: a break a level.
    model = small_model(base, network=replace(NETWORK, detail=replace(NETWORK.detail, routing="window")))
    explained = _dynamo.explain(model.decoder)(latents, model.encode_lq(pictures()).skips)
    where = {
        (frame.name, frame.filename.rpartition("/")[2]) for frame in (r.user_stack[-1] for r in explained.break_reasons)
    }
    assert where == {("dispatch", "moe.py")}
