"""Translate the dataset blocks of BasicSR's and traiNNer's option files into a config of ``--data folder``."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from unildiff.data.lmdb_folders import SUFFIX
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

    Folders, lists of them and LMDB folders, ``filename_tmpl``, ``meta_info_file``, crop size, flips, rotation, batch size and
    workers are translated. A second block of a split (BasicSR numbers its test sets) and scales other than 1 are refused.

    Raises:
        UserError: the file cannot be read, holds no paired dataset, or needs what is not supported.
    """
    try:
        given = yaml.safe_load(options.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(
            f"cannot read {options}: {' '.join(str(error).split())}; give an option file of BasicSR"
        ) from None
    if not has_dataset_blocks(given):
        raise UserError(f"{options} has no dataset with dataroot_lq and dataroot_gt; give an option file of BasicSR")
    blocks = given.get("datasets", {"train": given})
    places: dict[str, list[list[Path]]] = {}
    lists: dict[str, str] = {}
    settings: dict[str, Any] = {}
    templates: set[str] = set()
    for name, block in blocks.items():
        split = str(name).partition("_")[0]
        if not isinstance(block, dict) or split not in _SPLITS:
            raise UserError(f"{options}: dataset {name!r} is not one of train, val and test")
        if split in places:
            raise UserError(f"{options}: several {split} datasets; keep one of them, or convert each by itself")
        places[split] = _roots(options, str(name), block)
        if listed := block.get("meta_info_file") or block.get("meta_info"):
            lists[split] = str(listed)
        templates.add(str(block.get("filename_tmpl", "{}")))
        if split == "train":
            settings = {ours: block[theirs] for theirs, ours in _SETTINGS.items() if block.get(theirs) is not None}
    if len(templates) > 1:
        raise UserError(f"{options}: its datasets name files in several ways ({', '.join(sorted(templates))})")
    return {
        "class_path": "datamodules.folder.FolderDataModule",
        "init_args": _arguments(options, places, templates.pop()) | ({"meta_info": lists} if lists else {}) | settings,
    }


def has_dataset_blocks(content: Any) -> bool:
    """Return whether the content of a file is one of BasicSR's dataset blocks or holds some."""
    blocks = content.get("datasets", {"train": content}) if isinstance(content, dict) else {}
    return isinstance(blocks, dict) and any(isinstance(b, dict) and set(_ROOTS) & set(b) for b in blocks.values())


def _roots(options: Path, name: str, block: Mapping[str, Any]) -> list[list[Path]]:
    """Return the folders of the degraded images and of the ground truth."""
    if block.get("scale", 1) != 1:
        raise UserError(f"{options}: {name}: scale {block['scale']}; images of a pair must have one size")
    folders = []
    for key in _ROOTS:
        given = block.get(key)
        roots = [root for root in (given if isinstance(given, list) else [given]) if isinstance(root, str)]
        if not roots or (isinstance(given, list) and len(roots) < len(given)):
            raise UserError(f"{options}: {name}: {key} is {given!r}; give a folder or a list of folders")
        folders.append([Path(os.path.normpath(root)) for root in roots])
    if len(folders[0]) != len(folders[1]):
        raise UserError(
            f"{options}: {name}: {len(folders[0])} dataroot_lq, {len(folders[1])} dataroot_gt; give equally many"
        )
    return folders


def _arguments(options: Path, places: Mapping[str, list[list[Path]]], template: str) -> dict[str, Any]:
    try:
        root = Path(os.path.commonpath([folder for halves in places.values() for half in halves for folder in half]))
    except ValueError:
        raise UserError(f"{options}: give all folders by absolute or all by relative paths") from None
    arguments: dict[str, Any] = {"root": str(root)}
    for split, halves in places.items():
        prefix = "" if split == "test" else f"{split}_"
        for kind, folders in zip(("lq", "gt"), halves, strict=True):
            found = [folder.relative_to(root) for folder in folders]
            patterns = [(each if each.suffix == SUFFIX else each / "**" / "*").as_posix() for each in found]
            arguments[prefix + kind] = patterns[0] if len(patterns) == 1 else patterns
    return arguments | ({} if template == "{}" else {"rule": f"template:{template}"})
