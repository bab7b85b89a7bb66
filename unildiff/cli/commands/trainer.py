"""``unildiff fit``, ``validate``, ``test`` and ``predict``: the commands of the Lightning Trainer."""

import json

_OPTIONS = """\
  --config FILE               a yaml config; give it several times to combine configs, later ones win
  --data NAME                 a dataset (`unildiff data list`), a class path or a yaml file
  --model NAME                a stage (alignment, joint, joint_lora, decoder, ...), a class path or a yaml file; for test
                              also another method: spandrel:FILE, deepinv:NAME or MODULE:FUNCTION (docs/compare.md)
  --ckpt_path FILE            resume or evaluate this checkpoint; last, best, or auto: resume if there is anything to resume
  --run_dir DIR               folder of the run; by default runs/STAGE/TIME
  --model.init_from FILE      start this stage from the checkpoint of the stage before, or from an exported folder
  --data.root DIR             where the dataset is; by default data/NAME
  --data.batch_size N         images per process and step
  --trainer.max_steps N       number of optimiser steps
  --trainer.devices N         number of devices (processes)
  --seed_everything N         seed of everything random (default: 0)
  --print_config              print the resolved config and exit
  --print_schema              print the JSON schema of configs, for editors, and exit"""


def fit(*arguments: str) -> int:
    """Train a stage, e.g. --config configs/tiny/joint.yaml."""
    return _run("fit", fit.__doc__, arguments)


def validate(*arguments: str) -> int:
    """Run the validation of a stage."""
    return _run("validate", validate.__doc__, arguments)


def test(*arguments: str) -> int:
    """Restore and score the test images of a dataset."""
    from unildiff.cli.commands.rival import rival_arguments, test_rival

    if (translated := rival_arguments(arguments)) is not None:
        from unildiff.cli.parsing import call_function

        return call_function(test_rival, "unildiff test", translated)
    return _run("test", test.__doc__, arguments)


def predict(*arguments: str) -> int:
    """Restore the images of a dataset without ground truth."""
    return _run("predict", predict.__doc__, arguments)


def _run(command: str, summary: str | None, arguments: tuple[str, ...]) -> int:
    if {"--help", "-h"} & set(arguments):
        print(f"usage: unildiff {command} [options]\n\n{summary}\n\nThe options most runs need:\n{_OPTIONS}\n")
        print(f"`unildiff {command} --help-all` lists every option.")
        print("A config is code: the classes that it names are imported and called. Run only configs that you trust.")
        return 0
    if "--print_schema" in arguments:
        from unildiff.cli.schema import config_schema

        print(json.dumps(config_schema(), indent=1))
        return 0
    from unildiff.cli.arguments import TrainerArguments

    parsed = TrainerArguments.parse(command, ["--help" if a == "--help-all" else a for a in arguments])
    from unildiff.cli.lightning_cli import run  # most mistakes are reported before Lightning is imported

    return run(parsed)
