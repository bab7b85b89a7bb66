"""``unildiff plan``: what a fit would need, before a GPU is rented."""

from dataclasses import replace

from unildiff.utils.errors import UserError

_HELP = """usage: unildiff plan --config FILE [all that `unildiff fit` takes] [--throughput TFLOPS]

Parameters, memory a device, steps, epochs, operations, time and disk of a fit, from its shapes alone: no weights, no data
and no GPU are needed. Figures for GPUs are estimates.

  --throughput TFLOPS  what a device is assumed to reach (default: 120 for a GPU, 0.1 for a CPU)"""


def plan(*arguments: str) -> int:
    """Say what a fit will need: memory, time and disk, without weights, data or GPU.

    Args:
        arguments: those of ``unildiff fit``, and ``--throughput``.

    Raises:
        UserError: the config is none of a restoration stage, or whatever `fit` would complain of.
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
        raise UserError(f"--throughput {throughput}: give TFLOP/s a device, e.g. 120")

    from unildiff.cli.plan_inputs import parse_run
    from unildiff.planning.report import plan_text
    from unildiff.planning.shapes import base_sizes
    from unildiff.planning.step import measure_step

    parsed = parse_run(rest, tflops)
    sizes = base_sizes(parsed.base)
    step = parsed.run.step
    cost, other = (
        measure_step(sizes, parsed.network, replace(step, checkpointing=checkpointing))
        for checkpointing in (step.checkpointing, not step.checkpointing)
    )
    print(plan_text(replace(parsed.run, base=sizes.source), cost, other))
    return 0


def _taken(arguments: list[str], option: str) -> tuple[list[str], str | None]:
    """Return the arguments without an option, and its value."""
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
