"""A mistake is one line on stderr and exit code 2."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.cli.toy_commands import QUIET, TOY, elsewhere, failure  # noqa: F401  # the fixture is used by its name

MISTAKES = {
    "unknown command": (["tset"], "unknown command: tset; did you mean unildiff test?"),
    "unknown command, nothing near": (["xyzzy"], "choose from fit, validate, test, predict"),
    "no data": (["test"], "test: no data; give --data, one of"),
    "no stage": (["fit"], "fit: nothing to train; give --config configs/tiny/joint.yaml"),
    "unknown dataset": (["test", "--data", "cdd12"], "unknown dataset: 'cdd12'; did you mean cdd11? Choose from"),
    "unknown stage": (["fit", "--model", "jiont"], "did you mean joint?"),
    "option without value": (["fit", "--data", "--model", "joint"], "--data: no value given; e.g. --data cdd11"),
    "missing config": (["fit", "--config", "nope.yaml"], "config: no file nope.yaml, neither in"),
    "mistyped config": (["fit", "--config", "configs/tiny/tset.yaml"], "did you mean configs/tiny/test.yaml?"),
    "broken yaml": (["fit", "--config", "broken.yaml"], "broken.yaml, line 2, is not valid YAML"),
    "no keys in yaml": (["fit", "--config", "words.yaml"], "has no keys"),
    "binary config": (["fit", "--config", "binary.yaml"], "is not a text file"),
    "unknown key in a config": (["fit", *TOY, "--config", "key.yaml"], "unknown key: trainer.max_stepz; did you mean trainer.max_steps?"),
    "unknown top key": (["fit", *TOY, "--config", "top.yaml"], "unknown key: modell"),
    "unknown setting of a model": (["fit", *TOY, "--config", "setting.yaml"], "unknown key: widht of tests.callbacks.toy.ToyModule; did you mean width?"),
    "unknown option": (["fit", *TOY, "--trainer.max_stepz", "3"], "unknown option: --trainer.max_stepz; did you mean --trainer.max_steps?"),
    "unknown option of data": (["fit", *TOY, "--data.cuont", "3"], "did you mean count?"),
    "stray word": (["fit", *TOY, "extra"], "extra"),
    "wrong type": (["fit", *TOY, "--trainer.max_steps", "many"], "trainer.max_steps is many; it must be a whole number"),
    "no such class": (["fit", "--model", "tests.callbacks.toy.ToyModul", *TOY[2:]], "has no ToyModul; did you mean ToyModule?"),
    "no such module": (["fit", *TOY[:2], "--data", "nowhere.Data"], "no class nowhere.Data: No module named 'nowhere'"),
    "no such class in a config": (["fit", *TOY[2:], "--config", "class.yaml"], "no attribute 'Nope'"),
    "setting that data refuse": (["fit", *TOY[:2], "--data", "cdd11", "--data.degradations", "fog"], "error: degradations: no fog; choose"),
    "no pictures there": (["test", "--model", "tests.callbacks.toy.ToyModule", *QUIET, "--model.init_from=x", "--data", "cdd11", "--data.root", "nowhere"], "nowhere"),
    "no images to train on": (["fit", *TOY[:2], *QUIET, "--data", "folder"], "folder: no train pairs in data/folder"),
    "an empty folder": (["test", "--model", "tests.callbacks.toy.ToyModule", *QUIET, "--model.init_from=x", "--data", "cdd11", "--data.root", "empty"], "empty"),
    "a folder of something else": (["test", "--model", "tests.callbacks.toy.ToyModule", *QUIET, "--model.init_from=x", "--data", "cdd11", "--data.root", "other"], "other"),
    "unknown command of a group": (["data", "lst"], "unknown command: data lst; did you mean unildiff data list?"),
    "refused setting": (["fit", "--model", "tests.callbacks.toy_stages.Refuses", *TOY[2:]], "settings: steps is 0"),
    "no such accelerator": (["fit", *TOY, "--trainer.accelerator", "hpu"], "settings: You selected an invalid accelerator name"),
    "random weights": (["test", *TOY, *QUIET], "test: ToyModule has no trained weights; give --ckpt_path"),
    "missing checkpoint": (["test", *TOY, "--ckpt_path", "nope.ckpt"], "no file nope.ckpt"),
    "a folder as checkpoint": (["test", *TOY, "--ckpt_path", "."], ". is a folder"),
    "no checkpoint": (["test", *TOY, "--ckpt_path", "words.yaml"], "words.yaml is not a checkpoint"),
    "another program's checkpoint": (["test", *TOY, "--ckpt_path", "other.ckpt"], "does not say its stage"),
    "nothing to go on from": (["fit", *TOY, "--ckpt_path", "last"], "no last.ckpt in runs/toymodule"),
    "auto without folder": (["fit", *TOY, "--ckpt_path", "auto"], "give --run_dir too"),
    "unwritable run folder": (["fit", *TOY, *QUIET, "--trainer.max_steps", "1", "--run_dir", "words.yaml/run"], "words.yaml/run"),
    "missing argument of a command": (["restore", "photos"], "missing: out; `unildiff restore --help` lists the arguments"),
    "unknown option of a command": (["restore", "a", "b", "--stpes", "3"], "unknown option: --stpes"),
    "abbreviated option": (["fit", *TOY, "--trainer.max_step", "3"], "unknown option: --trainer.max_step; did you mean --trainer.max_steps?"),
    "abbreviated option with its value": (["fit", *TOY, "--trainer.max_step=3"], "unknown option: --trainer.max_step; did you mean"),
    "abbreviated option of a command": (["restore", "a", "b", "--se", "3"], "unknown option: --se"),
    "required option of a command": (["data", "caption"], "missing: --root, --model;"),
    "a name that is not UTF-8": (["data", "check", "cdd11", "--root", "caf\udce9"], "no such folder: caf"),
    "a name that is not UTF-8 as positional": (["restore", "caf\udce9", "out"], "no such folder: caf"),
    "a captioner without a network": (["data", "caption", "--root", "images", "--model", "some/blip"], "cannot be downloaded"),
    "unknown device": (["restore", "images", "out", "--device", "gpu"], "device: 'gpu' is not known"),
    "a folder as table": (["score", "images", "images", "--csv", "images"], "not a file but a folder: images"),
    "no settings of the trainer": (["fit", *TOY, "--config", "null.yaml"], "trainer is null; it must be a set of keys"),
    "a part of the network": (["fit", "--model", "joint", *TOY[2:], "--model.network", "{fusion: -1}"], "model.network.fusion is -1; it must be a set of keys"),
    "an interval that is text": (["fit", *TOY, "--trainer.val_check_interval", "x"], "trainer.val_check_interval is 'x'; it must be batches"),
    "a choice of a command": (["restore", "a", "b", "--offload", "x"], "offload is x; it must be one of none, model, group, or null"),
    "a choice within a setting": (["fit", *TOY, "--model", "joint", "--model.network.fusion.kind", "x"], "model.network.fusion.kind is x; it must be one of daff,"),
    "a setting that may be null": (["fit", *TOY, "--trainer.benchmark", "x"], "trainer.benchmark is x; it must be true or false, or null"),
    "text for a part": (["fit", "--model", "joint", *TOY[2:], "--model.optimizer", "x"], "model.optimizer is x; it must be a set of keys, or null"),
    "a callback's choice": (["fit", *TOY, "--trainer.callbacks+=unildiff.callbacks.Checkpointing", "--trainer.callbacks.mode", "x"], "trainer.callbacks.mode is x; it must be one of max, min"),
    "wrong value of a command": (["restore", "a", "b", "--seed", "x"], "seed is x; it must be a whole number"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    Path("broken.yaml").write_text("model: [1\n x: {")
    Path("words.yaml").write_text("just words")
    Path("binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    Path("key.yaml").write_text("trainer: {max_stepz: 1}")
    Path("top.yaml").write_text("modell: 1")
    Path("class.yaml").write_text("model: {class_path: tests.callbacks.toy.Nope}")
    Path("null.yaml").write_text("trainer: null")
    Path("empty").mkdir()
    Path("images").mkdir()
    Image.new("RGB", (8, 8)).save("images/a.png")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    Path("other/holiday").mkdir(parents=True)
    Path("other/holiday/notes.txt").write_text("x")
    Path("setting.yaml").write_text(
        "model: {class_path: tests.callbacks.toy.ToyModule, init_args: {widht: 1}}\n"
        "data: {class_path: tests.callbacks.toy.ToyData}"
    )
    torch.save({"state_dict": {}}, "other.ckpt")
    arguments, expected = MISTAKES[mistake]
    if mistake == "unknown setting of a model":
        arguments = ["fit", "--config", "setting.yaml"]
    assert expected in failure(arguments, capfd)
