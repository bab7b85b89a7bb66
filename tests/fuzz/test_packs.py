"""Damaged packs are refused in one line; LMDB itself would end the process at a damaged page."""

import os
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unildiff.data.pack import Pack, index_bytes, read_index
from unildiff.data.tools.pack_writer import pack_folder
from unildiff.utils.errors import UserError
from unildiff.utils.store import Store

PAGE = 4096


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for half in ("lq", "gt"):
        (tmp_path / "set" / half).mkdir(parents=True)
        for number in range(20):
            image = rng.integers(0, 256, (12 + number, 20, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / "set" / half / f"{number}.png")
    pack_folder(tmp_path / "set", tmp_path / "pack", {"test": ("lq/*", "gt/*")})
    return tmp_path / "pack"


def outcome(folder: Path, root: Path) -> int:
    """Read every image in a child process, then pack again; 0: all is well, 2: refused in one line, else a fault."""
    if (child := os.fork()) == 0:
        code = 50
        try:
            signal.alarm(20)
            pack = Pack(folder)
            source = pack.source("test")
            for index in range(len(source)):
                source.read(index, "lq"), source.read(index, "gt")
            pack_folder(root, folder, {"test": ("lq/*", "gt/*")})
            code = 0
        except UserError as error:
            code = 2 if "\n" not in str(error) else 51
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_damaged_pages(folder: Path) -> None:
    database, root = folder / "data.mdb", folder.parent / "set"
    whole = database.read_bytes()
    assert outcome(folder, root) == 0
    rng, found = np.random.default_rng(5), Counter[int]()
    inner = [n for n in range(len(whole) // PAGE) if n < 2 or whole[n * PAGE + 10] & 3]  # metas, branches and leaves
    for number in range(90):
        data = bytearray(whole)
        page = int(rng.choice(inner)) if number % 3 else int(rng.integers(len(whole) // PAGE))
        place = page * PAGE + int(rng.integers(PAGE if number % 4 == 0 else 200))
        match number % 5:
            case 0:
                data[place] ^= 1 << int(rng.integers(8))
            case 1:
                data[place : place + 8] = rng.bytes(8)[: len(data) - place]
            case 2:
                data[place : place + 2] = b"\xff\xff"
            case 3:
                data[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
            case 4:
                data = data[: int(rng.integers(len(data)))]
        database.write_bytes(data[: len(whole)])
        (folder / "lock.mdb").unlink(missing_ok=True)
        found[outcome(folder, root)] += 1
    assert set(found) == {0, 2}, found
    assert found[2] > 25


@pytest.mark.parametrize("place", [44, 92], ids=["free pages", "values"])
def test_flags_of_a_database_that_end_lmdb_with_an_assertion(place: int, folder: Path) -> None:
    """They lie at 44 and 92 of both first pages, after size and padding of each tree; 4 announces duplicate keys."""
    data = bytearray((folder / "data.mdb").read_bytes())
    for page in (0, PAGE):
        data[page + place] |= 4
    (folder / "data.mdb").write_bytes(data)
    assert outcome(folder, folder.parent / "set") == 2


def test_damaged_entries_and_incomplete_indexes_are_one_line(folder: Path) -> None:
    """Values that are well stored and yet wrong, as another program might write them."""
    pack = Pack(folder)
    file = pack.files[0]
    with Store(folder) as opened:
        entry = bytes(opened.get(f"entry/{file}") or b"")
        index = read_index(opened)
    for value in (b"[1, 2", b"{}", b"[]", b"\xff", b'[1, 2, 3, 4, "no"]'):
        with Store(folder, write=True) as opened:
            opened.add({f"entry/{file}": value})
        with pytest.raises(UserError, match=rf"broken pack: {file} in .* is missing or damaged; run the same"):
            Pack(folder).image(0)
    with pytest.raises(UserError, match=f"another state of the data .*changed: {file}"):
        pack_folder(folder.parent / "set", folder, {"test": ("lq/*", "gt/*")})
    with Store(folder, write=True) as opened:
        opened.add({f"entry/{file}": entry})
    assert index is not None and Pack(folder).image(0).any()
    row = [*index["pairs"]["test"][0]]
    wrong = [{"pairs": []}, {"files": None}, {"bytes": "many"}, {"files": [1]}, {"pairs": {"test": [row[:-1]]}}]
    wrong += [{"pairs": {"test": [[*row[:3], number, 0, ""]]}} for number in (-2, len(pack.files), None, 1.0)]
    for part in [*wrong, {"sample": 3}]:
        with Store(folder, write=True) as opened:
            opened.add({"index": index_bytes(index | part)})
        with pytest.raises(UserError, match=r"broken pack: the index of .*pack lacks a part; delete it and run"):
            Pack(folder)
