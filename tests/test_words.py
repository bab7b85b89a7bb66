"""The text of the repository avoids phrases that readers stumble over; each has a plain replacement."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("unildiff", "datamodules", "configs", "docs", "benchmarks", "studies", "tests", ".ci")
KINDS = {".py", ".md", ".yaml", ".toml", ".j2", ".js", ".css", ".csv", ".json", ""}

INSTEAD = {
    r"spoilt": "degraded",
    r"(?:goes|gone|going) on (?:where|from)": "resumes, resumed from",
    r"\bgo(?:es)? on with\b|\bas ever\b": "resume with; as before",
    r"\banew\b": "again",
    r"is no (?:share|checkpoint|yaml)": "must be between 0 and 1; is not a checkpoint; is not valid YAML",
    r"\bunasked\b|wherever on the line": "without a request; anywhere on the command line",
    r"hand(?:s|ed|ing)?[ -]over\b": "transfers, initialises from",
    r"from nothing": "from scratch",
    r"for want of": "because of a lack of; out of memory",
    r"(?:takes?|taking) away": "removes",
    r"said by name": "reported; the message names it",
    r"of one's own": "your own",
    r"without a word": "silently",
    r"who only tests": "to test, you do not need",
    r"have to be there|has to be there": "is required",
    r"\bis due\b": "is scheduled",
    r"\b(?:paper|peers|peers2026|style|speeds|words)\.md\b|paper-supplement": "the public source (title, arXiv, URL)",
}


def files() -> list[Path]:
    """Return every text file of the repository except this one and files that 0.1.0 wrote."""
    found = [path for path in ROOT.iterdir() if path.is_file()]
    found += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    skipped = {"__pycache__", "contracts", "history"}
    return [p for p in found if p.suffix in KINDS and p != Path(__file__) and not skipped.intersection(p.parts)]


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8", errors="replace") for path in files()}


@pytest.mark.parametrize("phrase", INSTEAD)
def test_the_phrase_does_not_occur(phrase: str, texts: dict[str, str]) -> None:
    pattern = re.compile(phrase, re.IGNORECASE)
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, text in texts.items()
        if pattern.search(text)
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, f"say: {INSTEAD[phrase]}\n" + "\n".join(found)


def test_the_files_are_found(texts: dict[str, str]) -> None:
    assert {"README.md", "Makefile", "unildiff/core/model.py", "docs/index.md", "configs/joint.yaml"} <= set(texts)
