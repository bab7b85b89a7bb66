"""Cached caption embeddings: training equals that with the encoders, which leave memory; or they are refused."""

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.small import NETWORK, sdxl_like_base, small_base
from tests.stages.steps import CAPTIONS, Losses, make_batch, make_stage, make_trainer, trainer_of_rank
from unildiff.callbacks import CaptionCache, caption_cache
from unildiff.cli.main import main
from unildiff.cli.plan_inputs import parse_run
from unildiff.data.augment import Augment
from unildiff.data.captions import Captions
from unildiff.data.datamodule import RestorationDataModule
from unildiff.data.datasets import EpochOrder, EvalSet, TrainSet
from unildiff.data.pair import Pair
from unildiff.data.sources import FilePairs
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.planning.report import device_memory
from unildiff.planning.shapes import base_sizes
from unildiff.planning.step import StepSettings, measure_step
from unildiff.stages.alignment import AlignmentModule
from unildiff.utils.errors import UserError
from unildiff.utils.keys import sample_key
from unildiff.weights.folder import save_base
from unildiff.weights.text_cache import CachedText, TextCache, text_fingerprint


class Images:
    """Eight images with captions, which ``captions`` lists."""

    def __init__(self, seed: int, count: int = 8) -> None:
        self.seed, self.count = seed, count
        self.pairs: list[Any] = []

    def captions(self) -> list[str]:
        return [self[index]["caption"] for index in range(self.count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> dict[str, Any]:
        key = sample_key(self.seed, position)
        batch: Any = make_batch([key])
        return {name: value[0] if name != "key" else key for name, value in batch.items()}


class Data(RestorationDataModule):
    """Eight training images, no validation."""

    def __init__(self) -> None:
        super().__init__(batch_size=4, num_workers=0, crop_size=32, seed=0)

    def train_set(self) -> Any:
        return Images(0)


class Validation(list[Any]):
    """A validation set."""

    pairs: tuple[Any, ...] = ()

    def captions(self) -> list[str]:
        return [sample["caption"] for sample in self]


class WithValidation(Data):
    """Adds one validation image, whose caption no training image has."""

    def val_set(self) -> Any:
        return Validation([Images(1)[0] | {"caption": "the cat"}])


@pytest.fixture(params=["one encoder", "two encoders"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    save_base((sdxl_like_base() if request.param == "two encoders" else small_base()), tmp_path / "base")
    return tmp_path / "base"


def fit(base: Path, folder: Path, *callbacks: Any, kind: str = "alignment", **settings: Any) -> tuple[Any, list[float]]:
    """Train with half of the captions dropped, validate once, and return the stage and its losses."""
    precision = settings.pop("precision", "32-true")
    module = make_stage(kind, base, text_dropout=0.5, sampling=SamplingSettings(2), **settings)
    losses = Losses()
    trainer = make_trainer(
        folder, [losses, *callbacks], max_steps=4, precision=precision, limit_val_batches=1, val_check_interval=2
    )
    trainer.fit(module, datamodule=WithValidation())
    losses.values.append(float(trainer.callback_metrics["val/psnr/avg"]))
    return module, losses.values


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_equals_that_with_the_encoders(precision: str, base: Path, tmp_path: Path) -> None:
    live, expected = fit(base, tmp_path, precision=precision)
    encoders = weakref.ref(live.model.text)
    assert encoders() is not None
    cached, found = fit(base, tmp_path, CaptionCache(str(tmp_path / "cache")), precision=precision)
    assert found == pytest.approx(expected, rel=1e-5)
    assert isinstance(cached.model.text, CachedText) and not list(cached.model.text.parameters())
    assert cached.embed(["red", ""]).tokens.shape == live.embed(["red", ""]).tokens.shape
    embedded = TextCache(tmp_path / "cache")
    embedded.look()
    assert embedded.missing([*CAPTIONS, "", "the cat", "new"]) == ["new"]
    if precision == "32-true":
        for caption in ("", "the cat"):
            expected_text, found_text = live.embed([caption]), embedded.read([caption])
            torch.testing.assert_close(found_text.tokens, expected_text.tokens, atol=1e-6, rtol=1e-5)
            assert (found_text.pooled is None) == (expected_text.pooled is None)
            if expected_text.pooled is not None:
                torch.testing.assert_close(found_text.pooled, expected_text.pooled, atol=1e-6, rtol=1e-5)


def count_encoded(module: Any) -> list[str]:
    """Return a list that collects the captions passed to a stage's encoders."""
    seen: list[str] = []
    module.model.text.register_forward_pre_hook(lambda _, arguments: seen.extend(arguments[0]))
    return seen


def test_the_encoders_leave_memory(base_folder: Path, tmp_path: Path) -> None:
    module = make_stage("joint", base_folder)
    gone = weakref.ref(module.model.text.encoders[0])
    CaptionCache(str(tmp_path / "cache")).setup(trainer_of_rank(Data()), module, "fit")
    assert gone() is None
    module.to(torch.bfloat16)
    embedding = module.embed(["red"])
    assert embedding.tokens.dtype == torch.bfloat16  # as the encoders' would be
    assert not [name for name in module.state_dict() if name.startswith("model.text.")]


def test_each_caption_is_embedded_once(base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_cache, "BATCH", 2)
    callback, seen = CaptionCache(str(tmp_path / "cache")), []
    for validation in (None, None, "the cat"):
        module = make_stage("alignment", base_folder)
        seen.append(count_encoded(module))
        data = Data() if validation is None else WithValidation()
        callback.setup(trainer_of_rank(data), module, "fit")
    wanted = {"", *Images(0).captions()}
    assert len(seen[0]) == len(wanted) and set(seen[0]) == wanted
    assert seen[1:] == [[], ["the cat"]]
    broken = next((tmp_path / "cache").glob("captions-*"))
    broken.write_bytes(broken.read_bytes()[:-10])
    module = make_stage("alignment", base_folder)
    again = count_encoded(module)
    callback.setup(trainer_of_rank(WithValidation()), module, "fit")
    assert 1 <= len(again) <= 2
    with pytest.raises(UserError, match="'something new' is not in the cache"):
        module.embed(["red", "something new"])


def test_two_ranks_share_the_work(base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_cache, "BATCH", 1)
    modules = [make_stage("alignment", base_folder) for _ in range(2)]
    seen = [count_encoded(module) for module in modules]
    callbacks = [CaptionCache(str(tmp_path / "cache")) for _ in range(2)]
    states: list[dict[str, Any]] = []

    def listed() -> None:  # rank 1 lists before anything is written
        cache = TextCache(tmp_path / "cache")
        states.append({"missing": cache.missing({"", *Images(0).captions()})})

    def embed() -> None:
        with pytest.MonkeyPatch.context() as patch:
            lists = [states[0]["missing"]]
            original = TextCache.missing
            patch.setattr(TextCache, "missing", lambda self, all_: lists.pop() if lists else original(self, all_))
            callbacks[1].setup(trainer_of_rank(Data(), 1, 2), modules[1], "fit")

    trainer = trainer_of_rank(Data(), 0, 2, {"captions: listed": listed, "captions: embedded": embed})
    callbacks[0].setup(trainer, modules[0], "fit")
    assert set(seen[0]) | set(seen[1]) == {"", *Images(0).captions()}
    assert not set(seen[0]) & set(seen[1]) and abs(len(seen[0]) - len(seen[1])) <= 1


def test_what_is_refused(base_folder: Path, tmp_path: Path) -> None:
    callback = CaptionCache(str(tmp_path / "cache"))
    module = make_stage("alignment", base_folder)
    callback.setup(trainer_of_rank(Data()), module, "fit")
    save_base(small_base(seed=1), tmp_path / "other")
    other = make_stage("alignment", tmp_path / "other")
    with pytest.raises(UserError, match=r"cache was made with other text_encoders \(\w+ there, \w+ here\)") as error:
        callback.setup(trainer_of_rank(Data()), other, "fit")
    assert "\n" not in str(error.value)
    trained = make_stage("alignment", base_folder)
    next(trained.model.text.parameters()).requires_grad_(True)
    with pytest.raises(UserError, match="AlignmentModule trains its text encoders"):
        callback.setup(trainer_of_rank(Data()), trained, "fit")

    class Endless(Data):
        def train_set(self) -> Any:
            return [1, 2]

    with pytest.raises(UserError, match=r"those of Endless \(train\) cannot be listed"):
        callback.setup(trainer_of_rank(Endless()), other, "fit")


def test_files_of_other_models_are_ignored(base_folder: Path, tmp_path: Path) -> None:
    tensors = {"tokens": torch.zeros(1)}
    for name, metadata in (("none", None), ("other", {"a": "b"}), ("broken", {"captions": "["})):
        save_file(tensors, tmp_path / f"captions-{name}.safetensors", metadata)
    (tmp_path / "captions-empty.safetensors").touch()
    cache = TextCache(tmp_path)
    cache.look()
    assert cache.missing(["a cat"]) == ["a cat"]


def test_a_test_embeds_without_the_cache(base_folder: Path, tmp_path: Path) -> None:
    module = make_stage("alignment", base_folder)
    CaptionCache(str(tmp_path / "cache")).setup(trainer_of_rank(Data()), module, "test")
    assert not isinstance(module.model.text, CachedText) and not (tmp_path / "cache").exists()


def test_fingerprint_covers_words_and_weights() -> None:
    text = small_base().text
    before = text_fingerprint(text)
    assert before == text_fingerprint(small_base().text)
    with torch.no_grad():
        next(text.parameters()).view(-1)[7] += 1e-6
    assert text_fingerprint(text) != before
    other = small_base().text
    other.tokenizers[0].add_tokens(["zebra"])
    assert text_fingerprint(other) != before


def test_sets_of_files_list_their_captions(tmp_path: Path) -> None:
    files = [tmp_path / f"{index}.png" for index in range(3)]
    captions = Captions({str(files[0]): "a cat", str(files[1]): "a table"})
    pairs = FilePairs([Pair("rain", "rain", file.stem, file, None) for file in files], lambda _: np.zeros((1, 1, 3)))
    assert set(EvalSet(pairs, captions, 0).captions()) == {"a cat", "a table", ""}
    order = EpochOrder({"rain": 3}, None, 3, 0)
    assert set(TrainSet({"rain": pairs}, order, Augment(1), captions).captions()) == {"a cat", "a table", ""}


def test_the_plan_reports_disk_and_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = sdxl_like_base()
    save_base(base, tmp_path)
    cost = measure_step(base_sizes(str(tmp_path)), NETWORK, StepSettings(AlignmentModule, 1, 32))
    tokens = base.text(["a cat"])
    assert cost.caption_bytes == tokens.tokens.nbytes + tokens.pooled.nbytes
    arguments = ["--config", "configs/tiny/alignment.yaml", "--data", "cdd11", "--data.crop_size=64"]
    for more in ([], ["--config", "configs/variants/caption_cache.yaml"]):
        assert main(["plan", *arguments, *more]) == 0
        text = capsys.readouterr().out
        assert ("caption cache: " in text) == bool(more)
    assert "MB of disk per caption; at most" in text
    run = parse_run([*arguments, *more], None).run
    assert run.cached_captions
    kept = device_memory(replace(run, cached_captions=False), cost).weights
    assert kept - device_memory(run, cost).weights == 4 * sum(value.numel() for value in base.text.parameters())
