"""Base class of the restorer's parts."""

import torch
from torch import nn


class Part(nn.Module):
    """A module with ``dtype`` and ``device``, as diffusers' pipelines expect of their parts."""

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device
