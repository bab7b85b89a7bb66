from pathlib import Path

import pytest
import torch
from transformers import CLIPTokenizer

from tests.small import SMALL, WORDS, sdxl_like_base, small_base
from unildiff.core.text import time_ids
from unildiff.core.tiny import make_tiny_base, tiny_tokenizer
from unildiff.deadleaves.renderer import VOCABULARY
from unildiff.weights.base import load_base
from unildiff.weights.folder import save_base


def words_in_ids(tokenizer: CLIPTokenizer, word: str) -> int:
    return len(tokenizer(word)["input_ids"]) - 2  # without start and end


@pytest.mark.parametrize(
    "words",
    [
        list(VOCABULARY),
        ["ara", "bar", "barn", "narb", "rn", "arn"],  # the pair "a r" of one word cuts another
        ["abc", "bcab", "ab", "cabc", "bc", "abcabc", "a"],
        ["aaa", "aa", "aaaaa", "aaaa"],
    ],
)
def test_tokenizer_knows_its_words_whole(words: list[str]) -> None:
    tokenizer = tiny_tokenizer(words, 24)
    assert {word: words_in_ids(tokenizer, word) for word in words} == dict.fromkeys(words, 1)
    assert len({tokenizer(word)["input_ids"][1] for word in words}) == len(set(words))


def test_tokenizer_spells_other_words_and_marks_both_ends() -> None:
    tokenizer = tiny_tokenizer(["cat"], 8)
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert words_in_ids(tokenizer, "dog") == 3 and words_in_ids(tokenizer, "7-up") == 4
    ids = tokenizer("A Cat", padding="max_length", max_length=8)["input_ids"]
    a, cat = (tokenizer(word)["input_ids"][1] for word in ("a", "cat"))
    assert ids == [start, a, cat, end, end, end, end, end]  # padded with the end token, as CLIP's own are
    assert tokenizer.decode([cat]) == "cat"
    long = tokenizer("cat " * 20, truncation=True)["input_ids"]
    assert len(long) == 8 and long[-1] == end


def test_saved_tokenizer_is_a_clip_tokenizer(tmp_path: Path) -> None:
    save_base(small_base(), tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    caption = "the red cat, 3 tables"
    assert loaded(caption)["input_ids"] == small_base().text.tokenizers[0](caption)["input_ids"]
    assert loaded.model_max_length == 12
    base = load_base(str(tmp_path))
    assert torch.equal(base.text([caption]).tokens, small_base().text([caption]).tokens)


def test_base_is_a_function_of_words_seed_and_sizes() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = make_tiny_base(WORDS, 0, SMALL), make_tiny_base(WORDS[::-1], 0, SMALL), small_base(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.unet.conv_in.weight, again.unet.conv_in.weight)
    assert torch.equal(first.text(["red cat"]).tokens, again.text(["red cat"]).tokens)
    assert not torch.equal(first.unet.conv_in.weight, other.unet.conv_in.weight)


def test_one_encoder_ends_at_its_penultimate_layer() -> None:
    text = small_base().text
    encoder = text.encoders[0]
    embedding = text(["a red cat", "the table"])
    assert embedding.tokens.shape == (2, 12, 16) and embedding.pooled is None
    with torch.no_grad():
        states = encoder(
            torch.tensor([text.tokenizers[0]("a red cat", padding="max_length", max_length=12)["input_ids"]]),
            output_hidden_states=True,
        ).hidden_states
    assert len(states) == 3  # embeddings and two layers
    assert torch.equal(embedding.tokens[0], states[1][0])
    assert not torch.equal(embedding.tokens[0], embedding.tokens[1])


def test_freeze_unused_leaves_what_has_an_effect() -> None:
    text = small_base().text
    text.freeze_unused()
    text(["a red cat"]).tokens.square().sum().backward()
    frozen = {name for name, parameter in text.named_parameters() if not parameter.requires_grad}
    assert frozen and all("layers.1." in name or "final_layer_norm" in name for name in frozen)
    assert all(parameter.grad is not None for parameter in text.parameters() if parameter.requires_grad)
    # Where a pooled embedding is used, the last layer has an effect.
    two = sdxl_like_base().text
    two.freeze_unused()
    assert all(parameter.requires_grad for parameter in two.encoders[1].parameters())
    assert not all(parameter.requires_grad for parameter in two.encoders[0].parameters())


def test_joined_embeddings_and_time_ids() -> None:
    text = sdxl_like_base().text
    first, second = text(["cat"]), text([""])
    joined = first.joined(second)
    assert joined.pooled is not None and first.pooled is not None and second.pooled is not None
    assert torch.equal(joined.tokens, torch.cat([first.tokens, second.tokens]))
    assert torch.equal(joined.pooled, torch.cat([first.pooled, second.pooled]))
    # SDXL: original height, width, crop top, left, target height, width.
    assert time_ids((1023, 768), (1, 2), (512, 640), 2).tolist() == [[1023, 768, 1, 2, 512, 640]] * 2
