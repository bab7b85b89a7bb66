"""The untrained tiny base: diffusers models and a CLIP text encoder with its own small vocabulary."""

import json
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from unildiff.core.base import Base
from unildiff.core.sizes import TINY
from unildiff.core.text import TextEncoders


def tiny_tokenizer(words: list[str], max_length: int) -> CLIPTokenizer:
    """Return a CLIP tokenizer with one token per known word that spells all others by letters (our choice).

    Args:
        words: lower-case words; order does not matter.
        max_length: tokens per caption, start and end included.
    """
    start, end = "<|startoftext|>", "<|endoftext|>"
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + list("0123456789.,'-")
    vocabulary = [start, end, *letters, *(letter + "</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in sorted(set(words)):
        # Apply the merges of earlier words first, then join the remaining pieces from the left.
        pieces = _merged([*word[:-1], word[-1] + "</w>"], merges)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces[:2] = [pieces[0] + pieces[1]]
            if pieces[0] not in vocabulary:
                vocabulary.append(pieces[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
        (path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n")
        return CLIPTokenizer(
            str(path / "vocab.json"),
            str(path / "merges.txt"),
            unk_token=end,
            bos_token=start,
            eos_token=end,
            pad_token=end,
            model_max_length=max_length,
        )


def _merged(pieces: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """Return what byte-pair encoding leaves of ``pieces``: of the pairs side by side the earliest merge comes first."""
    ranks = {merge: rank for rank, merge in enumerate(merges)}
    while possible := [pair for pair in pairwise(pieces) if pair in ranks]:
        best = min(possible, key=ranks.__getitem__)
        index = list(pairwise(pieces)).index(best)
        pieces = [*pieces[:index], "".join(best), *pieces[index + 2 :]]
    return pieces


@torch.no_grad()
def _narrow_posterior(vae: AutoencoderKL) -> None:
    """Let the untrained VAE's posterior start with a standard deviation of 0.05.

    Latents of an untrained encoder have a spread of about 0.2: under noise of 1 only brightness outgrew the noise and
    colour stayed lost in it for thousands of steps (measured, docs/history/tiny-model.md).
    """
    channels = int(vae.config.latent_channels)
    vae.quant_conv.weight[channels:] = 0
    vae.quant_conv.bias[channels:] = -6.0


def make_tiny_base(words: list[str], seed: int = 0, sizes: dict[str, dict[str, Any]] | None = None) -> Base:
    """Return an untrained base of the ``tiny`` sizes (or of ``sizes``, same keys), a pure function of its arguments.

    Args:
        words: vocabulary of the captions.
        seed: seed of the initialisation.
        sizes: other sizes with the keys of ``TINY``; tests use smaller ones.
    """
    sizes = sizes or TINY
    text = sizes["text_encoder"]
    tokenizer = tiny_tokenizer(words, int(text["max_position_embeddings"]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL(**sizes["vae"])
        _narrow_posterior(vae)
        unet = UNet2DConditionModel(**sizes["unet"])
        config = CLIPTextConfig(
            **text,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        encoder = CLIPTextModel(config)
    return Base(vae, unet, TextEncoders([tokenizer], [encoder]), dict(sizes["scheduler"]))
