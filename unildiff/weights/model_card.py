"""The README beside an exported model: data, recipe, protocol and scores, read off the run that made it."""

import csv
import json
from pathlib import Path
from typing import Any

from unildiff import __version__
from unildiff.weights.checkpoints import StageCheckpoint
from unildiff.weights.load import weights_folder

_HEAD = """---
library_name: diffusers
pipeline_tag: image-to-image
tags: [image-restoration, unildiff]
---

# UniLDiff: all-in-one image restoration

Restores pictures under unknown degradations (haze, rain, snow, noise, blur, low light, several at once). A
re-implementation of the method of "UniLDiff: Unlocking the Power of Diffusion Priors for All-in-One Image Restoration"
(CVPR 2026, arXiv 2507.23685), written by `unildiff export` {version}.

```python
from PIL import Image
from unildiff.weights.pipeline import UniLDiffPipeline

pipeline = UniLDiffPipeline.from_pretrained("FOLDER_OR_ID")
pipeline(Image.open("degraded.png"), prompt="what is in the picture").images[0].save("restored.png")
```
"""
_LICENCE = """
## Licence

That of the base model, of which these weights are a fine-tuned copy, applies to them as well: see the base's own page.
"""


def card_of_checkpoint(checkpoint: StageCheckpoint) -> str:
    """Return the card of a stage's checkpoint; what its run folder does not hold, the card says is not known."""
    run_folder = checkpoint.path.resolve().parent.parent
    fit = _json(run_folder / "run.fit.json")
    settings = checkpoint.settings
    recipe = {
        "stage": checkpoint.stage or "not known",
        "base": settings.get("base", "not known"),
        "VAE": settings.get("base_vae") or "the base's own",
        "started from": settings.get("init_from") or "the base alone",
        "optimiser steps": checkpoint.step,
        "averaged weights (EMA)": "yes" if checkpoint.averaged else "no",
        **{f"optimizer, {key.replace('_', ' ')}": value for key, value in (settings.get("optimizer") or {}).items()},
        "text dropout": settings.get("text_dropout", "not known"),
    }
    data = {
        "trained on": fit.get("data", "not known"),
        "data fingerprint": fit.get("data_fingerprint", "not known"),
        "seed": fit.get("seed", "not known"),
        "command": f"`{fit['command']}`" if "command" in fit else "not known",
        "commit": fit.get("commit", "not known"),
    }
    parts = [_HEAD.format(version=__version__), _table("Data", data), _table("Recipe", recipe)]
    network = json.dumps(settings.get("network"), indent=2)
    parts.append(f"\n## Network\n\n```json\n{network}\n```\n" if settings.get("network") else "")
    files = ("run.json", "scores.csv")  # a test that was stopped leaves one of them, at most
    tests = [folder for folder in sorted(run_folder.glob("test*")) if all((folder / file).is_file() for file in files)]
    parts += [_scores(folder) for folder in tests] or ["\n## Scores\n\nNot tested in its run folder.\n"]
    return "".join(parts) + _LICENCE


def card_of_folder(source: str) -> str:
    """Return the card of a model that came as a folder: its own where it has one."""
    folder = weights_folder(source)
    own = None if folder is None else folder / "README.md"
    if own is not None and own.is_file():
        return own.read_text(encoding="utf-8")
    return _HEAD.format(version=__version__) + _table("Recipe", {"copied from": source}) + _LICENCE


def _scores(folder: Path) -> str:
    """Return the section of one test: protocol, data, and means per degradation."""
    about = _json(folder / "run.json")
    kind = "sample set" if about.get("data_kind") == "sample" else "real data"
    facts = {
        "protocol": about.get("protocol"),
        "data": f"{about.get('data')} ({kind}, {sum((about.get('count') or {}).values())} pictures)",
        "steps, guidance, start": f"{about.get('steps')}, {about.get('guidance_scale')}, {about.get('start')}",
        "seed": about.get("seed"),
    }
    with open(folder / "scores.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    metrics = [name for name in rows[0] if name in ("psnr", "ssim", "lpips", "dists")] if rows else []
    means: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        means.setdefault(row["degradation"], []).append(row)
    lines = [f"| degradation | pictures | {' | '.join(metrics)} |", f"|---|---|{'---|' * len(metrics)}"]
    for degradation, group in means.items():
        cells = [_mean([row[metric] for row in group]) for metric in metrics]
        lines.append(f"| {degradation} | {len(group)} | {' | '.join(cells)} |")
    return _table(f"Scores ({folder.name})", facts) + "\n" + "\n".join(lines) + "\n"


def _mean(cells: list[str]) -> str:
    numbers = [float(cell) for cell in cells if cell not in ("", "inf")]
    return f"{sum(numbers) / len(numbers):.4g}" if numbers else "-"


def _table(title: str, facts: dict[str, Any]) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"\n## {title}\n\n| | |\n|---|---|\n{rows}\n"


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
