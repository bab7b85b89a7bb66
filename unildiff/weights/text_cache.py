"""Caption embeddings on disk: written once by any number of processes, with random access.

Axis letters: N captions of a file, B batch, S text tokens, D width of the joined embeddings, P width of the pooled one.

Files ``captions-<hash>.safetensors`` hold ``tokens`` (N, S, D), ``pooled`` (N, P) if the base has pooled embeddings, and
the captions in their header. Files are written atomically; captions of further data go into further files.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from unildiff.core.text import TextEmbedding, TextEncoders
from unildiff.utils.errors import UserError
from unildiff.utils.files import parse_json, write_whole
from unildiff.utils.fingerprints import short_hash, weights_hash


class TextCache:
    """Captions and their embeddings in a folder."""

    def __init__(self, folder: Path) -> None:
        """Use ``folder``, which is created by the first :meth:`write`."""
        self.folder = folder
        self._places: dict[str, tuple[Path, int]] = {}

    def look(self) -> None:
        """List the cached captions; files that cannot be read are ignored."""
        for path in sorted(self.folder.glob("captions-*.safetensors")):
            try:
                with safe_open(path, "pt") as file:
                    captions = parse_json(file.metadata()["captions"])
            except (OSError, SafetensorError, TypeError, KeyError, ValueError):  # damaged, or of another program
                continue
            self._places |= {caption: (path, index) for index, caption in enumerate(captions)}

    def missing(self, captions: Iterable[str]) -> list[str]:
        """Return those of ``captions`` that are not cached, without repetitions, sorted."""
        return sorted(set(captions) - set(self._places))

    def write(self, captions: Sequence[str], embedding: TextEmbedding) -> None:
        """Add N captions with their embeddings.

        Raises:
            UserError: the file cannot be written, for example because the disk is full; no part of it is left.
        """
        parts: dict[str, Any] = {"tokens": embedding.tokens, "pooled": embedding.pooled}
        tensors = {name: value.detach().cpu().contiguous() for name, value in parts.items() if value is not None}
        path = self.folder / f"captions-{short_hash(list(captions))}.safetensors"
        write_whole(path, save(tensors, {"captions": json.dumps(list(captions))}))

    def read(self, captions: Sequence[str]) -> TextEmbedding:
        """Return the embeddings of B captions, on the CPU.

        Raises:
            UserError: a caption is not cached, or its file cannot be read.
        """
        rows = [self._row(caption) for caption in captions]
        pooled = torch.stack([row["pooled"] for row in rows]) if "pooled" in rows[0] else None
        return TextEmbedding(torch.stack([row["tokens"] for row in rows]), pooled)

    def _row(self, caption: str) -> dict[str, Tensor]:
        if caption not in self._places:
            raise UserError(
                f"captions: {caption[:60]!r} is not in the cache {self.folder}; train without "
                "unildiff.callbacks.CaptionCache, or with data whose captions can be listed"
            )
        path, index = self._places[caption]
        try:
            with safe_open(path, "pt") as file:
                return {name: file.get_slice(name)[index] for name in file.keys()}  # noqa: SIM118  # no mapping
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"captions: {path} cannot be read ({error}); delete it; the next run creates it again"
            ) from None


class CachedText(nn.Module):
    """Replaces the text encoders by the cached embeddings of known captions.

    Args:
        cache: cache with all captions that will be used.
        fingerprint: fingerprint of the encoders that embedded them.
    """

    def __init__(self, cache: TextCache, fingerprint: str) -> None:
        super().__init__()
        self.cache, self.fingerprint = cache, fingerprint
        self.place: Tensor
        self.register_buffer("place", torch.zeros(1), persistent=False)  # moves with the model

    def forward(self, captions: Sequence[str]) -> TextEmbedding:
        """Return tokens (B, S, D) and pooled (B, P) or None, on the model's device and in its dtype.

        Raises:
            UserError: a caption is not cached.
        """
        found, place = self.cache.read(captions), self.place
        pooled = None if found.pooled is None else found.pooled.to(place)
        return TextEmbedding(found.tokens.to(place), pooled)


def text_fingerprint(text: TextEncoders | CachedText) -> str:
    """Return a short hash of the weights of text encoders and of their tokenizers' vocabularies."""
    if isinstance(text, CachedText):
        return text.fingerprint
    words = [[tokenizer.get_vocab(), tokenizer.model_max_length] for tokenizer in text.tokenizers]
    return short_hash([weights_hash(text.named_parameters()), short_hash(words)])
