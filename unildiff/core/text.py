"""Captions into embeddings: one CLIP text encoder (tiny) or SDXL's two.

Axis letters: B batch, S text tokens, D width of the joined embeddings, P width of the pooled embedding.
SDXL: penultimate hidden states of both encoders side by side (77 x 2048), pooled embedding of the second (1280)
(docs/sources.md, "Diffusion").
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, PreTrainedTokenizerBase

from unildiff.core.part import Part
from unildiff.diffusion.noise import to_device


@dataclass
class TextEmbedding:
    """Embedded captions.

    Attributes:
        tokens: (B, S, D).
        pooled: (B, P) of the second encoder, or None where the base has one encoder.
    """

    tokens: Tensor
    pooled: Tensor | None = None

    def joined(self, other: "TextEmbedding") -> "TextEmbedding":
        """Return this embedding and ``other`` as one batch."""
        pooled = None
        if self.pooled is not None and other.pooled is not None:
            pooled = torch.cat([self.pooled, other.pooled])
        return TextEmbedding(torch.cat([self.tokens, other.tokens]), pooled)

    def repeated(self, batch: int, times: int) -> "TextEmbedding":
        """Return n B captions as n ``times`` B: each block of ``batch`` captions repeated, for tiles of the images."""

        def repeat(x: Tensor) -> Tensor:
            return (
                torch.cat([x.unsqueeze(0)] * times).view(times, -1, batch, *x.shape[1:]).transpose(0, 1).flatten(0, 2)
            )

        return TextEmbedding(repeat(self.tokens), None if self.pooled is None else repeat(self.pooled))

    def last(self, batch: int) -> "TextEmbedding":
        """Return the last ``batch`` embeddings; nothing is copied."""
        return TextEmbedding(self.tokens[-batch:], None if self.pooled is None else self.pooled[-batch:])


class TextEncoders(Part):
    """The base's text encoders with their tokenizers.

    Args:
        tokenizers: one per encoder.
        encoders: ``CLIPTextModel``s, the second of two a ``CLIPTextModelWithProjection``.

    Raises:
        ValueError: if tokenizers and encoders differ in number or are not 1 or 2.
    """

    def __init__(
        self,
        tokenizers: Sequence[PreTrainedTokenizerBase],
        encoders: Sequence[CLIPTextModel | CLIPTextModelWithProjection],
    ) -> None:
        super().__init__()
        if len(tokenizers) != len(encoders) or len(encoders) not in (1, 2):
            raise ValueError(f"{len(tokenizers)} tokenizers and {len(encoders)} text encoders; expected 1 or 2 of each")
        self.tokenizers = list(tokenizers)
        self.encoders = nn.ModuleList(encoders)

    def freeze_unused(self) -> None:
        """Freeze what comes after the penultimate states of an encoder without a pooled embedding: it has no effect."""
        for encoder in self.encoders:
            if isinstance(encoder, CLIPTextModelWithProjection):
                continue
            unused = (f"layers.{encoder.config.num_hidden_layers - 1}.", "final_layer_norm.")  # type: ignore[union-attr, operator]
            for name, parameter in encoder.named_parameters():
                if any(part in name for part in unused):
                    parameter.requires_grad_(False)

    def forward(self, captions: Sequence[str]) -> TextEmbedding:
        """Embed captions; longer ones are cut at the tokenizer's length, as the base was trained."""
        device = next(self.parameters()).device
        states, pooled = [], None
        for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True):
            tokens = tokenizer(
                list(captions),
                padding="max_length",
                max_length=tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            )
            output = encoder(to_device(tokens.input_ids, device), output_hidden_states=True)
            states.append(output.hidden_states[-2])
            if isinstance(encoder, CLIPTextModelWithProjection):
                pooled = output.text_embeds
        return TextEmbedding(torch.cat(states, dim=-1), pooled)


Pixels = tuple[int, int] | Tensor
"""Two numbers of pixels, vertical and horizontal: the same for a whole batch, or (B, 2)."""


def time_ids(original: Pixels, crop: Pixels, target: Pixels, batch: int) -> Tensor:
    """Return SDXL's size conditioning (B, 6), float32, in pixels (Podell et al. 2023, arXiv 2307.01952, section 2.2).

    Args:
        original: height and width of the image before cropping.
        crop: top and left pixel of what the network sees of it.
        target: height and width of what the network sees.
        batch: B.
    """
    pairs = [torch.as_tensor(pair).float().expand(batch, 2) for pair in (original, crop, target)]
    return torch.cat(pairs, dim=1)
