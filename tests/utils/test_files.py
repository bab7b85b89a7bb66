"""Files written atomically, through links and into devices, and the names of outputs."""

import os
import pty
import stat
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest

from unildiff.utils.errors import UserError
from unildiff.utils.files import (
    output_file,
    png_names,
    read_json,
    remove_abandoned,
    write_whole,
    writing,
)
from unildiff.utils.locks import replacing_folder


def test_pngs_of_images_never_share_a_name() -> None:
    names = ["a.jpg", "b.tif", "deep/a.jpg", "a.png", "c.d.jpg"]
    assert png_names(names) == ["a.jpg.png", "b.png", "deep/a.png", "a.png.png", "c.d.png"]
    assert png_names(["a.png", "a.png.png"]) == ["a.png", "a.png.png"]
    for order in permutations(["a.jpg", "a.png", "a.png.png", "a.png.png.jpg"]):
        assert len(set(png_names(order))) == 4  # a.png.png is also what a.png becomes beside a.jpg


def test_a_file_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "a.txt"
    write_whole(target, b"one")
    target.chmod(0o640)
    with pytest.raises(RuntimeError, match="half way"), writing(target) as file:
        file.write(b"tw")
        raise RuntimeError("half way")
    assert target.read_bytes() == b"one" and [each.name for each in target.parent.iterdir()] == ["a.txt"]
    write_whole(target, b"two")
    assert target.read_bytes() == b"two" and stat.S_IMODE(target.stat().st_mode) == 0o640
    long = tmp_path / f"{'x' * 240}.png"
    write_whole(long, b"three")
    assert long.read_bytes() == b"three"


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link, dangling = tmp_path / "elsewhere" / "a", tmp_path / "link", tmp_path / "dangling"
    target.write_bytes(b"old")
    link.symlink_to(target)
    dangling.symlink_to("elsewhere/b")
    write_whole(link, b"new")
    write_whole(dangling, b"made")
    assert link.is_symlink() and target.read_bytes() == b"new"
    assert dangling.is_symlink() and (tmp_path / "elsewhere" / "b").read_bytes() == b"made"
    assert sorted(each.name for each in (tmp_path / "elsewhere").iterdir()) == ["a", "b"]


def test_pipes_and_devices_are_written_to_and_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert output_file(pipe) == pipe
    write_whole(pipe, b"through")
    assert os.read(reader, 100) == b"through" and stat.S_ISFIFO(pipe.stat().st_mode)
    os.close(reader)
    master, slave = pty.openpty()
    link = tmp_path / "terminal"
    link.symlink_to(os.ttyname(slave))
    write_whole(link, b"shown")
    assert os.read(master, 100) == b"shown" and stat.S_ISCHR(link.stat().st_mode)
    os.close(master)
    os.close(slave)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_full_device_is_one_line_and_stays_a_device(tmp_path: Path) -> None:
    full = tmp_path / "full"
    try:
        os.mknod(full, 0o666 | stat.S_IFCHR, os.makedev(1, 7))  # the device number of /dev/full
    except PermissionError:
        pytest.skip("no devices in this container")
    try:
        write_whole(full, b"x" * 100_000)
        pytest.fail("nothing was raised")
    except UserError as error:
        assert "disk full" in str(error) or "no permission" in str(error)  # the latter where tmp is mounted nodev
    assert stat.S_ISCHR(full.stat().st_mode)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_is_written_to_in_order(name: str, tmp_path: Path) -> None:
    code = f"import sys; from unildiff.utils.files import write_whole; from pathlib import Path; print('one'); write_whole(Path({name!r}), b'two\\n'); print('three')"
    out = tmp_path / "out.txt"
    out.write_text("zero\n")
    with out.open("a") as appended:
        subprocess.run([sys.executable, "-c", code], stdout=appended, check=True)
    assert out.read_text() == "zero\none\ntwo\nthree\n"
    assert (
        subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout == b"one\ntwo\nthree\n"
    )


def test_part_files_of_dead_processes_are_removed(tmp_path: Path) -> None:
    dead, fresh, other = tmp_path / ".a.png.4000000-0.part", tmp_path / ".b.png.4000000.part", tmp_path / "c.part"
    for each in (dead, fresh, other):
        each.touch()
    os.utime(dead, (0, 0))
    os.utime(other, (0, 0))
    with writing(tmp_path / "held.png") as file:
        held = Path(file.name)
        os.utime(held, (0, 0))
        remove_abandoned(tmp_path, age=60)
        assert held.exists()
    assert not dead.exists() and fresh.exists() and other.exists() and (tmp_path / "held.png").exists()


def test_a_folder_is_replaced_as_a_whole_or_stays(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with replacing_folder(folder) as fresh:
        (fresh / "a").write_text("1")
    with pytest.raises(RuntimeError), replacing_folder(folder) as fresh:
        (fresh / "a").write_text("2")
        raise RuntimeError
    assert (folder / "a").read_text() == "1" and os.listdir(tmp_path) == ["model"]
    (tmp_path / ".model.new.part").mkdir()  # a process that was killed
    with replacing_folder(folder) as fresh:
        (fresh / "b").write_text("3")
        with pytest.raises(UserError, match="another process is writing"), replacing_folder(folder):
            pytest.fail("two writers")
    assert os.listdir(folder) == ["b"] and os.listdir(tmp_path) == ["model"]


def test_json_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for content in (b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"run: .*a\.json is not valid JSON") as raised:
            read_json(path, "run")
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 400
