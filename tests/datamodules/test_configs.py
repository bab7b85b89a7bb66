"""Each datamodule has a config that builds it, and takes the arguments of its bases from the command line."""

from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

import datamodules
from unildiff.cli.plan_inputs import parse_run
from unildiff.data.datamodule import RestorationDataModule
from unildiff.data.paired_datamodule import PairedDataModule

CONFIGS = sorted((Path(__file__).parents[2] / "configs/data").glob("*.yaml"))


def build(*arguments: str) -> RestorationDataModule:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(RestorationDataModule, "data")
    return parser.instantiate_classes(parser.parse_args(list(arguments))).data


def test_each_datamodule_has_a_config():
    assert [path.stem for path in CONFIGS] == datamodules.names()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_opens_with_its_command_and_builds(path):
    assert (
        path.read_text().startswith("# unildiff ") and f"configs/data/{path.name}" in path.read_text().splitlines()[0]
    )
    module = build(f"--data={path}", "--data.batch_size=3", "--data.test_seed=5")
    assert type(module).__module__ == f"datamodules.{path.stem}" or module.dataset == path.stem
    assert (module.batch_size, module.test_seed) == (3, 5)


def command(path: Path) -> list[str]:
    """Return the arguments of the command that a config opens with."""
    return path.read_text().splitlines()[0].split()[2:]


PAPERS = [path for path in CONFIGS if command(path)[:3] == ["fit", "--config", "configs/joint.yaml"]]


def test_most_sets_train_with_the_papers_recipe():
    tested_only = {"deadleaves", "folder", "photographs", "udc", "foundir", "mio100"}
    assert len(PAPERS) >= 11 and tested_only.isdisjoint(path.stem for path in PAPERS)


def test_their_commands_give_the_papers_global_batch():
    """One run for each group of commands and data configs that could differ in it."""
    groups = {}
    for path in PAPERS:
        own = (
            yaml.safe_load(path.read_text())["init_args"].get("batch_size") if "init_args" in path.read_text() else None
        )
        groups[(own, *(part for part in command(path) if "configs/data/" not in part))] = path
    for path in groups.values():
        run = parse_run(command(path)[1:], None).run
        assert run.devices * run.step.batch_size * run.accumulation == 64


@pytest.mark.parametrize("name", datamodules.names())
def test_short_names_lead_to_classes_that_need_no_argument(name):
    module = build(f"--data={datamodules.class_path(name)}")
    expected = {"cdd11": "onerestore", "deadleaves": "onerestore", "photographs": "onerestore", "foundir": "foundir"}
    assert module.protocol == expected.get(name, "unildiff") and module.blind
    if isinstance(module, PairedDataModule):
        assert str(module.root) == f"data/{name}"
        assert (
            build(f"--data={datamodules.class_path(name)}", "--data.packed=here", "--data.on_error=skip").on_error
            == "skip"
        )


def test_settings_that_are_lists_and_tables():
    cdd11, three_task = datamodules.class_path("cdd11"), datamodules.class_path("three_task")
    assert build(f"--data={cdd11}", "--data.degradations=double").degradations[0] == "low_haze"
    assert build(f"--data={cdd11}", "--data.degradations=[low,haze_rain]").degradations == ["low", "haze_rain"]
    module = build(
        f"--data={three_task}", "--data.weights={haze: 2}", "--data.folders={rain: /r}", "--data.tasks=[rain]"
    )
    assert module.weights == {"haze": 2} and str(module.folders["rain"]) == "/r" and module.tasks == ["rain"]
    assert build(f"--data={three_task}", "--data.weights.haze=2").weights == {"haze": 2}
