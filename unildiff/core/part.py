"""What the parts of the restorer have in common."""

import torch
from torch import nn


class Part(nn.Module):
    """A module that says its dtype and device, as diffusers' pipelines ask of their parts."""

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device
