"""What a user types, and what comes of it; a mistake is one line on stderr and exit code 2."""

import inspect
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from tests.cli.toy_commands import PYTHON, TOY, elsewhere  # noqa: F401  # the fixture is used by its name
from unildiff import __version__
from unildiff.cli import main as cli
from unildiff.cli.arguments import MODELS, TrainerArguments
from unildiff.cli.commands import COMMANDS
from unildiff.cli.main import main
from unildiff.utils.paths import config_names, config_path


def test_debug_shows_where_it_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNILDIFF_DEBUG", "1")
    with pytest.raises(Exception, match="unknown command"):
        main(["tset"])


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "1000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None), ({"GOMP_SPINCOUNT": "7"}, "7")],
)
def test_waiting_threads_sleep_soon_unless_the_user_says_otherwise(
    given: dict[str, str], spins: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # restored after the test
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert main(["-V"]) == 0
    assert os.environ.get("GOMP_SPINCOUNT") == spins


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
    "serve": "model host port device dtype memory offload max_megabytes max_pixels",
    "score": "restored gt protocol metrics csv json rule workers input label run_dir bundle images degradation data data_kind blind",
    "table": "table_id run_dirs out others rows",
    "compare": "first second metrics csv",
    "leaderboard": "folder out",
    "figures": "data root model out images sweep_images steps guidance perception side num_inference_steps seed device",
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
