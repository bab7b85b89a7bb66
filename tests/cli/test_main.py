"""What a user types, and what comes of it; a mistake is one line on stderr and exit code 2."""

import inspect
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from unildiff import __version__
from unildiff.cli import main as cli
from unildiff.cli.arguments import MODELS, TrainerArguments
from unildiff.cli.commands import COMMANDS
from unildiff.cli.main import main
from unildiff.utils.paths import config_names, config_path

TOY = ["--model", "tests.callbacks.toy.ToyModule", "--data", "tests.callbacks.toy.ToyData"]
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
PYTHON = [sys.executable, "-m", "unildiff"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command runs in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNILDIFF_DEBUG", raising=False)


def failure(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    """Run a mistaken command; return its one line."""
    capfd.readouterr()
    assert main(arguments) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("unildiff: error: ")
    assert "Traceback" not in lines[0]
    return lines[0]


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
    "wrong type": (["fit", *TOY, "--trainer.max_steps", "many"], "trainer.max_steps is many; it must be int"),
    "no such class": (["fit", "--model", "tests.callbacks.toy.ToyModul", *TOY[2:]], "has no ToyModul; did you mean ToyModule?"),
    "no such module": (["fit", *TOY[:2], "--data", "nowhere.Data"], "no class nowhere.Data: No module named 'nowhere'"),
    "no such class in a config": (["fit", *TOY[2:], "--config", "class.yaml"], "no attribute 'Nope'"),
    "setting that data refuse": (["fit", *TOY[:2], "--data", "cdd11", "--data.degradations", "fog"], "error: degradations: no fog; choose"),
    "no pictures there": (["test", "--model", "tests.callbacks.toy.ToyModule", *QUIET, "--model.init_from=x", "--data", "cdd11", "--data.root", "nowhere"], "nowhere"),
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
    "wrong value of a command": (["restore", "a", "b", "--seed", "x"], "seed is x; it must be int"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    Path("broken.yaml").write_text("model: [1\n x: {")
    Path("words.yaml").write_text("just words")
    Path("binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    Path("key.yaml").write_text("trainer: {max_stepz: 1}")
    Path("top.yaml").write_text("modell: 1")
    Path("class.yaml").write_text("model: {class_path: tests.callbacks.toy.Nope}")
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


def test_debug_shows_where_it_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNILDIFF_DEBUG", "1")
    with pytest.raises(Exception, match="unknown command"):
        main(["tset"])


def test_the_real_entry_point(tmp_path: Path) -> None:
    done = subprocess.run([*PYTHON, "tset"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def imports(arguments: list[str]) -> tuple[set[str], float, str]:
    """Run a command in a fresh interpreter; return what it imported, its processor seconds and its output."""
    code = (
        "import sys, time; from unildiff.cli.main import main; code = main(sys.argv[1:]); "
        "print('\\nIMPORTED', time.process_time(), *{name.partition('.')[0] for name in sys.modules}); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    output, _, names = done.stdout.rpartition("IMPORTED")
    seconds, *modules = names.split()
    return set(modules), float(seconds), output


def test_help_is_quick_and_shows_what_there_is() -> None:
    imported, seconds, output = imports(["--help"])
    assert not imported & {"torch", "numpy", "lightning", "PIL", "diffusers"}
    assert seconds < 1.5
    assert all(f"\n  {command.split()[0]} " in output for command in COMMANDS)


def test_data_list_is_quick() -> None:
    imported, seconds, output = imports(["data", "list"])
    assert not imported & {"torch", "lightning", "diffusers", "cv2"}
    assert seconds < 1.0
    assert "cdd11" in output


def test_every_command_that_is_shown_has_a_summary() -> None:
    for name in COMMANDS:
        assert cli.summary(cli.function(name)).endswith("."), name


@pytest.mark.parametrize("words", (["--help"], ["help"], ["-h"], []))
def test_help_lists_the_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert "\n  restore " in capsys.readouterr().out


@pytest.mark.parametrize("command", [*COMMANDS, "data"])
def test_help_of_a_command_is_one_page_of_plain_words(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = []
    for words in ([*command.split(), "--help"], ["help", *command.split()]):
        try:
            assert main(words) == 0
        except SystemExit as ended:  # argparse ends the process after its help
            assert ended.code == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert outputs[0].startswith(f"usage: unildiff {command}")
    assert outputs[0].count("\n") < 80
    assert not re.search(r"<class|default: null", " ".join(outputs[0].split()))


def test_help_of_fit_is_quick() -> None:
    imported, seconds, output = imports(["fit", "--help"])
    assert not imported & {"torch", "numpy", "lightning", "jsonargparse"} and seconds < 1.0
    assert "--help-all" in output


def test_all_options_of_fit(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--help-all"])
    output = capsys.readouterr().out
    assert ended.value.code == 0 and "--trainer.gradient_clip_val" in output
    assert not re.search(r"<class|default:\s+null", output)


@pytest.mark.parametrize("option", ("-V", "--version"))
def test_version(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([option]) == 0
    assert capsys.readouterr().out == f"unildiff {__version__}\n"


OPTIONS = {
    "fit": "arguments",
    "validate": "arguments",
    "test": "arguments",
    "predict": "arguments",
    "restore": "src out model num_inference_steps guidance_scale seed captions start last_timestep tile_size vae_tile timestep_spacing batch_size format colour uncertainty in_doubt provenance overwrite skip_existing shard devices engine device dtype memory offload max_pixels",
    "serve": "model host port device dtype max_megabytes max_pixels",
    "score": "restored gt protocol metrics csv json rule workers input label run_dir bundle images degradation data data_kind blind",
    "table": "table_id run_dirs out others rows",
    "compare": "first second metrics csv",
    "leaderboard": "folder out",
    "figures": "data root model out pictures sweep_pictures steps guidance perception side num_inference_steps seed device",
    "report": "run_dirs out data_root",
    "plan": "arguments",
    "export": "ckpt out dtype init_from onnx onnx_steps",
    "data list": "",
    "data layout": "name",
    "data check": "name root json lq gt train_lq train_gt val_lq val_gt rule",
    "data pack": "name root out lq gt train_lq train_gt val_lq val_gt rule",
    "data synthesize": "name clean out seed split depth light rain snow luma processes",
    "data caption": "root model source name max_new_tokens",
    "data download": "name root only",
    "data sample": "name root",
    "data convert": "options",
    "data photographs": "root package",
}  # fmt: skip


def test_widening_the_command_line_is_a_visible_act() -> None:
    assert {name: " ".join(inspect.signature(cli.function(name)).parameters) for name in COMMANDS} == OPTIONS


@pytest.mark.parametrize("name", MODELS)
def test_short_names_of_stages(name: str) -> None:
    module, _, stage = MODELS[name].rpartition(".")
    assert hasattr(getattr(import_module(module), stage), "training_step")


# Short names and configs.


def parsed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    """Return the resolved config of ``fit``."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["fit", *arguments, "--print_config"])
    assert ended.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.fixture
def config() -> str:
    Path("c.yaml").write_text(
        "model: {class_path: tests.callbacks.toy.ToyModule, init_args: {width: 8}}\n"
        "data: {class_path: tests.callbacks.toy.ToyData, init_args: {count: 99, batch_size: 5}}\n"
        "trainer: {max_steps: 7}"
    )
    return "c.yaml"


OTHER = "tests.callbacks.toy_stages.OtherData"


@pytest.mark.parametrize(
    "line",
    [
        ["--data", OTHER, "--config", "c.yaml", "--data.batch_size", "3"],
        ["--config", "c.yaml", "--data", OTHER, "--data.batch_size", "3"],
        ["--data.batch_size=3", f"--data={OTHER}", "--config=c.yaml"],
        ["-c", "c.yaml", "--data.batch_size", "3", "--data", OTHER],
    ],
)
def test_data_replaces_the_configs_wherever_it_stands(line: list[str], config: str, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    result = parsed(line, capsys)
    assert result["data"]["class_path"] == OTHER
    assert result["data"]["init_args"]["count"] == 14  # its own default, not the 99 of the config's data
    assert result["data"]["init_args"]["batch_size"] == 3
    assert result["model"]["init_args"]["width"] == 8
    assert result["trainer"]["max_steps"] == 7


def test_a_short_name_is_not_mistaken_for_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("deadleaves").write_text("")
    Path("DeadLeavesDataModule").write_text("")
    result = parsed(["--data", "deadleaves", *TOY[:2]], capsys)
    assert result["data"]["class_path"] == "datamodules.deadleaves.DeadLeavesDataModule"


def test_data_and_model_from_files(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("d.yaml").write_text(f"class_path: {OTHER}\ninit_args: {{num_workers: 3}}")
    result = parsed(["--data", "d.yaml", "--config", config], capsys)
    assert result["data"]["class_path"] == OTHER
    assert (result["data"]["init_args"]["num_workers"], result["data"]["init_args"]["count"]) == (3, 14)


def test_a_model_forgets_the_configs_settings(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = parsed(["--model", "tests.callbacks.toy.OtherModule", "--config", config], capsys)
    assert result["model"] == {
        "class_path": "tests.callbacks.toy.OtherModule",
        "init_args": {"width": 4, "init_from": None, "sampling": None},
    }


def test_shipped_configs_are_found_from_anywhere() -> None:
    (path,) = TrainerArguments.parse("test", ["--config", "configs/tiny/test.yaml"]).configs
    assert path.is_file()
    Path("configs/tiny").mkdir(parents=True)
    Path("configs/tiny/test.yaml").write_text("seed_everything: 5")
    (content,) = TrainerArguments.parse("test", ["--config", "configs/tiny/test.yaml"]).configs.values()
    assert content == {"seed_everything": 5}  # one's own comes first


@pytest.mark.parametrize("name", config_names())
def test_the_command_that_a_config_opens_with(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    opening = config_path(name).read_text().partition("\n")[0]
    found = re.search(r"unildiff ((?:fit|validate|test|predict) [^`(]*)", opening)
    assert found, f"{name} must open with the command that runs it"
    with pytest.raises(SystemExit) as ended:
        main([*shlex.split(found[1]), "--print_config"])
    assert ended.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["class_path"]


def test_a_test_without_anything_takes_the_shipped_model() -> None:
    arguments = TrainerArguments.parse("test", ["--data", "cdd11"]).ordered()
    assert arguments[1].endswith("configs/tiny/test.yaml")
    (content,) = TrainerArguments.parse("test", ["--config", "configs/tiny/test.yaml"]).configs.values()
    assert content["model"]["init_args"] == {"init_from": "tiny"}


# Checkpoints.


def fit(folder: str, *arguments: str, model: str = "tests.callbacks.toy.ToyModule") -> str:
    line = ["fit", "--model", model, *TOY[2:], *QUIET, "--run_dir", folder, "--trainer.max_steps", "3"]
    assert main([*line, *arguments]) == 0
    return f"{folder}/checkpoints/last.ckpt"


def resolved_test(folder: str) -> dict:
    """Return the resolved config of a test."""
    return yaml.safe_load(Path(folder, "config.test.yaml").read_text())


def test_the_wrong_stage_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    checkpoint = fit("a")
    other = ["--model", "tests.callbacks.toy.OtherModule", *TOY[2:]]
    expected = "last.ckpt is of ToyModule, not of OtherModule; --ckpt_path resumes or tests the same stage"
    assert expected in failure(["test", *other, "--ckpt_path", checkpoint], capfd)
    assert expected in failure(["fit", *other, "--ckpt_path", checkpoint], capfd)
    Path("other.yaml").write_text("model: {class_path: tests.callbacks.toy.OtherModule}")
    assert expected in failure(["fit", "--config", "other.yaml", *TOY[2:], "--ckpt_path", checkpoint], capfd)


KEEPS = "tests.callbacks.toy_stages.Keeps"


def test_a_checkpoint_brings_its_network_but_never_its_sampler(capfd: pytest.CaptureFixture[str]) -> None:
    checkpoint = fit("a", "--model.width", "8", "--model.sampling", "{num_inference_steps: 4}", model=KEEPS)
    assert torch.load(checkpoint, weights_only=True)["hyper_parameters"]["sampling"] == {"num_inference_steps": 4}
    line = ["test", *TOY[2:], *QUIET, "--ckpt_path", checkpoint]
    assert main([*line, "--run_dir", "none"]) == 0
    assert resolved_test("none")["model"] == {
        "class_path": KEEPS, "init_args": {"width": 8, "init_from": None, "sampling": None},
    }  # fmt: skip
    assert main([*line, "--run_dir", "line", "--model.sampling", "{num_inference_steps: 50}"]) == 0
    assert resolved_test("line")["model"]["init_args"]["sampling"] == {"num_inference_steps": 50}
    Path("c.yaml").write_text(f"model: {{class_path: {KEEPS}, init_args: {{sampling: {{num_inference_steps: 7}}}}}}")
    assert main([*line, "--run_dir", "config", "--config", "c.yaml"]) == 0
    assert resolved_test("config")["model"]["init_args"] == {"width": 8, "init_from": None, "sampling": {"num_inference_steps": 7}}  # fmt: skip
    assert main([*line, "--run_dir", "named", "--model", KEEPS]) == 0
    assert resolved_test("named")["model"]["init_args"]["width"] == 8
    expected = f"model: {checkpoint} as Keeps"
    assert capfd.readouterr().out.count(expected) == 4


def test_lightnings_own_way_with_checkpoints_is_off() -> None:
    from lightning.pytorch.cli import LightningCLI

    from unildiff.cli.lightning_cli import UniLDiffCLI

    assert callable(LightningCLI._parse_ckpt_path)  # a private method of theirs: gone or renamed, ours does nothing
    assert UniLDiffCLI._parse_ckpt_path is not LightningCLI._parse_ckpt_path


def test_resuming(capfd: pytest.CaptureFixture[str]) -> None:
    fit("runs/toymodule/one")
    assert main(["fit", *TOY, *QUIET, "--ckpt_path", "last", "--trainer.max_steps", "5", "--run_dir", "two"]) == 0
    assert Path("two/checkpoints/step-000005.ckpt").exists()
    assert yaml.safe_load(Path("two/config.fit.yaml").read_text())["ckpt_path"] == "runs/toymodule/one/checkpoints/last.ckpt"  # fmt: skip
    for _ in range(2):  # starts, then goes on
        assert main(["fit", *TOY, *QUIET, "--ckpt_path", "auto", "--trainer.max_steps", "2", "--run_dir", "three"]) == 0
    assert yaml.safe_load(Path("three/config.fit.yaml").read_text())["ckpt_path"] is None
    assert yaml.safe_load(Path("three/config.fit-2.yaml").read_text())["ckpt_path"] == "three/checkpoints/last.ckpt"


def test_weights_only_cannot_be_resumed(capfd: pytest.CaptureFixture[str]) -> None:
    Path("c.yaml").write_text(
        "trainer: {callbacks: [{class_path: unildiff.callbacks.Checkpointing, init_args: {weights_only: true}}]}"
    )
    checkpoint = fit("a", "--config", "c.yaml")
    assert "weights only and cannot be resumed" in failure(["fit", *TOY, "--ckpt_path", checkpoint], capfd)
    assert main(["test", *TOY[2:], *QUIET, "--ckpt_path", checkpoint]) == 0


# Exit codes.


def test_sigterm_leaves_a_checkpoint_and_its_exit_code() -> None:
    line = ["fit", "--model", "tests.callbacks.toy_stages.Terminated", *TOY[2:], *QUIET, "--run_dir", "a"]
    assert main(line) == 143
    assert Path("a/checkpoints/last.ckpt").resolve().name == "step-000003.ckpt"


def test_something_left_out_shows_in_the_exit_code() -> None:
    checkpoint = fit("a")
    line = ["test", "--data", "tests.callbacks.toy_stages.Skips", *QUIET, "--ckpt_path", checkpoint]
    assert main(line) == 3


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupted)
    assert main(["fit"]) == 130
