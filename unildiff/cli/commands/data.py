"""``unildiff data``: list, lay out, check, pack, make, caption and fetch datasets. Thin: the work is in unildiff/data."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unildiff.utils.errors import UserError
from unildiff.utils.validation import PositiveInt, Seed

if TYPE_CHECKING:
    from unildiff.data.layouts import ImageSet
    from unildiff.data.pair import Split
    from unildiff.data.tools.check import Report

    Half = tuple[str | None, str | None]


def list_() -> None:
    """List the datasets: tasks, expected counts with their source, where each comes from, licence.

    A dataset is what `--data NAME` reads; it consists of one or more named sets.
    """
    from unildiff.data.catalogue import DATASETS
    from unildiff.utils import datamodules

    sets: dict[str, ImageSet] = {}
    print("datasets (--data NAME):")
    for name, data in DATASETS.items():
        further = f"; its test can be extended by {', '.join(s.name for s in data.optional)}" if data.optional else ""
        print(f"  {name:11} {data.title}: {', '.join(images.name for images in data.sets)}{further}")
        sets |= {images.name: images for images in data.all_sets}
    for name in datamodules.names():
        if name not in DATASETS:  # one that reads nothing of the catalogue: the first line of its file
            text = (datamodules.FOLDER / f"{name}.py").read_text(encoding="utf-8").partition("\n")[0]
            print(f"  {name:11} {text.strip(chr(34))}")
    print("\nsets, with the number of images that each should have:")
    for name, images in sets.items():
        counts = ", ".join(f"{split} {count:,}" for split, count in images.expected.items())
        print(f"  {name:11} {images.title}: {counts} ({images.expected_source})")
        print(f"  {'':11} from: {images.home}; licence: {images.licence}")
    print(
        "\n`unildiff data layout NAME` shows the trees that are accepted, `unildiff data download NAME` fetches some."
    )


def layout(name: str) -> None:
    """Show the supported folder trees of a dataset or a set.

    Args:
        name: a dataset or one of its sets, see `unildiff data list`.
    """
    from unildiff.data.catalogue import image_sets
    from unildiff.data.layouts import describe

    for images in image_sets(name):
        print(f"{images.title} ({images.name}); layout, split, degraded + ground-truth images, how names pair:")
        for line in describe(images):
            print(f"  {line}")
        for project, prefixes in {folders.layout: folders.prefixes[1:] for folders in images.folders}.items():
            if prefixes:
                print(f"  {project}: the root may also be the folder above {' or '.join(prefixes)}")
    print("\nThe layout is recognised automatically. Folders without degraded images get noise as they are read.")


def check(
    name: str,
    root: Path | None = None,
    json: Path | None = None,
    lq: str | None = None,
    gt: str | None = None,
    train_lq: str | None = None,
    train_gt: str | None = None,
    val_lq: str | None = None,
    val_gt: str | None = None,
    rule: str = "same",
) -> int:
    """Look for everything that is wrong with a dataset on disk; exit code 0 without findings, 1 with findings.

    Counts against the published ones, layout, files without a partner, repeated names, unreadable files, unequal sizes,
    images of one colour, and images that are in training and in test. Files that have not changed since the last check
    are not read again.

    Args:
        name: a dataset or one of its sets, see `unildiff data list`, or folder: your own images.
        root: its folder; by default data/NAME.
        json: write the report to this file, too.
        lq: of folder: pattern of the degraded test images, relative to root; by default those in test/lq, or lq.
        gt: of folder: pattern of their ground truth; by default test/gt, or gt.
        train_lq: of folder: pattern of the degraded training images; by default those in train/lq.
        train_gt: of folder: pattern of their ground truth; by default train/gt.
        val_lq: of folder: pattern of the degraded validation images; by default those in val/lq.
        val_gt: of folder: pattern of their ground truth; by default val/gt.
        rule: of folder: how names pair, see `unildiff test --data folder --help`.
    """
    from unildiff.data.tools.check import check as examine
    from unildiff.data.tools.check import check_folder
    from unildiff.utils.files import output_file

    if json is not None:
        output_file(json)  # not after an hour of looking at images
    patterns = _patterns(name, (train_lq, train_gt), (val_lq, val_gt), (lq, gt), rule)
    root = root or Path("data") / name
    return _tell(check_folder(root, patterns, rule) if name == "folder" else examine(name, root), json)


def pack(
    name: str,
    root: Path | None = None,
    out: Path | None = None,
    lq: str | None = None,
    gt: str | None = None,
    train_lq: str | None = None,
    train_gt: str | None = None,
    val_lq: str | None = None,
    val_gt: str | None = None,
    rule: str = "same",
) -> None:
    """Decode a dataset once, into a folder that datamodules read many times faster (`--data.packed OUT`).

    Repeat an interrupted run to resume it. On a finished pack the command compares all checksums.

    Args:
        name: a dataset, see `unildiff data list`, or folder: your own images, found by the patterns below.
        root: its folder; by default data/NAME.
        out: folder to write; by default that of the dataset with -packed at its end.
        lq: of folder: pattern of the degraded test images, relative to root; by default those in test/lq, or lq.
        gt: of folder: pattern of their ground truth; by default test/gt, or gt.
        train_lq: of folder: pattern of the degraded training images; by default those in train/lq.
        train_gt: of folder: pattern of their ground truth; by default train/gt.
        val_lq: of folder: pattern of the degraded validation images; by default those in val/lq.
        val_gt: of folder: pattern of their ground truth; by default val/gt.
        rule: of folder: how names pair, see `unildiff test --data folder --help`.
    """
    from unildiff.data.tools.pack_writer import pack_folder, pack_set
    from unildiff.utils.parallel import available_memory

    root = root or Path("data") / name
    out = out or Path(f"{root.resolve() if not root.name.strip('.') else root}-packed")
    patterns = _patterns(name, (train_lq, train_gt), (val_lq, val_gt), (lq, gt), rule)
    packed = pack_folder(root, out, patterns, rule) if name == "folder" else pack_set(name, root, out)
    pairs = ", ".join(f"{split} {len(packed.source(split)):,} pairs" for split in packed.splits)
    print(f"{name} in {out}: {pairs}; {len(packed.files):,} images, {packed.bytes / 1e9:.2f} GB, checksums right")
    if packed.bytes > (free := available_memory()):
        print(
            f"That is more than the {free / 1e9:.1f} GB of free memory: reads will wait for the disk (docs/guides/datasets.md)."
        )
    print(f"Read it with: --data {name} --data.packed {out}")


def synthesize(
    name: Literal["cdd11"],
    *,
    clean: Path,
    out: Path,
    seed: Seed = 0,
    split: Literal["train", "test"] = "train",
    depth: Path | None = None,
    light: Path | None = None,
    rain: Path | None = None,
    snow: Path | None = None,
    luma: Literal["onerestore", "true"] = "onerestore",
    processes: PositiveInt | None = None,
) -> None:
    """Make a set in CDD-11's layout from any clean images: eleven degradations of each.

    What an image gets depends on the seed, its name and the degradation alone. Repeat an interrupted run to resume it.

    Args:
        name: cdd11.
        clean: folder of clean images.
        out: folder of the set, read with --data cdd11 --data.root OUT.
        seed: of everything random.
        split: the folder below OUT.
        depth: folder of depth maps, near = bright, named as the images; estimated without it.
        light: folder of illumination maps, named as the images; estimated without it.
        rain: folder of streak masks to draw from; generated without it.
        snow: folder of flake masks to draw from; generated without it.
        luma: weights of grey in low light: those of OneRestore's script, which reads BGR as RGB, or true luma.
        processes: by default one a processor.
    """
    from unildiff.data.tools.synthesize import synthesize as make
    from unildiff.data.tools.synthesize_inputs import Sources

    count = make(clean, out, seed, split, Sources(depth, light, rain, snow), processes, luma)
    print(f"{count:,} scenes under 11 degradations in {out / split}; read them with: --data cdd11 --data.root {out}")


def caption(
    *,
    root: Path,
    model: str,
    source: Literal["clean", "degraded"] = "clean",
    name: str | None = None,
    max_new_tokens: PositiveInt = 40,
) -> None:
    """Describe images by an image-to-text model: captions.jsonl beside the data, which every datamodule reads.

    Existing captions are kept; repeat an interrupted run to resume it. At the end captions are listed that name a
    degradation, or may name one.

    Args:
        root: folder of a dataset, or of images.
        model: id on the Hugging Face hub, or folder, of an image-to-text model of transformers.
        source: whether to describe the clean or the degraded image of a pair; written into each line.
        name: the dataset, where its layout is not recognised automatically.
        max_new_tokens: most tokens of a caption.
    """
    from unildiff.data.captions import FILE_NAME, entries
    from unildiff.data.tools.captioner import caption_folder, leaks

    made, had = caption_folder(root, model, source, name, max_new_tokens)
    print(f"{made:,} {source} images captioned by {model}, {had:,} had a caption already: {root / FILE_NAME}")
    named = [(entry, words) for entry in entries(root / FILE_NAME) if (words := leaks(entry["caption"]))]
    if named:
        print(
            f"{len(named):,} captions name a degradation, or may name one; check them, a model should not get it from the text:"
        )
        for entry, words in named:
            print(f"  {entry['file']}: {', '.join(words)}: {entry['caption']}")


def download(name: str, root: Path | None = None, only: str = "") -> int:
    """Fetch a set from its Hugging Face repository, or say where it was last seen; then check it.

    Only some sets have a lasting home. Repeat an interrupted download to resume it. HF_ENDPOINT names a mirror.

    Args:
        name: cdd11, cbsd68 or urban100; for any other set of `unildiff data list` it prints where to look.
        root: folder to write; by default data/NAME.
        only: fetch only the archives whose names contain this, e.g. test.
    """
    from unildiff.data.catalogue import image_sets
    from unildiff.data.tools.check import check as examine
    from unildiff.data.tools.download import HOMES, elsewhere
    from unildiff.data.tools.download import download as fetch

    if name not in HOMES:
        print(elsewhere(image_sets(name)))
        raise UserError(f"{name} has no lasting home to download it from; see above; there are {', '.join(HOMES)}")
    root = root or Path("data") / name
    fetch(name, root, only)
    return _tell(examine(HOMES[name].check, root), None)


def sample(name: str, root: Path | None = None) -> None:
    """Write five photographs in a dataset's layout, to try every command without a download.

    Args:
        name: a dataset, see `unildiff data list`.
        root: folder to write; by default data/NAME. A folder that holds anything else is left alone.
    """
    from unildiff.data.tools.samples import write_sample

    root = root or Path("data") / name
    count = write_sample(name, root)
    print(f"{count} images in {root}; what they are: {root / 'README.md'}")


def _patterns(name: str, train: "Half", val: "Half", test: "Half", rule: str) -> "dict[Split, Half]":
    """Return the patterns of each split; of a dataset that has its own layout they are refused."""
    if name != "folder" and (any((*train, *val, *test)) or rule != "same"):
        raise UserError(
            f"patterns and rule are for folder; {name} has its own layout, see `unildiff data layout {name}`"
        )
    return {"train": train, "val": val, "test": test}


def photographs(root: Path = Path("data/photographs"), package: Path | None = None) -> None:
    """Download the public-domain photographs that the shipped model was trained on: 134 for training, 28 for validation.

    They come from a Debian package (70 MB), from the archive that apt uses or a public one, and are checked by their
    SHA-256. An interrupted download is continued.

    Args:
        root: folder to write; read it with --data photographs --data.root ROOT/train --data.val_root ROOT/validation.
        package: the Debian package file, if it is already on this machine.
    """
    from unildiff.data.tools.photographs import fetch

    count = fetch(root, package)
    print(f"{count} photographs written to {root}" if count else f"all photographs are already in {root}")


def _tell(report: "Report", json: Path | None) -> int:
    """Print a report, write it to a file if one is given, and return the exit code."""
    from json import dumps

    from unildiff.utils.files import write_whole

    print(f"{report.name} in {report.root}: {report.images:,} images, {report.looked_at:,} read")
    for part in report.parts:
        counts = ", ".join(f"{degradation} {count:,}" for degradation, count in part.counts.items()) or "no pairs"
        print(f"  {part.where}: layout {part.layout}; {counts}")
    for absent in report.absent:
        print(f"  {absent}: missing")
    for found in report.findings:
        print(f"FOUND {found.kind}: {found.where}: {found.text}")
        for file in found.files[:20]:
            print(f"    {file}")
        if len(found.files) > 20:
            print(f"    and {len(found.files) - 20:,} more" + ("" if json else "; --json lists all"))
    count = len(report.findings)
    print("no findings" if not count else f"{count} finding{'s' if count > 1 else ''}")
    if json is not None:
        write_whole(json, dumps(report.as_dict(), indent=1).encode() + b"\n")
    return 1 if report.findings else 0


def convert(options: Path) -> None:
    """Print the datasets of an option file of BasicSR or traiNNer as a config of `--data folder`.

    Args:
        options: the file; `unildiff data convert OPTIONS.yml > mine.yaml`, then `--data mine.yaml`.
    """
    import yaml

    from unildiff.data.tools.convert import convert as translate

    config = yaml.safe_dump(translate(options), sort_keys=False, allow_unicode=True)
    print(f"# converted from {options}; use it with --data\n{config}", end="")
