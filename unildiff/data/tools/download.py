"""Fetching sets whose home is a stable Hugging Face repository; for the others, where they were last seen.

Repositories and files as named by public code that reads them (2026-11); nothing here was checked against the hub
when it was written. ``HF_ENDPOINT`` names another hub, such as a mirror.
"""

import contextlib
import datetime
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from unildiff.data.layouts import ImageSet, describe
from unildiff.data.tools.extract import extract
from unildiff.utils.errors import UserError
from unildiff.utils.files import output_folder, read_object, write_failure, write_whole
from unildiff.utils.locks import one_writer
from unildiff.utils.store import check_space, size_text

RECORD = "download.json"
_WORK = ".download"


@dataclass(frozen=True)
class Home:
    """Where a set lives.

    Attributes:
        repo: dataset repository on the hub.
        files: patterns of its archives.
        place: folder below the root that all images go to; None keeps the archive's own folders.
        check: the name that ``unildiff data check`` knows it by.
    """

    repo: str
    files: tuple[str, ...]
    place: str | None
    check: str


HOMES = {
    # last seen: CDD-11_train.zip 22.4 GB and CDD-11_test.zip 3.77 GB; in an earlier listing train.zip and test.zip
    "cdd11": Home("gy65896/CDD-11", ("*.zip",), None, "cdd11"),
    "cbsd68": Home("deepinv/CBSD68", ("*.tar.gz", "*.zip"), "test/denoise/bsd68", "noise"),
    "urban100": Home("eugenesiow/Urban100", ("data/*_HR.tar.gz",), "test/denoise/urban100", "urban100"),
}


def download(name: str, root: Path, only: str = "", say: Callable[[str], object] = print) -> list[str]:
    """Download and unpack a set of ``HOMES``, or what is missing of it; return the archives that were fetched now.

    ``only`` takes the archives whose names contain it, e.g. "test". ``say`` receives the size before anything is fetched.

    Raises:
        UserError: no network, a repository that has changed, a damaged archive, no space or permission.
    """
    home = HOMES[name]
    output_folder(root)
    revision, remote = _listing(home, root, only)
    record = root / RECORD
    done = read_object(record, "downloads") if record.is_file() else {}
    current = {name for name, entry in done.items() if isinstance(entry, dict) and entry.get("revision") == revision}
    missing = [file for file in remote if file.rfilename not in current]
    total = sum(file.size for file in missing)
    sizes = ", ".join(f"{file.rfilename} {size_text(file.size)}" for file in missing) or "nothing is missing"
    say(f"{home.repo}: {sizes}; {size_text(total)} to download to {root}")
    # what is unpacked takes about as much again, one archive at a time
    check_space(root, total + max((file.size for file in missing), default=0), "the archives and their images")
    for file in missing:
        archive = _fetch(home, revision, file, root / _WORK)
        count = extract(archive, root, home.place)
        os.sync()  # the images are on the disk before the record lists them
        archive.unlink()
        done[file.rfilename] = {
            "repository": home.repo,
            "revision": revision,
            "bytes": file.size,
            "sha256": file.lfs.sha256 if file.lfs else None,
            "files": count,
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        }
        write_whole(record, json.dumps(done, indent=1).encode() + b"\n")
    shutil.rmtree(root / _WORK, ignore_errors=True)
    return [file.rfilename for file in missing]


def _listing(home: Home, root: Path, only: str) -> tuple[str, list[Any]]:
    """Return the revision of a repository and what the hub knows of its archives."""
    import huggingface_hub

    hub = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    with _network(home, root):
        info: Any = hub.repo_info(home.repo, repo_type="dataset", files_metadata=True, timeout=30)
    files = [file for file in info.siblings if any(fnmatch(file.rfilename, pattern) for pattern in home.files)]
    chosen = [file for file in files if only in file.rfilename]
    if not chosen:
        there = ", ".join(file.rfilename for file in files or info.siblings[:8]) or "nothing"
        raise UserError(f"no archive{f' named {only}' if only else ''} in {home.repo}; it has {there}")
    return info.sha, chosen


def _fetch(home: Home, revision: str, file: Any, folder: Path) -> Path:
    """Return the archive, its download resumed and its checksum compared.

    ``hf_hub_download`` starts again after an interruption (huggingface_hub 2), which is too expensive for 22 GB, so this
    uses the functions that it is made of.
    """
    import huggingface_hub
    from huggingface_hub.file_download import http_get

    utils: Any = huggingface_hub.utils  # exported, but not for mypy
    name: str = file.rfilename
    endpoint = os.environ.get("HF_ENDPOINT")
    url = huggingface_hub.hf_hub_url(home.repo, name, repo_type="dataset", revision=revision, endpoint=endpoint)
    path = output_folder(folder) / name.replace("/", "_")
    partial = path.with_name(f"{path.name}.{revision}.part")
    with one_writer(folder, ".lock", f"downloading to {folder}"):
        if not path.exists():
            with _network(home, partial), open(partial, "ab") as data:
                http_get(url, data, resume_size=data.tell(), headers=utils.build_hf_headers(), expected_size=file.size)
            partial.rename(path)
        with open(path, "rb") as data:
            wrong = file.lfs and hashlib.file_digest(data, "sha256").hexdigest() != file.lfs.sha256
        if wrong or path.stat().st_size != file.size:
            path.unlink()
            raise UserError(f"damaged download: {name} of {home.repo} differs from the hub's checksum; run it again")
    return path


@contextlib.contextmanager
def _network(home: Home, writes: Path) -> Iterator[None]:
    """Turn what goes wrong between this machine and the hub into one line."""
    from huggingface_hub import errors

    try:
        yield
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        raise UserError(f"{home.repo} does not exist any more, or needs a login: {_line(error)}") from None
    except (OSError, errors.XetDownloadError, vars(errors)["HTTPError"]) as error:
        if isinstance(error, OSError) and (error.filename or error.errno):  # noqa: SIM102
            if not isinstance(error, ConnectionError | TimeoutError):  # a file here, not the network
                raise write_failure(Path(error.filename or writes), error) from None
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        raise UserError(
            f"cannot reach {home.repo} at {endpoint}: {_line(error)}; check the network and run it again, what was fetched "
            "is kept"
        ) from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def elsewhere(sets: Sequence[ImageSet]) -> str:
    """Return, for sets without a stable home, where each was last seen and the trees to put it in."""
    lines = []
    for images in sets:
        lines.append(f"{images.title} ({images.name}): {images.home or 'no public home known'}")
        own = next((name for name, home in HOMES.items() if home.check == images.name), None)
        lines += [f"  its test images: `unildiff data download {own}`"] if own is not None else []
        lines += [f"  {line}" for line in describe(images)]
    return "\n".join(lines)
