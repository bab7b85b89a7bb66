"""The README beside an exported model: data, recipe, protocol and scores, taken from the run that made it."""

import json
import math
import warnings
from pathlib import Path
from typing import Any

from unildiff import __version__
from unildiff.metrics.rows import means, read_csv
from unildiff.utils.errors import UserError
from unildiff.utils.files import read_object
from unildiff.weights.checkpoints import StageCheckpoint
from unildiff.weights.load import weights_folder

_HEAD = """---
library_name: diffusers
pipeline_tag: image-to-image
tags: [image-restoration, unildiff]
---

# UniLDiff: all-in-one image restoration

Restores images under unknown degradations (haze, rain, snow, noise, blur, low light, several at once). A
re-implementation of the method of "UniLDiff: Unlocking the Power of Diffusion Priors for All-in-One Image Restoration"
(CVPR 2026, arXiv 2507.23685), written by `unildiff export` {version}.

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("FOLDER_OR_ID", trust_remote_code=True)
pipeline("degraded.png", prompt="what the image shows").images[0].save("restored.png")
```

`pipeline.py` holds all the code; UniLDiff need not be installed.
"""
_LICENCE = """
## Licence

That of the base model, of which these weights are a fine-tuned copy, applies to them as well: see the base's own page.
"""


def card_of_checkpoint(checkpoint: StageCheckpoint) -> str:
    """Return the card of a stage's checkpoint; facts that its run folder does not hold are marked as not known."""
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
        "sampling": _sampling(settings.get("network") or {}),
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
    files = ("run.json", "scores.csv")  # an interrupted test leaves at most one of them
    tests = [folder for folder in sorted(run_folder.glob("test*")) if all((folder / file).is_file() for file in files)]
    parts += [_scores(folder) for folder in tests] or ["\n## Scores\n\nNot tested in its run folder.\n"]
    return "".join(parts) + _LICENCE


def card_of_folder(source: str) -> str:
    """Return the card of a model given as a folder: its own if it has one."""
    folder = weights_folder(source)
    own = None if folder is None else folder / "README.md"
    if own is not None and own.is_file():
        return own.read_text(encoding="utf-8")
    return _HEAD.format(version=__version__) + _table("Recipe", {"copied from": source}) + _LICENCE


def _scores(folder: Path) -> str:
    """Return the section of one test: protocol, data, and means per degradation; none, with a warning, if it is damaged."""
    try:
        about, scores = _json(folder / "run.json"), read_csv(folder / "scores.csv")
    except UserError as error:
        warnings.warn(f"the model card leaves out {folder}: {error}", stacklevel=2)
        return ""
    kind = {"real": ", real data", "sample": ", sample set"}.get(str(about.get("data_kind")), "")
    facts = {
        "protocol": about.get("protocol"),
        "data": f"{about.get('data')} ({len(scores)} images{kind if about.get('published') is not False else ''})",
        "steps, guidance, start": f"{about.get('steps')}, {about.get('guidance_scale')}, {about.get('start')}",
        "seed": about.get("seed"),
    }
    table = means(scores)
    metrics = [name for name in table.columns if name in ("psnr", "ssim", "lpips", "dists")]
    shown = table[metrics].map(lambda value: "-" if math.isnan(value) else f"{value:.4g}")
    shown.insert(0, "images", table["count"].astype(int).astype(str))
    text = shown.rename_axis("degradation").to_markdown(disable_numparse=True)
    return _table(f"Scores ({folder.name})", facts) + f"\n{text}\n"


def _sampling(network: dict[str, Any]) -> str:
    """Return where the steps of the sampler end by default."""
    last = network.get("last_timestep") or 0
    return f"the steps end at t = {last}, then one step to the clean latents" if last else "the steps end at t = 0"


def _table(title: str, facts: dict[str, Any]) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"\n## {title}\n\n| | |\n|---|---|\n{rows}\n"


def _json(path: Path) -> dict[str, Any]:
    return read_object(path, "model card") if path.is_file() else {}
