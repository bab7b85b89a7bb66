"""Captions by tiny, randomly initialised models that the tests save; what they say is compared with transformers' own."""

import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from unildiff.data.captions import Captions
from unildiff.data.images import read_rgb
from unildiff.data.tools import captioner as module
from unildiff.data.tools.captioner import caption_folder, leaks, load_captioner
from unildiff.utils.errors import UserError

WORDS = [
    "[PAD]",
    "[UNK]",
    "[BOS]",
    "[EOS]",
    "[IMG]",
    "a",
    "dog",
    "on",
    "the",
    "red",
    "house",
    "tree",
    "USER",
    "describe",
    ":",
]


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    vocabulary = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    vocabulary.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=vocabulary,
        pad_token="[PAD]",
        unk_token="[UNK]",
        bos_token="[BOS]",
        eos_token="[EOS]",
        additional_special_tokens=["[IMG]"],
    )


ENDS = {"bos_token_id": 2, "eos_token_id": 3}
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def save_blip(folder: Path) -> None:
    """Save a model that describes images without a prompt."""
    torch.manual_seed(0)
    text = {
        **SMALL,
        "vocab_size": len(WORDS),
        "bos_token_id": 2,
        "pad_token_id": 0,
        "eos_token_id": 3,
        "sep_token_id": 3,
    }
    vision = {**SMALL, "image_size": 16, "patch_size": 8}
    config = transformers.BlipConfig(text_config=text, vision_config=vision, projection_dim=8, image_text_hidden_size=8)
    transformers.BlipForConditionalGeneration(config).save_pretrained(folder)
    images = transformers.BlipImageProcessor(size={"height": 16, "width": 16})
    transformers.BlipProcessor(images, tokenizer()).save_pretrained(folder)


def save_encoder_decoder(folder: Path) -> None:
    """An encoder and a decoder put together, whose processors are apart."""
    torch.manual_seed(4)  # one that does not say [EOS] at once
    encoder = transformers.ViTModel(transformers.ViTConfig(**SMALL, image_size=16, patch_size=8))
    decoder = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=1, n_head=2, add_cross_attention=True, **ENDS)
    )
    both = transformers.VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)
    both.config.decoder_start_token_id = both.generation_config.decoder_start_token_id = 2
    both.config.pad_token_id = both.generation_config.pad_token_id = 0
    both.generation_config.eos_token_id = 3
    both.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def save_llava(folder: Path) -> None:
    """A model that must be asked."""
    torch.manual_seed(2)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**SMALL, image_size=16, patch_size=8),
        text_config=transformers.LlamaConfig(**SMALL, vocab_size=len(WORDS), num_key_value_heads=2, eos_token_id=3),
        image_token_index=4,
        vision_feature_layer=-1,
    )
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    images = transformers.CLIPImageProcessor(
        size={"height": 16, "width": 16}, crop_size={"height": 16, "width": 16}, do_center_crop=False
    )
    template = (
        "{% for m in messages %}USER : {% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}[IMG] {% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}"
    )
    transformers.LlavaProcessor(
        images,
        tokenizer(),
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=template,
        image_token="[IMG]",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "blip"
    save_blip(folder)
    return folder


def write(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a.png", "b.jpg", "more/c.png")):
        write(tmp_path / "photos" / name, seed)
    return tmp_path / "photos"


def lines(root: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (root / "captions.jsonl").read_text().splitlines()]


def test_says_what_the_model_says(blip: Path, photos: Path) -> None:
    network = transformers.BlipForConditionalGeneration.from_pretrained(blip)
    processor = transformers.BlipProcessor.from_pretrained(blip)
    inputs = processor(images=Image.open(photos / "a.png"), return_tensors="pt")
    expected = processor.decode(network.generate(**inputs, max_new_tokens=12)[0], skip_special_tokens=True)
    assert load_captioner(str(blip), 12)(read_rgb(photos / "a.png")) == " ".join(expected.split()) != ""


@pytest.mark.parametrize("save", [save_encoder_decoder, save_llava])
def test_other_kinds_of_model(save, photos: Path, tmp_path: Path) -> None:
    save(tmp_path / "model")
    said = load_captioner(str(tmp_path / "model"), 6)(read_rgb(photos / "a.png"))
    assert 0 < len(said.split()) <= 6 and set(said.split()) <= set(WORDS)


def test_the_question_is_asked_of_models_that_need_one(photos: Path, tmp_path: Path, monkeypatch) -> None:
    save_llava(tmp_path / "model")
    texts = []
    real = transformers.LlavaProcessor.__call__
    monkeypatch.setattr(
        transformers.LlavaProcessor,
        "__call__",
        lambda self, **given: texts.append(given["text"]) or real(self, **given),
    )
    answer = torch.tensor([[5, 6, 3]])
    monkeypatch.setattr(
        transformers.LlavaForConditionalGeneration,
        "generate",
        lambda self, input_ids, **_: torch.cat([input_ids, answer], dim=1),
    )
    said = load_captioner(str(tmp_path / "model"), 2)(read_rgb(photos / "a.png"))
    assert said == "a dog"  # without the question
    assert texts == [f"USER : [IMG] {module.PROMPT} "]
    assert leaks(module.PROMPT) == []


def test_one_line_per_image_that_datamodules_read(blip: Path, photos: Path) -> None:
    assert caption_folder(photos, str(blip), "clean", length=5) == (3, 0)
    assert [line["file"] for line in lines(photos)] == ["a.png", "b.jpg", "more/c.png"]
    assert all(
        (line["model"], line["source"]) == (str(blip), "clean") and len(line["date"]) == 10 for line in lines(photos)
    )
    found = Captions.find([photos]).of(photos / "more" / "c.png")
    assert found == lines(photos)[2]["caption"]


def test_an_interrupted_run_is_resumed(blip: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caption_folder(photos, str(blip), "clean", length=5)
    whole = (photos / "captions.jsonl").read_bytes()
    (photos / "captions.jsonl").write_bytes(whole[:-15])  # what a crash leaves
    seen: list[np.ndarray] = []
    monkeypatch.setattr(module, "load_captioner", lambda *_: lambda image: seen.append(image) or "said later")
    assert caption_folder(photos, str(blip), "clean", length=5) == (1, 2)
    assert len(seen) == 1 and lines(photos)[2]["caption"] == "said later"
    assert whole.startswith((photos / "captions.jsonl").read_bytes().rpartition(b'{"file"')[0])
    assert caption_folder(photos, str(blip), "clean", length=5) == (0, 3) and len(seen) == 1


def test_a_last_line_without_its_newline_is_kept(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As editors leave files."""
    by_hand = '{"file": "b.jpg", "caption": "a caf\u00e9"}'
    (photos / "captions.jsonl").write_text(by_hand, encoding="utf-8")
    monkeypatch.setattr(module, "load_captioner", lambda *_: lambda image: "a dog")
    assert caption_folder(photos, "model", "clean") == (2, 1)
    assert (photos / "captions.jsonl").read_text(encoding="utf-8").startswith(by_hand + "\n{")
    assert [line["caption"] for line in lines(photos)] == ["a caf\u00e9", "a dog", "a dog"]


def test_captions_are_not_touched_before_the_model_is_there(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = b'{"file": "b.jpg", "caption": "a dog"}\n{"file": "a.png", "caption": "a c'
    (photos / "captions.jsonl").write_bytes(cut)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="cannot load captioning model"):
        caption_folder(photos, str(photos), "clean")
    assert (photos / "captions.jsonl").read_bytes() == cut


@pytest.mark.parametrize("source", ["clean", "degraded"])
def test_the_clean_or_degraded_images_of_a_dataset(photos: Path, source, monkeypatch: pytest.MonkeyPatch) -> None:
    root = photos.parent / "rain"
    for number in range(2):
        write(root / f"test/derain/Rain100L/input/{number}.png", number)
        write(root / f"test/derain/Rain100L/target/{number}.png", 10 + number)
    monkeypatch.setattr(module, "load_captioner", lambda *_: lambda image: "a dog")
    for name in (None, "derain"):
        (root / "captions.jsonl").unlink(missing_ok=True)
        caption_folder(root, "model", source, name)
        place = "test/derain/Rain100L/" + {"clean": "target", "degraded": "input"}[source]
        assert [line["file"] for line in lines(root)] == [f"{place}/0.png", f"{place}/1.png"]
        assert {line["source"] for line in lines(root)} == {source}
    with pytest.raises(UserError, match="nothing of deblur in"):
        caption_folder(root, "model", source, "deblur")


def test_broken_images_are_named_when_the_rest_is_done(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "b.jpg").write_bytes(b"no")
    monkeypatch.setattr(module, "load_captioner", lambda *_: lambda image: "a dog")
    with pytest.raises(UserError, match=r"1 of 3 images cannot be captioned: .*b\.jpg"):
        caption_folder(photos, "model", "clean")
    assert [line["file"] for line in lines(photos)] == ["a.png", "more/c.png"]


def test_leaks() -> None:
    assert leaks("A dog in the rain, blurry") == ["blurry", "rain"]
    assert leaks("Snowy street, low-light photo") == ["low-light", "snowy"]
    # no word of these names one, though some contain one
    assert leaks("a train, a terrain, hazel eyes, a mistake, wheat grain, diminishing returns") == []


def test_refusals(blip: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    for root, message in (
        (tmp_path / "gone", "no such folder"),
        (tmp_path / "empty", "empty folder"),
        (photos / "a.png", "not a folder but a file"),
        (blip, "no clean images in"),
    ):
        with pytest.raises(UserError, match=message):
            caption_folder(root, str(blip), "clean")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"cannot load captioning model .*photos") as error:
        caption_folder(photos, str(photos), "clean")
    assert "\n" not in str(error.value)
    monkeypatch.setattr(module, "load_captioner", lambda *_: lambda image: "a dog " * 30)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    (photos / "captions.jsonl").unlink(missing_ok=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, limits[1]))
    try:
        with pytest.raises(UserError, match=r"disk full while writing .*captions\.jsonl"):
            caption_folder(photos, "model", "clean")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    caption_folder(photos, "model", "clean")
    assert len(lines(photos)) == 3 and os.access(photos, os.W_OK)


def test_one_writer_per_folder(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_):
        with pytest.raises(UserError, match=r"another process is writing to .*photos; wait for it to end"):
            caption_folder(photos, "model", "clean")
        return lambda image: "a dog"

    monkeypatch.setattr(module, "load_captioner", load)
    assert caption_folder(photos, "model", "clean") == (3, 0)
    assert len(lines(photos)) == 3
    assert caption_folder(photos, "model", "clean") == (0, 3)


def test_names_that_are_not_utf8(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(os.fsdecode(os.fsencode(photos) + b"/caf\xe9.png"))
    write(path, 5)
    monkeypatch.setattr(module, "load_captioner", lambda *_: lambda image: "a caf\u00e9")
    caption_folder(photos, "model", "clean")
    assert Captions.read(photos / "captions.jsonl").of(path) == "a caf\u00e9"
    assert caption_folder(photos, "model", "clean") == (0, 4)
