"""The contribution of each part of the method at tiny size: the paper's ablation, text dropout and lambda.

    make ablation                                                      # a tenth of the shipped model's steps, one seed
    make ablation ARGS="--every 3 --inference-steps 8"                 # the same, scored in a seventh of the time
    make ablation ARGS="--steps 300 5000 3500 --seeds 0 1"            # as many as the shipped model; hours per variant
    make ablation ARGS="--steps 5 20 10 --minutes 10 --every 8"        # a quick trial
    make ablation ARGS="--tables dropout lambda --minutes 120 --test --table runs/text.md"

    make ablation ARGS="--photographs data/photographs --base runs/tiny/base --tables routing fusion experts"

Every variant starts from the same base (step 2 of `make tiny-weights`) and gets the same steps, batches and samples; stages
that variants have in common are trained once. The same command resumes a run that was stopped or ran out of
--minutes. Decisions use the validation photographs; --test adds the test photographs for the report. Results:
OUT/results.json, OUT/results.csv and the table OUT/ablation.md (--table puts it elsewhere).

Axis letters: H/W pixels.
"""

import argparse
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from torch import nn
from torch.utils.hooks import RemovableHandle

from benchmarks.timing import one_thread
from studies.ablation_plan import (
    CONFIGS,
    DECODER,
    STAGES,
    TABLES,
    VARIANTS,
    Budget,
    Variant,
    chosen,
    fit_arguments,
    folder_names,
    photograph_arguments,
)
from studies.ablation_table import ablation_markdown, write_results
from studies.runner import held_out, latents_of, positive, score_images
from unildiff.cli.main import main as unildiff
from unildiff.core.model import UniLDiff
from unildiff.core.pixels import to_uint8
from unildiff.data.batch import RestorationSample
from unildiff.data.tools.samples import LONGEST
from unildiff.diffusion.sampler import SamplingSettings
from unildiff.metrics.rows import summarise
from unildiff.utils.errors import UserError
from unildiff.utils.files import output_folder, write_whole
from unildiff.utils.paths import config_path
from unildiff.weights.checkpoints import read_checkpoint
from unildiff.weights.load import load_restorer

SHARE = 10  # by default a tenth of the shipped model's steps
OUT_OF_TIME = -1
Result = dict[str, Any]
Scores = dict[str, Any]
"""Summaries ``restored`` and ``input``; ``images``, a list of name, degradation and PSNR; ``experts`` in use, by level."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    one_thread()
    torch.set_num_threads(options.threads)
    try:
        return run(options)
    except UserError as error:
        print(f"ablation: error: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m studies.ablation", description=__doc__.splitlines()[0])
    made.add_argument("--steps", type=int, nargs=3, metavar=("ALIGNMENT", "JOINT", "DECODER"), default=None)
    made.add_argument(
        "--minutes", type=float, help="start no further stage after so many minutes; the next call resumes"
    )
    made.add_argument("--seeds", type=int, nargs="+", default=[0])
    made.add_argument("--variants", nargs="+", default=[], choices=[v.name for v in VARIANTS], metavar="NAME")
    made.add_argument("--tables", nargs="+", default=[], choices=list(TABLES), help="only what these tables need")
    made.add_argument("--base", default="runs/tiny/base")
    made.add_argument(
        "--photographs",
        type=Path,
        help="train on its folder `train` instead of generated scenes, and validate on its folder `validation`",
    )
    made.add_argument("--test", action="store_true", help="score the test photographs, too")
    made.add_argument("--every", type=positive, default=1, help="score only every n-th image")
    made.add_argument(
        "--size", type=positive, default=LONGEST, help="long side of the validation photographs in pixels"
    )
    made.add_argument("--inference-steps", type=positive, default=20)
    made.add_argument("--guidance", type=float, default=5.0)
    made.add_argument("--threads", type=positive, default=2)
    made.add_argument("--out", type=Path, default=Path("runs/ablation"))
    made.add_argument("--table", type=Path, help="file for the table; by default OUT/ablation.md")
    made.add_argument(
        "--fit", nargs=argparse.REMAINDER, default=[], help="all further arguments are passed to `unildiff fit`"
    )
    return made


def run(options: argparse.Namespace) -> int:
    """Train and score the missing variants, then write all results.

    Raises:
        UserError: the base is not there, or a fit refuses its settings.
    """
    if not Path(options.base, "vae").is_dir():
        raise UserError(
            f"base: no base in {options.base}; `make tiny-weights` makes it in its second step, or give --base"
        )
    folder = options.photographs
    photographs = () if folder is None else photograph_arguments(folder)
    budget = Budget(options.base, tuple(options.steps or default_steps()), tuple(options.fit), photographs)
    variants = chosen(options.variants, [TABLES[name] for name in options.tables])
    which = ["validation", *(["test"] if options.test else [])]
    more = None if folder is None else folder / "validation"
    samples = {name: held_out(name, options.size, more)[:: options.every] for name in which}
    settings = SamplingSettings(options.inference_steps, options.guidance)
    deadline = float("inf") if options.minutes is None else time.monotonic() + 60 * options.minutes
    results, code = [], 0
    for seed in options.seeds:
        for variant in variants:
            code = train(variant, budget, seed, options.out, lambda: time.monotonic() < deadline)
            if code:
                break
            folders = [options.out / name for name in folder_names(variant, budget, seed)]
            kept = f"{options.size}_{options.every}"
            scores = {
                name: scored(folders[-1], variant, images, f"{name}_{kept}", settings)
                for name, images in samples.items()
            }
            results.append(result(variant, seed, folders, scores))
            write_results(results, options.out)
        if code:
            break
    about = {"steps": budget.steps, "inference_steps": options.inference_steps, "guidance": options.guidance}
    about |= {"pictures": {name: len(each) for name, each in samples.items()}, "base": options.base}
    if results:  # an empty page would replace that of an earlier call
        text = ablation_markdown(results, about)
        page = options.table or options.out / "ablation.md"
        output_folder(page.parent)
        write_whole(page, text.encode())
        print(text)
    left = len(options.seeds) * len(variants) - len(results)
    if left:
        print(f"{left} of {len(options.seeds) * len(variants)} variants are left; the same command resumes")
    return code if code != OUT_OF_TIME else 0


def train(variant: Variant, budget: Budget, seed: int, out: Path, in_time: Callable[[], bool]) -> int:
    """Train the stages of a variant that are not finished; return 0, ``OUT_OF_TIME``, or the fit's exit code."""
    init_from = None
    for stage, name in zip(variant.stages, folder_names(variant, budget, seed), strict=True):
        last = out / name / "checkpoints" / "last.ckpt"
        if not finished(last, budget.of(stage)):
            if not in_time():
                return OUT_OF_TIME
            print(f"{variant.name}, seed {seed}: {stage}, {budget.of(stage)} steps in {out / name}", flush=True)
            start = time.process_time()
            code = unildiff(fit_arguments(variant, stage, budget, seed, str(out / name), init_from))
            add_seconds(out / name, time.process_time() - start)
            if code:
                return code
        init_from = str(last)
    return 0


def finished(last: Path, steps: int) -> bool:
    return last.is_file() and read_checkpoint(last).step >= steps


def add_seconds(folder: Path, seconds: float) -> None:
    """Record the processor time of a stage over all its runs, without that of its loaders."""
    output_folder(folder)
    write_whole(folder / "seconds.json", json.dumps(seconds_of(folder) + seconds).encode())


def seconds_of(folder: Path) -> float:
    path = folder / "seconds.json"
    return float(json.loads(path.read_text())) if path.is_file() else 0.0


def default_steps() -> tuple[int, ...]:
    """Return a tenth of the steps of the shipped model's recipe."""
    configs = [yaml.safe_load(config_path(f"{CONFIGS}/{stage}.yaml").read_text()) for stage in STAGES]
    return tuple(max(1, config["trainer"]["max_steps"] // SHARE) for config in configs)


def scored(
    folder: Path, variant: Variant, samples: Sequence[RestorationSample], which: str, settings: SamplingSettings
) -> Scores:
    """Return the scores of a variant and of its input, from its folder if they exist."""
    path = folder / f"{which}_{settings.num_inference_steps}_{settings.guidance_scale:g}.json"
    if path.is_file():
        return cast(Scores, json.loads(path.read_text()))
    model = load_restorer(str(folder / "checkpoints" / "last.ckpt"))
    detail, on_lq = variant.decoder is not None, variant.of_stage(DECODER).get("latents") == "lq"

    def restore(sample: RestorationSample) -> dict[str, torch.Tensor]:
        with torch.inference_mode():
            features, latents = latents_of(model, sample, settings, diffusion=not on_lq)
            return {"restored": to_uint8(model.decode(latents, features, sample["lq"].shape, detail))[0]}

    with counted_experts(model) as counts:
        rows = score_images(samples, restore, variant.name)
    images = [[str(row["name"]), str(row["degradation"]), row["psnr"]] for row in rows["restored"]]
    found: Scores = {row: summarise(rows[row]) for row in ("restored", "input")}
    found |= {"images": images, "experts": [effective_number(each) for each in counts.values()]}
    write_whole(path, json.dumps(found).encode())
    return found


@contextmanager
def counted_experts(model: UniLDiff) -> Iterator[dict[int, Counter[int]]]:
    """Count how often every detail expert is chosen, by level, while the context is open."""
    counts: dict[int, Counter[int]] = {}

    def watch(index: int) -> RemovableHandle:
        def seen(level: nn.Module, inputs: Any, output: Any) -> None:
            counts.setdefault(index, Counter()).update(output[1].indices.flatten().tolist())

        return model.decoder.details[index].register_forward_hook(seen)

    handles = [watch(index) for index in range(len(model.decoder.details))]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def effective_number(counts: Counter[int]) -> float:
    """Return the exponential of the entropy of the shares: how many experts are in use."""
    total = counts.total()
    return math.exp(-sum(n / total * math.log(n / total) for n in counts.values()))


def result(variant: Variant, seed: int, folders: Sequence[Path], scores: dict[str, Scores]) -> Result:
    """Return the results of one trained variant; its seconds are those of all its stages, including shared ones."""
    return {
        "variant": variant.name,
        "seed": seed,
        "folder": str(folders[-1]),
        "seconds": sum(seconds_of(folder) for folder in folders),
        "scores": {which: rows["restored"] for which, rows in scores.items()},
        "input": {which: rows["input"] for which, rows in scores.items()},
        "images": {which: rows["images"] for which, rows in scores.items()},
        "experts": {which: rows["experts"] for which, rows in scores.items()},
    }


if __name__ == "__main__":
    raise SystemExit(main())
