"""Reading scored runs, and refusing damaged ones."""

import json

import pytest

from tests.results.made_up_run import CDD11, made_up_rows, write_run
from unildiff.results.runs import load_run
from unildiff.utils.errors import UserError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 34}, r"run, scores.csv has 33, cdd11 has 34"),
        ({"count": dict.fromkeys(CDD11, 3) | {"low": 4}}, "has 3 of low, cdd11 has 4"),
        ({"data_kind": "maybe"}, "must be real or sample"),
        ({"count": "33"}, "'33', must be a number"),
        ({"blind": "yes"}, "must be true or false"),
        ({"time_per_picture_s": "fast"}, "must be a number of seconds"),
    ],
)
def test_a_run_with_wrong_provenance_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        load_run(write_run(tmp_path / "run", **changes))


def test_a_count_by_degradation_is_accepted(tmp_path):
    assert len(load_run(write_run(tmp_path / "run", count=dict.fromkeys(CDD11, 3))).scores) == 33


def test_a_stage_must_have_all_images_too(tmp_path):
    folder = write_run(tmp_path / "run", stages=[("after joint", made_up_rows()[:-1], False)])
    with pytest.raises(UserError, match=r"stage 'after joint' has 32"):
        load_run(folder)


def test_damaged_runs_are_refused(tmp_path):
    with pytest.raises(UserError, match="has no scores"):
        load_run(tmp_path)
    folder = write_run(tmp_path / "run")
    scores = (folder / "scores.csv").read_text()
    for broken, message in [
        (scores.replace("degradation,name", "degradation,title", 1), "has no name"),
        (scores.splitlines()[0] + "\n", "has no line"),
        (scores + scores.splitlines()[1] + "\n", "scored twice"),
        (scores + "low,other,good,0.5,14,0.5\n", "column psnr, 'good'"),
    ]:
        (folder / "scores.csv").write_text(broken)
        with pytest.raises(UserError, match=message):
            load_run(folder)
    (folder / "scores.csv").write_text(scores)
    info = json.loads((folder / "run.json").read_text())
    for broken, message in [
        ("{", "broken provenance"),
        ("[]", "a list"),
    ]:
        (folder / "run.json").write_text(broken)
        with pytest.raises(UserError, match=message):
            load_run(folder)
    (folder / "run.json").write_text(json.dumps(info | {"stages": [{"label": "a", "scores": "none.csv"}]}))
    with pytest.raises(UserError, match="cannot read scores"):
        load_run(folder)
    (folder / "run.json").write_text(json.dumps(info | {"stages": ["joint"]}))
    with pytest.raises(UserError, match="must have a label"):
        load_run(folder)
