"""Translate the dataset blocks of BasicSR's and traiNNer's option files into a config of ``--data folder``."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from unildiff.utils.errors import UserError

_SPLITS = ("train", "val", "test")
_SETTINGS = {
    "gt_size": "crop_size",
    "lq_size": "crop_size",
    "use_hflip": "hflip",
    "use_rot": "rotate",
    "batch_size_per_gpu": "batch_size",
    "num_worker_per_gpu": "num_workers",
}
_ROOTS = ("dataroot_lq", "dataroot_gt")


def convert(options: Path) -> dict[str, Any]:
    """Return ``{"class_path": ..., "init_args": ...}`` for the datasets of an option file, or of one dataset block.

    Folders, ``filename_tmpl``, crop size, flips, rotation, batch size and workers are translated. A later block of a split
    (BasicSR numbers its test sets) is refused, and so is what a folder's patterns cannot say: several roots, lists of names
    (``meta_info_file``), LMDB and scales other than 1.

    Raises:
        UserError: the file cannot be read, holds no paired dataset, or needs what is not supported.
    """
    try:
        given = yaml.safe_load(options.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(
            f"cannot read {options}: {' '.join(str(error).split())}; give an option file of BasicSR"
        ) from None
    blocks = given.get("datasets", {"train": given}) if isinstance(given, dict) else {}
    if not isinstance(blocks, dict) or not any(isinstance(b, dict) and set(_ROOTS) & set(b) for b in blocks.values()):
        raise UserError(f"{options} has no dataset with dataroot_lq and dataroot_gt; give an option file of BasicSR")
    places: dict[str, tuple[Path, Path]] = {}
    settings: dict[str, Any] = {}
    templates: set[str] = set()
    for name, block in blocks.items():
        split = str(name).partition("_")[0]
        if not isinstance(block, dict) or split not in _SPLITS:
            raise UserError(f"{options}: dataset {name!r} is not one of train, val and test")
        if split in places:
            raise UserError(f"{options}: several {split} datasets; keep one of them, or convert each by itself")
        places[split] = _roots(options, str(name), block)
        templates.add(str(block.get("filename_tmpl", "{}")))
        if split == "train":
            settings = {ours: block[theirs] for theirs, ours in _SETTINGS.items() if block.get(theirs) is not None}
    if len(templates) > 1:
        raise UserError(f"{options}: its datasets name files in several ways ({', '.join(sorted(templates))})")
    return {
        "class_path": "datamodules.folder.FolderDataModule",
        "init_args": _arguments(places, templates.pop()) | settings,
    }


def _roots(options: Path, name: str, block: Mapping[str, Any]) -> tuple[Path, Path]:
    if block.get("meta_info_file") or block.get("meta_info"):
        raise UserError(
            f"{options}: {name}: meta_info_file is not supported; leave it out to read every pair of the folders"
        )
    if block.get("scale", 1) != 1:
        raise UserError(f"{options}: {name}: scale {block['scale']}; images of a pair must have one size")
    backend = block.get("io_backend")
    roots = [block.get(key) for key in _ROOTS]
    if (isinstance(backend, dict) and backend.get("type") == "lmdb") or any(str(r).endswith(".lmdb") for r in roots):
        raise UserError(f"{options}: {name}: LMDB is not supported; give the folders of the images")
    folders = []
    for key, root in zip(_ROOTS, roots, strict=True):
        if isinstance(root, list) and len(root) == 1:
            (root,) = root
        if not isinstance(root, str):
            raise UserError(f"{options}: {name}: {key} is {root!r}; give one folder")
        folders.append(Path(os.path.normpath(root)))
    return folders[0], folders[1]


def _arguments(places: Mapping[str, tuple[Path, Path]], template: str) -> dict[str, Any]:
    root = Path(os.path.commonpath([folder for pair in places.values() for folder in pair]))
    arguments: dict[str, Any] = {"root": str(root)}
    for split, (lq, gt) in places.items():
        prefix = "" if split == "test" else f"{split}_"
        for kind, folder in (("lq", lq), ("gt", gt)):
            arguments[prefix + kind] = (folder.relative_to(root) / "**" / "*").as_posix()
    return arguments | ({} if template == "{}" else {"rule": f"template:{template}"})
