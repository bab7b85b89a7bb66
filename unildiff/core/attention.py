"""Attention parts of DAFF: fused attention, axial rotary positions, normalised queries and keys.

Axis letters: B batch, L tokens, D hidden width, n heads, d width of a head, S context tokens, h/w token grid.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def axial_rope(
    height: int, width: int, head_dim: int, device: torch.device | str = "cpu", scale: float = 1.0
) -> Tensor:
    """Return rotation angles (h*w, d/2) of a 2-D axial rotary embedding.

    Half the pairs turn with the row, half with the column (our choice: without positions, joint attention cannot tell
    which LQ token belongs to which latent). Positions are multiplied by ``scale``.

    Raises:
        ValueError: ``head_dim`` is not a multiple of 4.
    """
    if head_dim % 4:
        raise ValueError(f"head_dim is {head_dim}; axial RoPE needs a multiple of 4")
    frequencies = 100.0 ** (-torch.arange(head_dim // 4, device=device, dtype=torch.float32) / (head_dim // 4))
    rows = scale * torch.arange(height, device=device, dtype=torch.float32)[:, None] * frequencies
    columns = scale * torch.arange(width, device=device, dtype=torch.float32)[:, None] * frequencies
    grid = torch.cat(
        [rows[:, None].expand(height, width, -1), columns[None].expand(height, width, -1)],
        dim=-1,
    )
    return grid.reshape(height * width, head_dim // 2)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn consecutive halves of x (B, n, L, d) by angles (L, d/2); keeps norms and dtype."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x.dtype)


class HeadNorm(nn.RMSNorm):
    """RMS norm over a head, in the input's dtype: torch has no fused kernel for a float32 weight under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, n, L, d)."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class QueryKeyValue(nn.Module):
    """Projects tokens (B, L, D) to queries, keys and values (B, n, L, d), queries and keys RMS-normalised.

    Args:
        dim: D.
        num_heads: n.
        asks: whether the queries are used; if not they have no norm.

    Raises:
        ValueError: D is not a multiple of n.
    """

    def __init__(self, dim: int, num_heads: int, asks: bool = True) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"hidden size {dim} is not a multiple of num_heads {num_heads}")
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.projection = nn.Linear(dim, 3 * dim)
        self.query_norm = HeadNorm(self.head_dim, eps=1e-6) if asks else nn.Identity()
        self.key_norm = HeadNorm(self.head_dim, eps=1e-6)

    def forward(self, tokens: Tensor, angles: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys, values, each (B, n, L, d), rotated by ``angles`` (L, d/2) where given."""
        batch, length, _ = tokens.shape
        shaped = self.projection(tokens).view(batch, length, 3, self.num_heads, self.head_dim)
        query, key, value = shaped.permute(2, 0, 3, 1, 4).unbind(0)
        query, key = self.query_norm(query), self.key_norm(key)
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        return query, key, value


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return attention (B, L, n*d) of (B, n, L, d) inputs by torch's fused kernels: memory linear in tokens."""
    out = F.scaled_dot_product_attention(query, key, value)
    return out.transpose(1, 2).flatten(2)


class CrossAttention(nn.Module):
    """Light residual cross-attention from tokens (B, L, D) to a context, whose keys and values may be computed once.

    Args:
        dim: D of the tokens.
        context_dim: width of the context, e.g. of the text embedding.
        inner_dim: width of queries, keys and values.
        num_heads: n.
    """

    def __init__(self, dim: int, context_dim: int, inner_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, inner_dim, bias=False)
        self.key_value = nn.Linear(context_dim, 2 * inner_dim, bias=False)
        self.output = nn.Linear(inner_dim, dim)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)

    def prepare(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values (B, n, S, d) of a context (B, S, context_dim)."""
        key, value = self.key_value(context).chunk(2, dim=-1)
        return self._heads(key), self._heads(value)

    def forward(self, tokens: Tensor, key_value: tuple[Tensor, Tensor]) -> Tensor:
        """Return tokens + attention, (B, L, D)."""
        query = self._heads(self.query(self.norm(tokens)))
        attended: Tensor = self.output(attend(query, *key_value))
        return tokens + attended
