"""The decoder stage on cached latents: equal to live sampling, created once, shared, resumed, or refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.small import NETWORK, small_model
from tests.stages.steps import Losses, make_batch, make_loader, make_stage, make_trainer, trainer_of_rank, wake
from unildiff.cli.main import main
from unildiff.data import latents as latents_module
from unildiff.data.batch import collate
from unildiff.data.datamodule import RestorationDataModule
from unildiff.data.latents import CachedTrainSet, LatentCache
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.planning.shapes import base_sizes
from unildiff.planning.step import StepSettings, measure_step
from unildiff.stages.decoder import DecoderFinetuneModule
from unildiff.stages.settings import LatentCacheConfig
from unildiff.utils.errors import UserError
from unildiff.utils.keys import sample_key
from unildiff.weights.folder import save_model

SAMPLES = 10  # three shards of 4, 4 and 2


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents_module, "SHARD", 4)


class Stream:
    """Six images per epoch, each epoch with new crops, as functions of the sample's key."""

    def __init__(self, seed: int = 0, size: int = 32) -> None:
        self.seed, self.size = seed, size
        self.pairs: list[Any] = []

    def __len__(self) -> int:
        return 6

    def __getitem__(self, position: int) -> dict[str, Any]:
        key = sample_key(self.seed, *divmod(position, 6))
        batch: Any = make_batch([key], self.size)
        return {name: value[0] if name != "key" else key for name, value in batch.items()}


class Data(RestorationDataModule):
    def __init__(self, seed: int = 0, size: int = 32) -> None:
        super().__init__(batch_size=2, num_workers=0, crop_size=size, seed=seed)
        self.size = size

    def train_set(self) -> Any:
        return Stream(self.seed, self.size)


def make(base: Path, folder: Path, samples: int = SAMPLES, skips: bool = False, **settings: Any) -> Any:
    defaults = {"latents": "cached", "cache": LatentCacheConfig(str(folder), samples, skips)}
    defaults["training_sampling"] = SamplingSettings(2, 3.0)
    module = make_stage("decoder", base, **(defaults | settings))
    wake(module)
    return module


def count_calls(module: torch.nn.Module) -> list[int]:
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def as_rank(module: DecoderFinetuneModule, data: Data, rank: int = 0, barriers: Any = None) -> DecoderFinetuneModule:
    """Give a stage the trainer of one of two ranks."""
    module.trainer = trainer_of_rank(data, rank, 2, barriers)
    return module


def fill(module: DecoderFinetuneModule) -> None:
    module.open_cache()
    module.on_fit_start()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def filled(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a complete cache, created by training."""
    folder = tmp_path_factory.mktemp("filled") / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latents_module, "SHARD", 4)
        make_trainer(folder.parent, max_steps=1).fit(make(base_folder, folder), datamodule=Data())
    return folder


@pytest.mark.parametrize("skips", [False, True])
def test_training_is_that_on_live_latents(skips: bool, base_folder: Path, tmp_path: Path) -> None:
    cached, losses, data = make(base_folder, tmp_path / "cache", skips=skips), Losses(), Data()
    passes, encoded = count_calls(cached.model.unet), count_calls(cached.model.lq_encoder)
    make_trainer(tmp_path, [losses], max_steps=5).fit(cached, datamodule=data)
    # Two batches of two in the shards of four, one in the last; two Euler steps each; then none in five training steps.
    assert len(passes) == 5 * 2
    assert len(encoded) == 5 + (0 if skips else 5)
    made = data.training_samples()
    assert isinstance(made, CachedTrainSet) and len(made) == SAMPLES
    batches: Any = [collate([made[2 * step], made[2 * step + 1]]) for step in range(5)]
    assert sorted(name for batch in batches for name in batch["key"].tolist()) == sorted(
        Stream()[position]["key"] for position in range(SAMPLES)
    )
    live, expected = make(base_folder, tmp_path, latents="sample"), Losses()
    make_trainer(tmp_path, [expected], max_steps=5).fit(live, make_loader(batches))
    assert losses.values == pytest.approx(expected.values, rel=1e-5)
    assert len(set(losses.values)) == 5


def test_each_turn_has_another_order(filled: Path) -> None:
    made = CachedTrainSet(Stream(), LatentCache(filled, SAMPLES))  # type: ignore[arg-type]
    turns = [[made[turn * SAMPLES + place]["key"] for place in range(SAMPLES)] for turn in range(2)]
    assert turns[0] != turns[1] and set(turns[0]) == set(turns[1])
    assert made[3]["key"] == turns[0][3]  # independent of earlier requests


def test_a_cache_is_found_again_and_may_grow(filled: Path, base_folder: Path, tmp_path: Path) -> None:
    before = files(filled)
    for samples, passes in ((SAMPLES, 0), (SAMPLES + 3, 3 * 2)):  # the last shard gets four, a new one the last
        module = make(base_folder, filled, samples)
        calls = count_calls(module.model.unet)
        make_trainer(tmp_path, max_steps=1).fit(module, datamodule=Data())
        assert len(calls) == passes
    after = files(filled)
    assert {name for name in before if before[name] != after[name]} == {"latents-00002.safetensors"}
    grown = set(after) - set(before)
    assert grown == {"latents-00003.safetensors"}
    for name in grown:
        (filled / name).unlink()


def test_an_interrupted_cache_is_continued(filled: Path, base_folder: Path, tmp_path: Path) -> None:
    module = as_rank(make(base_folder, tmp_path / "cache"), Data())
    module.trainer.world_size = 1
    sampled, left = module.sampled_latents, iter(range(3))

    def breaks(*arguments: Any) -> Tensor:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return sampled(*arguments)

    module.sampled_latents = breaks  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        fill(module)
    assert sorted(files(tmp_path / "cache")) == ["cache.json", "latents-00000.safetensors"]
    module.sampled_latents = sampled  # type: ignore[method-assign]
    calls = count_calls(module.model.unet)
    fill(module)
    assert len(calls) == (2 + 1) * 2
    first = LatentCache(filled, SAMPLES)
    second = LatentCache(tmp_path / "cache", SAMPLES)
    for position in range(SAMPLES):
        expected, found = first.read(position), second.read(position)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_two_ranks_share_the_work(base_folder: Path, tmp_path: Path) -> None:
    modules = [make(base_folder, tmp_path / "cache") for _ in range(2)]
    datas = [Data(), Data()]
    calls = [count_calls(module.model.unet) for module in modules]
    second = as_rank(modules[1], datas[1], 1)
    lists: list[list[int]] = []

    def other() -> None:  # rank 1 has seen the same list as rank 0, before rank 0 wrote
        cache.missing = lambda: lists.pop() if lists else LatentCache.missing(cache)  # type: ignore[method-assign]
        second.on_fit_start()

    first = as_rank(modules[0], datas[0], 0, {"latents: made": other})
    first.open_cache()
    second.open_cache()
    cache = second.latent_cache
    lists.append(cache.missing())
    first.on_fit_start()
    assert [len(each) for each in calls] == [(2 + 1) * 2, 2 * 2]  # shards 0 and 2, shard 1
    assert all(isinstance(data.training_samples(), CachedTrainSet) for data in datas)


def test_a_disk_that_is_not_shared_is_refused(base_folder: Path, tmp_path: Path) -> None:
    module = as_rank(make(base_folder, tmp_path / "cache"), Data())  # the other of two ranks writes elsewhere
    with pytest.raises(UserError, match=r"1 files of .*cache are missing .* on a disk that all machines see"):
        fill(module)


def test_a_sharded_model_does_not_create_latents(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = as_rank(make(base_folder, tmp_path / "cache"), Data())
    module.open_cache()
    monkeypatch.setattr(DecoderFinetuneModule, "device_mesh", object())
    with pytest.raises(
        UserError, match=r"files of .*cache are missing, and a split model cannot .* --trainer.strategy ddp"
    ):
        module.on_fit_start()


@pytest.mark.parametrize(
    ("settings", "data", "named"),
    [
        ({"seed": 1}, {}, "weights"),
        ({"training_sampling": SamplingSettings(3, 3.0)}, {}, "training_sampling"),
        ({"text_dropout": 0.5}, {}, "text_dropout"),
        ({"skips": True}, {}, "skips"),
        ({}, {"seed": 1}, "data"),
        ({}, {"size": 64}, "data"),
    ],
)
def test_a_cache_made_with_other_settings_is_refused(
    settings: dict[str, Any], data: dict[str, Any], named: str, filled: Path, base_folder: Path
) -> None:
    before = files(filled)
    with pytest.raises(UserError) as error:
        as_rank(make(base_folder, filled, **settings), Data(**data)).open_cache()
    message = str(error.value)
    assert "\n" not in message and str(filled) in message and f"with other {named} (" in message
    assert message.count(" there, ") == 1  # only this setting differs
    assert files(filled) == before
    as_rank(make(base_folder, filled), Data()).open_cache()


def test_a_note_from_before_new_sampling_fields_still_fits(filled: Path, base_folder: Path) -> None:
    module = as_rank(make(base_folder, filled), Data())
    module.open_cache()
    noted = "".join(path.read_text() for path in filled.glob("*.json"))
    assert "training_sampling" in noted and "vae_tile" not in noted and "timestep_spacing" not in noted


def test_latents_of_another_image_are_refused(filled: Path) -> None:
    class Changed(Stream):
        def __getitem__(self, position: int) -> dict[str, Any]:
            sample = super().__getitem__(position)
            return sample | {"lq": 255 - sample["lq"]} if position == 8 else sample

    made = CachedTrainSet(Changed(), LatentCache(filled, SAMPLES))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="those of another image at position 8"):
        for position in range(SAMPLES):
            made[position]


def test_files_that_are_not_a_cache(filled: Path, base_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        as_rank(make(base_folder, tmp_path), Data()).open_cache()
    for name, content in files(filled).items():
        (tmp_path / name).write_bytes(content)
    broken = tmp_path / "latents-00001.safetensors"
    broken.write_bytes(broken.read_bytes()[:-100])
    cache = LatentCache(tmp_path, SAMPLES)
    assert cache.missing() == [1]
    with pytest.raises(UserError, match=r"latents-00001\.safetensors cannot be read"):
        cache.read(5)


def test_other_datamodules_are_refused(base_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cached needs a datamodule"):
        make_trainer(tmp_path, max_steps=1).fit(make(base_folder, tmp_path / "cache"), make_loader([make_batch()]))


def test_resuming_is_exact(base_folder: Path, tmp_path: Path) -> None:
    """Five steps are a turn of ten samples: the fourth step is in the middle of one, the seventh in the next."""
    whole, first, second = (make(base_folder, tmp_path / "cache") for _ in range(3))
    make_trainer(tmp_path, max_steps=7).fit(whole, datamodule=Data())
    trainer = make_trainer(tmp_path, max_steps=3)
    trainer.fit(first, datamodule=Data())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    make_trainer(tmp_path, max_steps=7).fit(second, datamodule=Data(), ckpt_path=tmp_path / "half.ckpt")
    ends = dict(second.named_parameters())
    assert all(torch.equal(value, ends[name]) for name, value in whole.named_parameters())


def test_the_plan_reports_disk_and_work(base_folder: Path, filled: Path, tmp_path: Path) -> None:
    step = StepSettings(DecoderFinetuneModule, 2, 32, settings={"latents": "cached", "cache": {"skips": True}})
    costs = [
        measure_step(
            base_sizes(str(base_folder)), NETWORK, step.with_settings(training_sampling=SamplingSettings(n, 3.0))
        )
        for n in (2, 5, 8)
    ]
    make_trainer(tmp_path, max_steps=1).fit(make(base_folder, tmp_path / "c", 2, skips=True), datamodule=Data())
    stored = LatentCache(tmp_path / "c", 2).read(1)
    skips = sum(value.nbytes for name, value in stored.items() if name.startswith("skip"))
    assert (costs[0].latent_bytes, costs[0].skip_bytes) == (
        sum(value.nbytes for value in stored.values()) - skips,
        skips,
    )
    assert costs[2].cached_flops - costs[1].cached_flops == costs[1].cached_flops - costs[0].cached_flops > 0
    assert costs[0].flops == costs[2].flops  # training itself does not sample


def test_the_shipped_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(small_model(), tmp_path / "base", torch.float32)
    arguments = ["--config", "configs/tiny/decoder.yaml", "--config", "configs/variants/cached_latents.yaml"]
    arguments += ["--model.base=base", "--model.cache.samples=6", "--data.crop_size=32", "--data.batch_size=2"]
    arguments += ["--data.num_workers=0", "--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false"]
    arguments += ["--trainer.max_steps=2"]
    assert main(["plan", *arguments]) == 0
    assert "cache: latents of 6 samples, 0.00 GB of disk; made once before training" in capsys.readouterr().out
    arguments += ["--model.training_sampling.num_inference_steps=2"]
    assert main(["fit", *arguments, "--run_dir=first"]) == 0
    assert sorted(files(tmp_path / "cache" / "latents")) == [
        "cache.json",
        "latents-00000.safetensors",
        "latents-00001.safetensors",
    ]
    again = ["--run_dir=second", "--model.training_sampling.guidance_scale=1"]
    assert main(["fit", *arguments, *again]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("unildiff: error: latents: the cache cache/latents was made with other training_sampling (")
