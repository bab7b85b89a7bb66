"""Layer norm over channels, for feature maps (B, C, H, W).

Axis letters: B batch, C channels, H/W height and width of whatever level.
"""

from torch import Tensor, nn


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each position of (B, C, H, W)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, C, H, W)."""
        normed: Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return normed
