"""Where images come from beside files and folders: lists of files, and object stores through fsspec."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from unildiff.data.walk import is_image, shown
from unildiff.utils.errors import UserError
from unildiff.utils.files import output_folder, write_failure
from unildiff.utils.parallel import progress

LISTS = (".txt", ".jsonl")
"""Endings of a list of images."""


def local_source(src: str, out: Path) -> Path:
    """Return a path to restore from; what a URL names is copied to a hidden folder beside ``out`` first.

    Copies that are there with the right size are kept, so that an interrupted run resumes. The folder must be on a disk that
    all processes of the run see.

    Args:
        src: a path, or a URL that fsspec reads (``s3://bucket/photos``, ``gs://...``, ``memory://...``).
        out: folder or file of the results.

    Raises:
        UserError: the URL cannot be read or holds no image, or the copies cannot be written.
    """
    if not src:
        raise UserError("restore: the path of the images is empty; give an image, a list of images or a folder")
    if "://" not in src:
        return Path(src)
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(src)
        found = system.find(root, detail=True)
    except (ImportError, OSError, ValueError) as error:
        raise UserError(f"restore: cannot read {src} ({type(error).__name__}: {error}); check the address") from None
    if single := root in found:
        root = str(PurePosixPath(root).parent)
    images = {path: info for path, info in found.items() if is_image(Path(path))}
    if not images:
        raise UserError(f"restore: no images in {src}; give the address of a folder that holds some, or of one image")
    folder = out.absolute().parent / f".{out.name}.inputs" / hashlib.blake2b(src.encode(), digest_size=6).hexdigest()
    for path, info in progress(images.items(), len(images), "Copying"):
        plain = unquote if src.startswith(("http://", "https://")) else str
        name = PurePosixPath(plain(path)).relative_to(plain(root))
        if ".." in name.parts:
            raise UserError(f"restore: {path} in {src} has a name that points outside its folder; rename it")
        target = folder / name
        if not (target.is_file() and target.stat().st_size == info["size"]):
            output_folder(target.parent)
            part = target.with_name(f"{target.name}.part")
            try:
                system.get_file(path, str(part))
                part.replace(target)
            except OSError as error:
                raise write_failure(target, error) from None
    return folder / name if single else folder


def listed_images(file: Path) -> Iterator[tuple[Path, str]]:
    """Yield the images of a list, and the name of each: its path below the list's folder, or its file name.

    A line is a path, or a JSON object with ``file`` (as in captions.jsonl) or ``input`` (as in a manifest). Paths are relative to
    the list's folder. Empty lines are skipped.

    Raises:
        UserError: the list cannot be read, or a line of it.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"restore: cannot read the list {shown(file)} ({error})") from None
    for number, line in enumerate(lines, 1):
        text: object = line.strip()
        if not text:
            continue
        if file.suffix == ".jsonl":
            try:
                entry = json.loads(line)
                text = entry.get("file") or entry["input"]
            except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
                text = None
        if not isinstance(text, str) or not text:
            raise UserError(
                f"restore: line {number} of {shown(file)} names no file; give a path, or an object with file"
            )
        path = Path(text)
        inside = not path.is_absolute() and ".." not in path.parts
        yield file.parent / path, path.as_posix() if inside else path.name
