"""Score bundles: a zip with scores, protocol, versions and file hashes, so that others can verify a result."""

import atexit
import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from unildiff.metrics.protocols import Protocol
from unildiff.utils.errors import UserError
from unildiff.utils.files import parse_json, writing

FORMAT = 1
_MANIFEST = "bundle.json"
_MAX_TEXT = 1 << 26  # of one text file
_MAX_UNPACKED = 64 * 2**30  # bytes; CDD-11's 2,200 restored images take about 3 GiB
_DATE = (1980, 1, 1, 0, 0, 0)  # the same content gives the same bytes


class ScoredFile(NamedTuple):
    """A file behind a score: its kind (`restored`, `gt` or `input`), its name below that folder, its path."""

    kind: str
    name: str
    path: Path


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bundle(
    out: Path, texts: Mapping[str, str], protocol: Protocol, files: Sequence[ScoredFile], images: bool = False
) -> None:
    """Write a bundle.

    Args:
        out: The zip.
        texts: Content of `scores.csv` and `run.json`, by name.
        protocol: The protocol of the scores; every choice of it is recorded.
        files: All files behind the scores; their hashes are recorded.
        images: Also pack the restored images themselves.

    Raises:
        UserError: The bundle cannot be written.
    """
    if out.exists() and not out.is_file():
        raise UserError(f"--bundle {out} is not a regular file; give the name of a zip file")
    packed = [file for file in files if file.kind == "restored"] if images else []
    about = json.loads(texts["run.json"])
    manifest = {
        "format": FORMAT,
        "protocol": asdict(protocol),
        **{key: about[key] for key in ("label", "versions", "metric_settings", "command")},
        "contents": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()},
        "images": bool(packed),
        "files": [{"kind": file.kind, "name": file.name, "sha256": sha256(file.path)} for file in files],
    }
    with writing(out) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in {_MANIFEST: json.dumps(manifest, indent=1) + "\n", **texts}.items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), text, zipfile.ZIP_DEFLATED)
        for file in packed:
            info = zipfile.ZipInfo(f"restored/{file.name}", _DATE)
            with file.path.open("rb") as source, archive.open(info, "w") as entry:  # stored: PNGs are deflated
                shutil.copyfileobj(source, entry)


def opened_bundle(path: Path) -> tuple[Path, dict[str, Any]]:
    """Unpack a bundle into a temporary folder, which is removed when the process ends, and return it and the manifest.

    Raises:
        UserError: The file is not a bundle, an entry does not have the recorded hash, or a name points outside the folder.
    """
    folder = Path(tempfile.mkdtemp(prefix="unildiff-bundle-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > _MAX_UNPACKED:
                raise UserError(f"not a score bundle: {path} unpacks to more than {_MAX_UNPACKED >> 30} GiB")
            if archive.getinfo(_MANIFEST).file_size > _MAX_TEXT:
                raise UserError(f"not a score bundle: {path}: {_MANIFEST} unpacks to more than {_MAX_TEXT >> 20} MiB")
            manifest = dict(parse_json(archive.read(_MANIFEST)))
            if manifest["format"] != FORMAT:
                raise UserError(
                    f"score bundle of format {manifest['format']}: {path}; this version reads format {FORMAT}"
                )
            hashes = {str(name): digest for name, digest in manifest["contents"].items()}
            if large := [name for name in hashes if archive.getinfo(name).file_size > _MAX_TEXT]:
                raise UserError(f"not a score bundle: {path}: {large[0]} unpacks to more than {_MAX_TEXT >> 20} MiB")
            if manifest["images"]:
                restored = [file for file in manifest["files"] if file["kind"] == "restored"]
                hashes |= {f"restored/{file['name']}": file["sha256"] for file in restored}
            for name, digest in hashes.items():
                parts = PurePosixPath(name)
                if parts.is_absolute() or ".." in parts.parts or "\\" in name:
                    raise UserError(
                        f"not a score bundle: {path} has the name {name!r}, which points outside its folder"
                    )
                target = folder.joinpath(*parts.parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as source, target.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
                if sha256(target) != digest:
                    raise UserError(f"score bundle was changed: {path}, {name} does not have the recorded hash")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile) as error:
        raise UserError(
            f"not a score bundle: {path} ({type(error).__name__}: {error}); give one that `unildiff score --bundle` wrote"
        ) from None
    except (EOFError, NotImplementedError, RuntimeError, zipfile.zlib.error) as error:  # type: ignore[attr-defined]
        raise UserError(f"damaged score bundle: {path} ({error}); get it again") from None
    return folder, manifest
