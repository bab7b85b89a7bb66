"""`unildiff test --model spandrel:FILE ...`: other methods' models on our datasets."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

_RENAMED = {"--data.root": "--root", "--data.test_seed": "--seed"}
_EVALUATION = "--model.evaluation."


def rival_arguments(arguments: Sequence[str]) -> list[str] | None:
    """Return the arguments of :func:`test_rival` where `--model` names another method's model, else None."""
    from unildiff.rivals import is_rival

    words = list(arguments)
    values = [word.partition("=")[2] for word in words if word.startswith("--model=")]
    values += [after for word, after in pairwise(words) if word == "--model"]
    if not any(map(is_rival, values)):
        return None
    translated = []
    for word in words:
        name, equals, value = word.partition("=")
        name = f"--{name.removeprefix(_EVALUATION)}" if name.startswith(_EVALUATION) else _RENAMED.get(name, name)
        translated.append(f"{name}{equals}{value}")
    return translated


def test_rival(
    *,
    model: str,
    data: str,
    root: Path | None = None,
    run_dir: Path | None = None,
    protocol: str | None = None,
    metrics: list[str] = ["psnr", "ssim"],  # noqa: B006  jsonargparse shows it as the default; never changed here
    told: bool = False,
    save_inputs: bool = True,
    label: str | None = None,
    tile_size: int | None = None,
    sigma: float | None = None,
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda", "mps"] | str = "auto",
) -> None:
    """Restore and score the test images of a dataset with another method's model.

    Args:
        model: spandrel:FILE (any of spandrel's architectures), deepinv:NAME, deepinv:NAME:FILE, or MODULE:FUNCTION of a
            function from (1, 3, H, W) in [0, 1] to the same.
        data: Dataset (`unildiff data list`).
        root: Where the dataset is (also --data.root); by default data/NAME.
        run_dir: Folder of the run; by default runs/rivals/NAME.
        protocol: Scoring protocol; by default the dataset's.
        metrics: Per-image metrics.
        told: Set this where the model was told the degradation, e.g. one set of weights per task: it is marked as not blind.
        save_inputs: Keep inputs and ground truth beside the restored images, for figures and the report.
        label: Name of the row in tables.
        tile_size: Side of the tiles in pixels, at least 8; by default the whole image, and tiles where memory does not
            suffice.
        sigma: Noise level in 0..255 for models of deepinv that must be told it; they are then not blind.
        seed: Seed of the test noise, as in `unildiff test`.
        device: auto, cpu, cuda, ...

    Raises:
        UserError: The model, the dataset, the protocol or a metric cannot be used.
    """
    from unildiff.results.specs import table_command
    from unildiff.rivals.load import load_rival
    from unildiff.rivals.testing import run_rival
    from unildiff.stages.settings import EvaluationSettings
    from unildiff.stages.testing import means_text
    from unildiff.utils.errors import UserError
    from unildiff.weights.load import pick_device

    if tile_size is not None and tile_size < 8:
        raise UserError(f"--tile_size {tile_size}: give at least 8 pixels")
    if sigma is not None and not 0 < sigma <= 255:
        raise UserError(f"--sigma {sigma}: give a noise level above 0 and up to 255")
    chosen = pick_device(device)
    rival = load_rival(model, chosen, sigma)
    settings = EvaluationSettings(protocol, metrics, [], save_inputs, told or rival.told)
    name = model.replace(":", "-").replace("/", "-")
    folder = run_dir or Path("runs/rivals") / name
    rows, run = run_rival(rival, data, root, folder, settings, chosen, tile_size, seed, label)
    print(f"{label or rival.label}: protocol {run.protocol}, {len(rows)} images of {data}")
    print(means_text(rows))
    for note in run.notes:
        print(note)
    print(f"scores and images: {run.folder}")
    print(f"as a table: {table_command(run.folder)}")


test_rival.__test__ = False  # type: ignore[attr-defined]  # the name would make pytest collect it
