import math

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding

from tests.small import draw
from unildiff.core.attention import CrossAttention, QueryKeyValue, attend, axial_rope, rotate
from unildiff.core.fusion_blocks import DoubleStreamBlock, SingleStreamBlock, TimestepEmbedding


def test_rope_by_hand() -> None:
    # Heads of 8: frequencies 1 and 100^(-1/2) = 0.1 for the row, the same for the column. Token (row 2, column 3).
    angles = axial_rope(4, 5, head_dim=8)
    assert angles.shape == (20, 4)
    torch.testing.assert_close(angles[2 * 5 + 3], torch.tensor([2.0, 0.2, 3.0, 0.3]))
    # Pair (i, i + d/2) turns by its angle: (1, 0) by 90 degrees becomes (0, 1).
    turned = rotate(torch.tensor([[1.0, 0.0, 0.0, 2.0]]), torch.tensor([[math.pi / 2, math.pi]]))
    torch.testing.assert_close(turned, torch.tensor([[0.0, 0.0, 1.0, -2.0]]), atol=1e-6, rtol=0)


def test_rope_makes_attention_depend_on_the_shift_between_tokens_alone() -> None:
    angles = axial_rope(6, 6, head_dim=8)
    query, key = draw(8), draw(8, seed=1)
    scores = rotate(query.expand(36, 8), angles) @ rotate(key.expand(36, 8), angles).T
    for first, second in (((0, 0), (1, 2)), ((3, 1), (4, 3)), ((4, 3), (5, 5))):  # one row down, two columns right
        a, b = (row * 6 + column for row, column in (first, second))
        assert scores[a, b].item() == pytest.approx(scores[0, 8].item(), abs=1e-4)
    assert abs(scores[0, 8] - scores[0, 9]) > 1e-3
    torch.testing.assert_close(rotate(query.expand(36, 8), angles).norm(dim=1), query.norm().expand(36))


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="head_dim is 6"):
        axial_rope(2, 2, 6)
    with pytest.raises(ValueError, match="hidden size 10 is not a multiple of num_heads 4"):
        QueryKeyValue(10, 4)


def test_queries_and_keys_are_normalised() -> None:
    query, key, value = QueryKeyValue(16, 2)(100 * draw(1, 5, 16), None)
    for normed in (query, key):  # root mean square 1 over the head
        torch.testing.assert_close(normed.pow(2).mean(-1), torch.ones(1, 2, 5), atol=1e-4, rtol=0)
    assert value.abs().max() > 5


def test_attention_by_its_formula() -> None:
    query, key, value = draw(2, 3, 4, 8), draw(2, 3, 5, 8, seed=1), draw(2, 3, 5, 8, seed=2)
    weights = (query @ key.transpose(2, 3) / math.sqrt(8)).softmax(-1)
    expected = (weights @ value).transpose(1, 2).reshape(2, 4, 24)
    torch.testing.assert_close(attend(query, key, value), expected)


def test_text_attention_against_torch() -> None:
    block = CrossAttention(dim=12, context_dim=6, inner_dim=8, num_heads=2)
    tokens, text = draw(2, 5, 12), draw(2, 7, 6, seed=1)
    key, value = block.key_value.weight.chunk(2)
    expected, _ = torch.nn.functional.multi_head_attention_forward(
        block.query(block.norm(tokens)).transpose(0, 1),
        (text @ key.T).transpose(0, 1),
        (text @ value.T).transpose(0, 1),
        embed_dim_to_check=8,
        num_heads=2,
        in_proj_weight=torch.eye(8).repeat(3, 1),
        in_proj_bias=None,
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=block.output.weight,
        out_proj_bias=block.output.bias,
    )
    result = block(tokens, block.prepare(text))
    torch.testing.assert_close(result, tokens + expected.transpose(0, 1), atol=1e-5, rtol=1e-5)


def test_timestep_vector_is_diffusers_sinusoid_through_an_mlp() -> None:
    embedding = TimestepEmbedding(8)
    timesteps = torch.tensor([0, 1, 500, 999])
    sinusoid = get_timestep_embedding(timesteps, 256, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(embedding(timesteps, torch.float32), embedding.mlp(sinusoid), atol=1e-5, rtol=1e-5)


def test_single_stream_block_by_its_equation() -> None:
    # f_align = f_cat + g * Linear2([A, act(M)]), A and M of the same normed and modulated tokens.
    block = SingleStreamBlock(width=16, vector_dim=8, num_heads=2, mlp_ratio=2)
    merged, vector = draw(2, 5, 16), draw(2, 8, seed=1)
    shift, scale, gate = block.modulation(torch.nn.functional.silu(vector)).view(2, 1, 48).chunk(3, -1)
    normed = (merged - merged.mean(-1, keepdim=True)) / (merged.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    normed = normed * (1 + scale) + shift
    attended = attend(*block.qkv(normed, None))
    mlp = torch.nn.functional.gelu(normed @ block.mlp_in.weight.T + block.mlp_in.bias, approximate="tanh")
    expected = merged + gate * block.output(torch.cat([attended, mlp], -1))
    result, mean_gate = block(merged, vector, None)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mean_gate, gate.abs().mean(dim=(1, 2)))


def test_both_streams_attend_to_each_other_in_one_attention() -> None:
    block = DoubleStreamBlock(16, 2, mlp_ratio=2)
    lq, latent, vector = draw(1, 4, 16), draw(1, 4, 16, seed=1), draw(1, 16, seed=2)
    first = block(lq, latent, vector, None, None, "")
    changed_latent = block(lq, latent + draw(1, 4, 16, seed=3), vector, None, None, "")
    changed_lq = block(lq + draw(1, 4, 16, seed=4), latent, vector, None, None, "")
    assert not torch.allclose(first[0], changed_latent[0], atol=1e-4)
    assert not torch.allclose(first[1], changed_lq[1], atol=1e-4)
    # With the gates closed (modulation of all zeros but for its scales) each stream passes through unchanged.
    with torch.no_grad():
        for stream in (block.lq, block.latent):
            stream.modulation.weight.zero_(), stream.modulation.bias.zero_()
    shut = block(lq, latent, vector, None, None, "")
    assert torch.equal(shut[0], lq) and torch.equal(shut[1], latent)
