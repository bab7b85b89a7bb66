"""Every command of the Getting started pages and of the README runs, in order, on tiny data."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unildiff.cli.main import main
from unildiff.data.tools import captioner

ROOT = Path(__file__).parents[2]
TRAINER = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
FAST = {  # options that make a command of the docs small enough for a test; everything else runs as written
    "restore": ["--num_inference_steps=1"],
    "plan": ["--throughput=1", "--model.base=tiny"],  # tests/planning plans the full size
    "validate": [*TRAINER, "--model.sampling.num_inference_steps=1"],
    "test": [*TRAINER, "--model.sampling.num_inference_steps=1"],
    "fit": [
        *TRAINER, "--trainer.max_steps=1", "--trainer.val_check_interval=1", "--data.batch_size=2", "--data.crop_size=32",
        "--data.num_workers=0", "--trainer.limit_val_batches=1", "--model.optimizer.warmup_steps=0",
    ],
}  # fmt: skip
PARSED = ("configs/alignment.yaml", "configs/joint.yaml", "configs/decoder.yaml", "runs/cdd11/decoder")
"""The paper's recipe needs GPUs: commands with these words are parsed, not run."""


def blocks(page: Path) -> list[str]:
    """Return the command lines of a page's shell blocks."""
    found = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [line.partition("  #")[0].strip() for block in found for line in block.splitlines() if line.strip()]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the images that the pages assume: photos, their ground truth, and a folder of pairs."""
    random = np.random.default_rng(0)

    def write(path: str, value: float = 1.0) -> None:
        image = Image.fromarray(random.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize((64, 48))
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        image.point(lambda pixel: pixel * value).save(tmp_path / path)

    for name in ("street", "garden"):
        write(f"photos/{name}.jpg", 0.5)
        write(f"ground_truth/{name}.png")
    for split, count in (("train", 4), ("test", 1)):
        for number in range(count):
            write(f"my_pairs/{split}/lq/{split}{number}.png", 0.5)
            write(f"my_pairs/{split}/gt/{split}{number}.png")
            write(f"clean/{split}{number}.png")
    monkeypatch.setattr(captioner, "load_captioner", lambda *_: lambda image: "a scene")  # LLaVA has 7 B parameters
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(line: str) -> int:
    """Run one line of the docs."""
    program, command, *rest = shlex.split(line)
    assert program == "unildiff", f"only unildiff commands belong here: {line}"
    if line.endswith("runs/cdd11/test --out results"):  # what the recipe would have left
        shutil.copytree("runs/table2/test", "runs/cdd11/test")
    if command != "plan" and any(words in line for words in PARSED):
        arguments = [command, *rest, "--print_config"]
        if "--ckpt_path" in arguments:
            at = arguments.index("--ckpt_path")
            del arguments[at : at + 2]
    else:
        arguments = [command, *rest, *FAST.get(command, [])]
        if "photographs" in rest:
            arguments += ["--data.val_size=32", "--data.val_degradations=[haze]"]
    try:
        code = main(arguments)
    except SystemExit as ended:  # --print_config
        code = int(ended.code or 0)
    if arguments[:2] == ["data", "sample"]:
        shrink(Path("data"))
    return code


def shrink(folder: Path) -> None:
    """Make every image of a sample set small."""
    for path in folder.rglob("*.png"):
        Image.open(path).resize((48, 32)).save(path)


def test_the_readme_repeats_commands_of_the_pages() -> None:
    """Running the pages therefore runs the README, except for the installation and the overview."""
    pages = [line for page in (ROOT / "docs" / "start").glob("*.md") for line in blocks(page)]
    readme = [line for line in blocks(ROOT / "README.md") if not line.startswith("pip install")]
    missing = [line for line in readme if line not in pages]
    assert [line.split()[1] for line in missing] == ["test", "fit"]  # of the overview, see below


def test_the_overview_of_the_readme_is_parsed(capsys: pytest.CaptureFixture[str]) -> None:
    overview = (
        (ROOT / "README.md").read_text().partition("## Three commands")[2].partition("```sh\n")[2].partition("```")[0]
    )
    for line in overview.splitlines():
        _, command, *rest = shlex.split(line.partition("  #")[0])
        if command != "restore":  # run by the pages
            with pytest.raises(SystemExit) as ended:
                main([command, *rest, "--print_config"])
            assert ended.value.code == 0


def test_the_python_of_the_readme_runs(places: Path) -> None:
    code = (ROOT / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    shutil.copy("photos/street.jpg", "photo.jpg")
    exec(code, {})  # noqa: S102  our own README
    assert Image.open("restored.png").size == (64, 48)


@pytest.mark.parametrize("name", ["restore", "own-pairs", "reproduce"])
def test_every_command_runs(name: str, places: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = blocks(ROOT / "docs" / "start" / f"{name}.md")
    assert lines
    for line in lines:
        assert call(line) == (1 if "data check" in line and "sample" in line else 0), (
            line,
            capfd.readouterr().err[-2000:],
        )
    expected = {
        "restore": ["restored/street.jpg", "restored/garden.jpg", "street.png"],
        "own-pairs": ["report.html", "my_model/unildiff.json", "restored/street.jpg", "runs/mine/test/scores.csv"],
        "reproduce": ["results/table2.md", "results/table2.tex"],
    }
    missing = [
        path
        for path in expected[name]
        if not (places / path).is_file() and not (places / path).with_suffix(".png").is_file()
    ]
    assert not missing, missing


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_the_demo_validates_reports_and_says_what_to_open() -> None:
    command = ["make", "--no-print-directory", "-n", "demo", "DEMO_STEPS=7", "READY="]
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    lines = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, check=True).stdout.splitlines()
    fits = [line for line in lines if " fit " in line]
    assert len(fits) == 3 and all("--trainer.val_check_interval 7" in line for line in fits)
    folder = re.search(r"runs/demo/[-_0-9]+", fits[0])
    assert folder is not None
    assert any(f" table table2 {folder[0]}/test --out {folder[0]}/results" in line for line in lines)
    assert any(f" report {folder[0]} --out {folder[0]}/report.html" in line for line in lines)
    assert lines[-1].startswith(f'echo "Open {folder[0]}/report.html in a browser; tables are in {folder[0]}/results')
