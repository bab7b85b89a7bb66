"""Loaders: equal samples whatever the workers, processes and interruptions; test sets without an image counted twice."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch.utils.data import DistributedSampler

from datamodules.cdd11 import CDD11DataModule
from datamodules.derain import DerainDataModule
from tests.fake_trees import cdd11, rain
from tests.fake_trees.images import save, scene
from unildiff.data.datasets import EpochOrder
from unildiff.data.images import read_rgb
from unildiff.data.sharding import ShardSampler, StreamSampler
from unildiff.utils.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A CDD-11 of 3 training scenes and 1 test scene, so 33 training and 11 (an odd number of) test pairs."""
    root = tmp_path_factory.mktemp("cdd11")
    cdd11.write(root, "moceir", "train", scenes=3)
    cdd11.write(root, "moceir", "test", scenes=1)
    return root


def module(root: Path, **settings: Any) -> CDD11DataModule:
    chosen = {"batch_size": 4, "num_workers": 0, "crop_size": 8, "seed": 3, "rotate": True, "vflip": True} | settings
    return CDD11DataModule(str(root), **chosen)


class Recorder(lightning.LightningModule):
    """Keeps the keys it was trained on, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.keys: list[list[int]] = []

    def training_step(self, batch, batch_idx):
        self.keys.append(batch["key"].tolist())
        return self.weight.sum() * 0

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(data, tmp_path, checkpoint=None, save=None, **limits) -> list[list[int]]:
    model = Recorder()
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=save is not None,
        callbacks=[save] if save is not None else [],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **limits,
    )
    trainer.fit(model, data, ckpt_path=checkpoint, weights_only=False if checkpoint else None)
    return model.keys


def test_two_processes_see_the_global_batches_of_one():
    one = list(StreamSampler(64, 8, lambda: 16, 0, 1))
    first, second = (list(StreamSampler(64, 4, lambda: 16, rank, 2)) for rank in (0, 1))
    assert one == list(range(16, 80)) and len(first) == len(second) == 32
    for batch in range(8):
        half = slice(4 * batch, 4 * batch + 4)
        assert sorted(first[half] + second[half]) == one[8 * batch : 8 * batch + 8]


def test_an_epoch_ends_with_a_whole_accumulation():
    """813 batches and 4 a step: Lightning would step on the 813th alone, with its gradient divided by 4."""
    lengths = [len(StreamSampler(13013, 8, lambda: 0, 0, 2, accumulated)) for accumulated in (1, 4)]
    assert lengths == [813 * 8, 812 * 8]
    assert len(StreamSampler(3, 8, lambda: 0, 0, 2, 4)) == 4 * 8  # fewer than a step: one step, not none


def test_the_datamodule_knows_what_is_accumulated(root, tmp_path):
    data = module(root)  # 33 samples, batches of 4: 8 batches, of which 6 make two steps of 3
    keys = fit(data, tmp_path, max_epochs=1, accumulate_grad_batches=3)
    assert len(keys) == 6


def test_keys_stay_on_the_cpu(root):
    data = module(root)
    data.setup("fit")
    moved = data.transfer_batch_to_device(next(iter(data.train_dataloader())), torch.device("meta"), 0)
    assert moved["key"].device.type == "cpu" and moved["lq"].device.type == moved["gt"].device.type == "meta"


def test_fewer_images_than_processes_are_refused_before_the_others_wait(root, monkeypatch):
    data = module(root)
    data.setup("test")
    monkeypatch.setattr("unildiff.data.datamodule.rank_and_world", lambda: (0, 12))
    with pytest.raises(UserError, match=r"11 images \(test\) for 12 processes; .* make 11 at most"):
        data.test_dataloader()


def test_shards_hold_every_item_once_where_torchs_own_sampler_pads():
    items = range(5)
    shards = [list(ShardSampler(items, rank, 2)) for rank in (0, 1)]
    assert sorted(chain(*shards)) == [0, 1, 2, 3, 4] and [len(ShardSampler(items, r, 2)) for r in (0, 1)] == [3, 2]
    torchs = [list(DistributedSampler(items, 2, rank, shuffle=False)) for rank in (0, 1)]
    assert len(list(chain(*torchs))) == 6


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[f], b[f]) if isinstance(a[f], torch.Tensor) else a[f] == b[f] for f in a)


def test_workers_do_not_change_samples(root):
    def batches(workers):
        data = module(root, num_workers=workers)
        data.setup("fit")
        data.setup("test")
        return [*data.train_dataloader(), *data.test_dataloader()]

    alone, workers = batches(0), batches(2)
    assert len(alone) == 8 + 11
    assert all(same(a, b) for a, b in zip(alone, workers, strict=True))


def test_a_sample_is_a_function_of_seed_epoch_and_index(root):
    samples, again, other = (module(root, seed=seed).train_set() for seed in (3, 3, 4))
    for position in (40, 7, 33):  # in any order, also beyond the first epoch
        assert same(samples[position], again[position])
    assert not same(samples[7], samples[7 + 33])  # another epoch
    assert not same(samples[7], other[7])


def test_an_epoch_of_one_task_has_each_pair_once(root):
    samples = module(root, degradations=["low"]).train_set()
    for epoch in range(3):
        assert sorted(samples[3 * epoch + index]["name"] for index in range(3)) == ["00001", "00002", "00003"]


def test_an_epoch_of_two_tasks_misses_a_quarter_of_each_by_chance():
    order = EpochOrder({"a": 500, "b": 500}, None, 1000, 0)
    seen = {order(position)[:2] for position in range(1000)}
    # each item stands at two positions, each of which may be the other task's; standard error of 750 is 11
    assert abs(len(seen) - 750) < 50


def test_crops_and_turns_are_the_same_on_both_images(root):
    samples = module(root).train_set()
    seen = set()
    for position in range(40):
        sample = samples[position]
        assert sample["lq"].shape == (3, 8, 8) and (sample["lq"] == sample["gt"] + 40).all()
        seen.add(sample["gt"].numpy().tobytes())
    assert len(seen) > 30


@pytest.mark.parametrize(
    ("workers", "limits", "every"),
    [
        (0, {"max_epochs": 3}, {"every_n_train_steps": 5}),
        (2, {"max_steps": 20, "max_epochs": -1}, {"every_n_train_steps": 11}),
    ],
)
def test_a_resumed_run_continues_in_the_middle_of_an_epoch(root, tmp_path, workers, limits, every):
    whole = fit(module(root, num_workers=workers), tmp_path, **limits)
    assert len(whole) == limits.get("max_steps", 24) and len({key for batch in whole for key in batch}) > 75
    save = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, **every)
    fit(module(root, num_workers=workers), tmp_path, save=save, **limits)
    step = next(iter(every.values()))
    checkpoints = sorted(tmp_path.glob("*.ckpt"))
    assert checkpoints
    for number in range(step, len(whole), step):
        data = module(root, num_workers=workers)
        rest = fit(data, tmp_path, checkpoint=tmp_path / f"step={number}.ckpt", **limits)
        assert rest == whole[number:]


def test_a_finished_run_with_more_steps_continues(root, tmp_path):
    whole = fit(module(root), tmp_path, max_steps=14, max_epochs=-1)
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        max_steps=10,
        max_epochs=-1,
        enable_progress_bar=False,
        enable_checkpointing=False,
    )
    trainer.fit(Recorder(), module(root))
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    assert fit(module(root), tmp_path, checkpoint=tmp_path / "end.ckpt", max_steps=14, max_epochs=-1) == whole[10:]


def test_validation_images_are_held_out_of_training(root):
    data = module(root, val_scenes=1)
    data.setup("fit")
    held = {pair.gt.name for pair in data._sets["val"].source.pairs}
    trained = {data._sets["train"][position]["name"] + ".png" for position in range(300)}
    assert len(held) == 1 and len(trained) == 2 and not held & trained
    assert len(data._sets["val"]) == 11 and len(data._sets["train"]) == 22
    assert module(root).val_dataloader() == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val_scenes": -1}, "val_scenes is -1; it must be"),
        ({"val_scenes": 3}, "val_scenes is 3, but the dataset has only 3 scenes, so none would be left"),
        ({"samples_per_epoch": 0}, "samples_per_epoch is 0; it must be"),
        ({"samples_per_epoch": -5}, "samples_per_epoch is -5; it must be"),
    ],
)
def test_counts_that_cannot_be_are_reported_by_name(root, settings, message):
    with pytest.raises(UserError, match=message):
        module(root, **settings).setup("fit")


def test_sets_without_training_images_and_tiny_sets(root, tmp_path):
    rain.write(tmp_path, "moceir", "train", count=3)
    data = DerainDataModule(root=str(tmp_path), batch_size=8, crop_size=8, num_workers=0)
    data.setup("fit")  # fewer images than a batch: one batch, not none
    assert [len(batch["name"]) for batch in data.train_dataloader()] == [8]


def test_a_broken_file_in_a_worker_is_one_line(root, tmp_path):
    expected = rain.write(tmp_path, "moceir", "test", count=2)
    broken = tmp_path / next(iter(expected.values()))[0]
    broken.write_bytes(broken.read_bytes()[:-40])
    data = DerainDataModule(root=str(tmp_path), num_workers=1)
    data.setup("test")
    with pytest.raises(UserError) as error:
        list(data.test_dataloader())
    assert str(error.value).startswith("unreadable image: ") and "\n" not in str(error.value)
    data = DerainDataModule(root=str(tmp_path), num_workers=0, on_error="skip")
    assert data.counts() == {"rain": 1} and broken.name in data.skipped[0]


def test_broken_training_files_are_skipped_for_the_same_others(tmp_path):
    expected = rain.write(tmp_path, "moceir", "train", count=4)
    broken = tmp_path / next(iter(expected.values()))[1]
    broken.write_bytes(broken.read_bytes()[:-40])
    settings = {"root": str(tmp_path), "crop_size": 8, "num_workers": 0}
    with pytest.raises(UserError, match=broken.name):
        [DerainDataModule(**settings).train_set()[index] for index in range(4)]
    one, two = (DerainDataModule(**settings, on_error="skip").train_set() for _ in range(2))
    names = [one[index]["name"] for index in range(8)]
    assert names == [two[index]["name"] for index in range(8)] and broken.stem[2:] not in names


def test_a_held_out_pair_of_two_sizes_is_left_out_before_the_fit(tmp_path):
    expected = rain.write(tmp_path, "moceir", "train", count=4)
    for degraded, _ in expected.values():
        save(tmp_path / degraded, scene(1, (5, 6)))
    degraded, clean = next(iter(expected.values()))
    save(tmp_path / degraded, scene(1, read_rgb(tmp_path / clean).shape[:2]))
    data = DerainDataModule(root=str(tmp_path), crop_size=8, num_workers=0, on_error="skip", val_scenes=3)
    validation = data.val_set()
    assert len(validation) <= 1 and len(data.skipped) == 3 - len(validation)
    assert all("sizes differ" in line for line in data.skipped)


def test_fingerprints_tell_sets_apart(root, tmp_path):
    fitted = module(root)
    fitted.setup("fit")
    changed = tmp_path / "fitted"
    cdd11.write(changed, "moceir", "train", scenes=4)
    other = module(changed)
    other.setup("fit")  # without test images, too
    assert len({fitted.fingerprint(), other.fingerprint(), module(root).fingerprint()}) == 3
    assert module(root).fingerprint() == module(root, seed=9, num_workers=1).fingerprint()
    assert module(root).fingerprint() != module(root, degradations="single").fingerprint()
    cdd11.write(tmp_path, "moceir", "test", scenes=2)
    assert module(root).fingerprint() != module(tmp_path).fingerprint()


def test_two_processes_train_on_the_global_batches_of_one_also_when_resumed(root, monkeypatch):
    def batches(rank, world, consumed):
        monkeypatch.setattr("unildiff.data.datamodule.rank_and_world", lambda: (rank, world))
        data = module(root, batch_size=8 // world)
        data.load_state_dict({"consumed": consumed, "holds_out": True})
        data.setup("fit")
        return [batch["key"].tolist() for batch in data.train_dataloader()]

    for consumed in (0, 48):  # in the middle of the second epoch, too
        one = batches(0, 1, consumed)
        first, second = (batches(rank, 2, consumed) for rank in (0, 1))
        assert [sorted(a + b) for a, b in zip(first, second, strict=True)] == [sorted(batch) for batch in one]


class Scores(lightning.LightningModule):
    """Writes the mean and the count of what all processes together were given."""

    def __init__(self, out: Path) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.out = out
        self.sums = torch.zeros(2, dtype=torch.float64)

    def test_step(self, batch, batch_idx):
        self.sums += torch.stack([batch["lq"].double().mean(), torch.tensor(1.0)])

    def on_test_epoch_end(self):
        total, count = self.all_gather(self.sums).reshape(-1, 2).sum(0).tolist()
        if self.trainer.is_global_zero:
            self.out.write_text(json.dumps([total / count, count]))


@pytest.mark.parametrize("lightnings_sampler", [False, True])  # also where nobody turned Lightning's own off
def test_two_processes_score_what_one_scores(root, tmp_path, lightnings_sampler):
    means, counts = [], []
    for devices in (1, 2):
        out = tmp_path / f"{devices}.json"
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=devices,
            strategy="ddp_fork" if devices == 2 else "auto",  # gloo
            use_distributed_sampler=lightnings_sampler,
            logger=False,
            enable_progress_bar=False,
            enable_checkpointing=False,
        )
        trainer.test(Scores(out), module(root), verbose=False)
        mean, count = json.loads(out.read_text())
        means.append(mean)
        counts.append(count)
    assert counts == [11, 11]  # an odd number
    assert np.isclose(*means, rtol=0, atol=1e-6)
