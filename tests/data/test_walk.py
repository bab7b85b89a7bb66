"""One folder walk for every command: what is restored, what is left alone and what is named."""

import os
from pathlib import Path

import pytest

from datamodules.folder import FolderDataModule
from tests.fake_trees.images import save, scene
from unildiff.data.images import list_images
from unildiff.data.walk import find_images, shown
from unildiff.utils.errors import UserError


def names(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in find_images(root).images]


def test_thumbnails_and_trash_are_not_entered(tmp_path: Path) -> None:
    wanted = ["a.jpg", "deep/b.png", "x@eaDir/c.png"]
    left = ["@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg", ".thumbnails/t.png", ".Trash-1000/files/gone.png", "__MACOSX/x.png"]
    left += ["deep/@eaDir/b.png/T.jpg", "deep/__MACOSX/._b.png", "$RECYCLE.BIN/d.png", ".hidden.png", "#recycle/e.png"]
    for file in wanted + left:
        save(tmp_path / file, scene(1))
    assert names(tmp_path) == wanted
    assert [path.name for path in list_images(tmp_path)] == ["a.jpg"]
    assert names(tmp_path / ".thumbnails") == ["t.png"]  # named by the user


def test_what_cannot_be_decoded_is_named_and_counted(tmp_path: Path) -> None:
    for file in ("a.jpg", "phone.jfif", "phone.jpe", "phone.jp2", "phone.tga"):
        save(tmp_path / file, scene(1))
    for file in ("raw.dng", "deep/IMG_1.CR2", "notes.txt", ".hidden.nef"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"?")
    found = find_images(tmp_path)
    assert [path.name for path in found.images] == ["a.jpg", "phone.jfif", "phone.jp2", "phone.jpe", "phone.tga"]
    assert [path.name for path in found.unreadable] == ["IMG_1.CR2", "raw.dng"]
    assert found.warning.startswith("2 image files of a format that cannot be read here, left out: ")
    data = FolderDataModule(str(tmp_path), num_workers=0)
    assert len(data.predict_set()) == 5 and data.skipped == [found.warning]
    assert find_images(tmp_path / "deep", recursive=False).warning.startswith("1 image file of")
    with pytest.raises(UserError, match=r"no images in .*deep; 1 image file of a format .*IMG_1\.CR2"):
        FolderDataModule(str(tmp_path / "deep")).predict_set()


def test_a_real_folder_wins_over_links_to_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    save(root / "zoo/a.png", scene(1))
    save(tmp_path / "outside/b.png", scene(2))
    for link, target in (("album", root / "zoo"), ("again", tmp_path / "outside"), ("round", root)):
        (root / link).symlink_to(target)
    (root / "zoo/outside").symlink_to(tmp_path / "outside")
    assert names(root) == ["again/b.png", "zoo/a.png"]


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    save(path, scene(1))
    assert find_images(tmp_path).images == [path]
    assert shown(path) == f"{tmp_path}/caf\\xe9.png"
    data = FolderDataModule(str(tmp_path), num_workers=0)
    data.setup("predict")
    assert len(data.fingerprint()) == 16
    assert [os.fsencode(batch["name"][0]) for batch in data.predict_dataloader()] == [b"caf\xe9.png"]
