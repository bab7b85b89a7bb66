"""``unildiff plan``: what a training run will need, before you rent a GPU."""

import sys
from dataclasses import replace

from unildiff.utils.errors import UserError

_HELP = """usage: unildiff plan --config FILE [all that `unildiff fit` takes] [--throughput TFLOPS]

Print parameters, memory per device, steps, epochs, operations, time and disk of a training run. They follow from shapes
alone, so you need neither weights nor data nor a GPU. Figures for GPUs are estimates.

  --throughput TFLOPS  assumed speed of a device (default: 120 for a GPU, 0.1 for a CPU)"""


def plan(*arguments: str) -> int:
    """Print what a training run will need: memory, time and disk; takes no weights, data or GPU.

    Args:
        arguments: those of ``unildiff fit``, and ``--throughput``.

    Raises:
        UserError: the config does not train a restoration stage, or `fit` would refuse it.
    """
    if {"--help", "-h"} & set(arguments) or not arguments:
        print(_HELP)
        return 0 if arguments else 2
    rest, throughput = _taken(list(arguments), "--throughput")
    try:
        tflops = None if throughput is None else float(throughput)
    except ValueError:
        tflops = 0.0
    if tflops is not None and not tflops > 0:
        raise UserError(f"--throughput {throughput}: give the TFLOP/s of a device, e.g. 120")

    from unildiff.cli.arguments import TrainerArguments

    TrainerArguments.parse("fit", rest)  # most mistakes are reported before Lightning is imported
    _progress("reading the configuration")
    from unildiff.cli.plan_inputs import parse_run
    from unildiff.planning.report import plan_text
    from unildiff.planning.shapes import base_sizes
    from unildiff.planning.step import measure_step

    parsed = parse_run(rest, tflops)
    _progress("measuring a training step on shapes alone, with and without gradient checkpointing")
    sizes = base_sizes(parsed.base)
    step = parsed.run.step
    cost, other = (
        measure_step(sizes, parsed.network, step.with_settings(gradient_checkpointing=checkpointing))
        for checkpointing in (parsed.run.checkpointing, not parsed.run.checkpointing)
    )
    print(plan_text(replace(parsed.run, base=sizes.source), cost, other))
    return 0


def _progress(text: str) -> None:
    print(f"plan: {text} ...", file=sys.stderr, flush=True)


def _taken(arguments: list[str], option: str) -> tuple[list[str], str | None]:
    """Return the arguments without one option, and the value of that option."""
    rest, value = [], None
    waiting = iter(arguments)
    for argument in waiting:
        if argument == option:
            value = next(waiting, "")
        elif argument.startswith(f"{option}="):
            value = argument.partition("=")[2]
        else:
            rest.append(argument)
    return rest, value
