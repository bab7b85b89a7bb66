"""Mistakes in commands that need no network are found before torch is imported, which takes seconds."""

import subprocess
import sys
from pathlib import Path

from PIL import Image

MISTAKES = [
    ["table", "table2", "nothere"],
    ["table", "table9", "run"],
    ["table", "table2", "run", "--others", "X=nothere"],
    ["compare", "nothere", "neither"],
    ["report", "a", "--data_root", "nothere"],
    ["report", "nothere"],
    ["leaderboard", "nothere"],
    ["score", "a", "b", "--metrics", "psnrr"],
    ["score", "a", "b", "--protocol", "none"],
    ["score", "a", "b", "--run_dir", "file"],
    ["score", "a", "nothere"],
    ["export", "nothere.ckpt", "--out", "exported"],
    ["export", "file", "--out", "exported"],
    ["export", "tiny"],
    ["export", "tiny", "--onnx", "a"],
    ["export", "tiny", "--out", "exported", "--init_from", "nothere"],
    ["figures", "--data", "cdd12"],
    ["figures", "--model", "nothere"],
    ["figures", "--root", "nothere"],
    ["figures", "--out", "file"],
    ["serve", "--port", "-1"],
    ["serve", "--port", "99999999"],
    ["serve", "--host", "no host"],
    ["plan", "--restore", "--size", "big"],
    ["plan", "--restore", "--model", "nothere"],
    ["data", "check", "cdd12"],
    ["data", "check", "cdd11", "--root", "nothere"],
    ["data", "pack", "cdd12", "--out", "pack"],
    ["data", "pack", "cdd11", "--root", "nothere", "--out", "pack"],
    ["data", "download", "cdd12"],
    ["data", "layout", "cdd12"],
    ["data", "sample", "cdd12"],
    ["data", "convert", "nothere.yml"],
    ["data", "synthesize", "cdd11", "--clean", "nothere", "--out", "made"],
]


def test_no_mistake_imports_torch(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / folder / "x.png")
    (tmp_path / "file").write_text("text")
    code = (
        "import sys; from unildiff.cli.main import main\n"
        f"for each in {MISTAKES!r}:\n"
        "    print(main(each), 'torch' in sys.modules, each)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"2 False {each}" for each in MISTAKES], done.stderr
    assert len(done.stderr.splitlines()) == len(MISTAKES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "file"]
