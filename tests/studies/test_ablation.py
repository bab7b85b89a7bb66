import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from studies import ablation
from studies.ablation_plan import (
    PAPER,
    STAGES,
    TABLES,
    VARIANTS,
    Budget,
    Variant,
    chosen,
    fit_arguments,
    folder_names,
    photograph_arguments,
)
from studies.ablation_table import THEIRS, ablation_markdown, interval, verdict
from tests.small import small_base
from unildiff.core.daem import DetailConfig
from unildiff.core.daff import FusionConfig
from unildiff.weights.checkpoints import read_checkpoint
from unildiff.weights.folder import save_base

NAMED = {variant.name: variant for variant in VARIANTS}
BUDGET = Budget("nowhere", (1, 2, 3))


def trained_once(names: list[str], seed: int = 0) -> list[list[str]]:
    return [folder_names(NAMED[name], BUDGET, seed) for name in names]


def test_the_plan_has_every_variant() -> None:
    assert [v.name for v in VARIANTS if PAPER in v.group] == list(THEIRS)
    dropout = {v.settings.get("text_dropout", 0.2) for v in VARIANTS if TABLES["dropout"] in v.group}
    weights = {(v.decoder or {}).get("auxiliary_weight", 0.01) for v in VARIANTS if TABLES["lambda"] in v.group}
    assert dropout == {0.0, 0.1, 0.2, 0.4} and weights == {0.0, 0.001, 0.01, 0.1}
    experts = [v.settings.get("network.fusion.token_experts", 0) for v in VARIANTS if TABLES["experts"] in v.group]
    assert experts == [0, 4]
    # 0.2 and 0.01 are the configs' values, so no variant of these names is needed.
    for stage in STAGES:
        settings = yaml.safe_load(Path("configs/tiny/weights", f"{stage}.yaml").read_text())["model"]["init_args"]
        assert settings.get("text_dropout", 0.2) == 0.2 and settings.get("auxiliary_weight", 0.01) == 0.01


def test_settings_are_fields_of_the_configs() -> None:
    fusion, detail = vars(FusionConfig()), vars(DetailConfig())
    for variant in VARIANTS:
        for key in {**variant.settings, **(variant.decoder or {})}:
            _, _, field = key.rpartition(".")
            if key.startswith("network.fusion."):
                assert field in fusion
            elif key.startswith("network.detail."):
                assert field in detail
            else:
                assert key in ("network.use_text", "text_dropout", "auxiliary_weight", "latents")


def test_stages_in_common_are_trained_once_and_no_others() -> None:
    full, tuned, light = trained_once(["DAFF + text + DAEM", "DAFF + text, tuned decoder without DAEM", "lambda 0.1"])
    (joint,) = trained_once(["DAFF + text"])
    assert full[:2] == tuned[:2] == light[:2] == joint  # the decoder's settings do not affect the stages before
    assert len({full[2], tuned[2], light[2]}) == 3
    others = trained_once(["none", "text", "DAFF", "token experts", "dropout 0", "dropout 0.4"])
    assert len({names[1] for names in [*others, joint]}) == 7
    assert not set(full) & set(folder_names(NAMED["DAFF + text + DAEM"], BUDGET, 1))
    longer = Budget("nowhere", (1, 2, 4))
    assert folder_names(NAMED["DAFF + text + DAEM"], longer, 0)[:2] == full[:2]
    assert folder_names(NAMED["DAFF + text + DAEM"], longer, 0)[2] != full[2]


def test_another_base_in_the_same_folder_is_another_start(tmp_path: Path) -> None:
    budget = Budget(str(tmp_path), (1, 1, 1))
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "a.safetensors").write_bytes(b"1")
    before = folder_names(NAMED["none"], budget, 0)
    (tmp_path / "unet" / "a.safetensors").write_bytes(b"2")
    assert not set(before) & set(folder_names(NAMED["none"], budget, 0))


def test_arguments_of_a_fit() -> None:
    found = fit_arguments(NAMED["none"], "4_joint", BUDGET, 3, "runs/x", "a.ckpt")
    assert found[:3] == ["fit", "--config", "configs/tiny/weights/4_joint.yaml"]
    assert {"--seed_everything=3", "--trainer.max_steps=2", "--model.init_from=a.ckpt", "--model.base=nowhere"} <= set(
        found
    )
    assert {"--model.network.fusion.kind=plain", "--model.network.use_text=false"} <= set(found)
    assert not [argument for argument in found if "detail" in argument or "latents" in argument]
    decoder = fit_arguments(NAMED["DAFF + text + DAEM on LQ latents"], "5_decoder", BUDGET, 0, "runs/x", "a.ckpt")
    assert [argument for argument in decoder if "latents" in argument] == ["--model.latents=lq"]


def test_photographs_replace_the_generated_scenes_and_further_arguments_come_last() -> None:
    budget = Budget("nowhere", (1, 2, 3), ("--data.crop_size=64",), photograph_arguments(Path("photos")))
    found = fit_arguments(NAMED["none"], "4_joint", budget, 0, "runs/x", "a.ckpt")
    assert found.index("--data=datamodules.photographs.PhotographsDataModule") < found.index("--data.batch_size=16")
    assert "--data.root=photos/train" in found and found[-1] == "--data.crop_size=64"
    assert folder_names(NAMED["none"], budget, 0) != folder_names(NAMED["none"], BUDGET, 0)


def test_experts_in_use() -> None:
    assert ablation.effective_number(Counter({0: 7})) == 1
    assert ablation.effective_number(Counter([0, 1, 2, 3])) == pytest.approx(4)
    # Shares of 3/4 and 1/4: exp(0.5623).
    assert ablation.effective_number(Counter({0: 3, 1: 1})) == pytest.approx(1.7548, abs=1e-4)


def test_a_gain_has_its_interval_over_photographs() -> None:
    keys = [(f"photo{index}", kind) for index in range(5) for kind in ("low", "rain")]
    first = [{"images": dict.fromkeys(keys, 20.0)}]
    equal = [{"images": {key: 21.0 if key[1] == "low" else 20.0 for key in keys}}]  # every photograph gains 0.5
    assert interval(first, equal) == " (+0.50 to +0.50)"
    assert interval(first, [{"images": {}}]) == ""


def test_variants_are_chosen_by_name_or_by_table() -> None:
    assert chosen([]) == list(VARIANTS)
    assert [v.name for v in chosen([], [TABLES["lambda"]])] == [
        "DAFF + text + DAEM",
        "lambda 0",
        "lambda 0.001",
        "lambda 0.1",
    ]
    assert [v.name for v in chosen(["text"])] == ["text"]


def result(variant: str, psnr: float, seed: int = 0) -> dict[str, Any]:
    scores = {"psnr": psnr, "ssim": 0.5, "gmsd": 0.2}
    return {
        "variant": variant,
        "seed": seed,
        "seconds": 90.0,
        "scores": {"validation": {"low": scores, "avg": scores}},
        "input": {"validation": {"avg": {"psnr": 13.0, "ssim": 0.4, "gmsd": 0.25}}},
    }


def test_the_page_gives_means_ranges_and_the_papers_row() -> None:
    about = {"steps": (1, 2, 3), "inference_steps": 20, "guidance": 5.0, "pictures": {"validation": 33}, "base": "b"}
    results = [result("text", 15.0), result("text", 15.4, 1), result("none", 14.0), result("DAFF + text", 16.0)]
    page = ablation_markdown(results, about)
    # (15.0 + 15.4) / 2 = 15.2, half the range is 0.2; 90 s are 1.5 min.
    assert "| text | 15.20 ± 0.20 | 0.5000 ± 0.0000 | 0.2000 ± 0.0000 | 2 | 1.5 | 25.87 | 50.12 |" in page
    assert (
        "By PSNR: none < text < DAFF + text: the paper's order; half the range over seeds is at most 0.20 dB." in page
    )
    assert "dropout" not in page  # a single row of that table compares nothing
    page = ablation_markdown([*results, result("dropout 0", 15.0)], about)
    assert "| dropout 0.2 | 16.00 |" in page  # the same variant under another table's name
    assert "| dropout 0 | 15.00 |" in ablation_markdown([result("dropout 0", 15.0)], about)
    assert "## Weight" not in page and "lambda" not in page  # it has no results yet
    assert "Input: PSNR (dB) 13.00" in page


def test_a_different_order_is_reported() -> None:
    rows = {name: [{"psnr": value}] for name, value in (("none", 15.0), ("text", 14.0))}
    assert "another order than the paper's (none < text)" in verdict(PAPER, rows)
    dropout = {"dropout 0.2": [{"psnr": 15.0}], "dropout 0": [{"psnr": 15.25}]}
    assert "Best: dropout 0, 0.25 dB above 0.2" in verdict(TABLES["dropout"], dropout)
    weights = {"lambda 0.01": [{"psnr": 15.0}], "lambda 0": [{"psnr": 15.1}]}
    assert "differs by 0.10 dB" in verdict(TABLES["lambda"], weights)


def test_a_variant_is_trained_scored_and_then_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two steps per stage on the small base; the second call trains nothing, an interrupted one is resumed."""
    save_base(small_base(), tmp_path / "base")
    small = [f"--model.network.fusion.{key}" for key in ("hidden_size=16", "num_heads=2", "mlp_ratio=2")]
    small += ["--model.network.detail.width=8", "--model.network.detail.kernel_sizes=[3, 5]"]
    data = ["--data", "deadleaves", "--data.crop_size=32", "--data.batch_size=2", "--data.num_workers=0"]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.logger=false"]
    command = [
        "--steps",
        "2",
        "2",
        "2",
        "--base",
        str(tmp_path / "base"),
        "--out",
        str(tmp_path / "out"),
        "--every",
        "17",
    ]
    command += ["--variants", "DAFF + text", "DAFF + text + DAEM", "--inference-steps", "1", "--guidance", "1"]
    command += ["--threads", "1", "--table", str(tmp_path / "table.md"), "--fit", *small, *data, *quiet]
    calls = []
    fit = ablation.unildiff
    monkeypatch.setattr(ablation, "unildiff", lambda arguments: calls.append(arguments) or fit(arguments))
    # Out of time before it starts: nothing is trained, and the page of an earlier call is kept.
    (tmp_path / "table.md").write_text("earlier")
    assert ablation.main(["--minutes", "0", *command]) == 0
    assert not calls and "2 of 2 variants are left" in capsys.readouterr().out
    assert (tmp_path / "table.md").read_text() == "earlier"
    assert ablation.main(command) == 0
    assert len(calls) == 3  # alignment and joint are shared
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [each["variant"] for each in results] == ["DAFF + text", "DAFF + text + DAEM"]
    assert all(each["seconds"] > 0 for each in results)
    last = Path(results[1]["folder"], "checkpoints", "last.ckpt")
    assert read_checkpoint(last).step == 2
    assert results[0]["scores"]["validation"]["avg"]["psnr"] != results[1]["scores"]["validation"]["avg"]["psnr"]
    assert ablation.main(command) == 0 and len(calls) == 3
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results
    assert "| DAFF + text + DAEM |" in (tmp_path / "table.md").read_text()
    torch.set_num_threads(1)


def test_a_missing_base_is_reported_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablation.main(["--base", str(tmp_path / "none"), "--threads", "1"]) == 2
    assert capsys.readouterr().err.startswith("ablation: error: base: no base in")


@pytest.mark.parametrize("option", ["--every", "--inference-steps", "--threads"])
def test_numbers_that_count_are_at_least_one(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        ablation.main([option, "0"])
    assert ended.value.code == 2 and f"argument {option}: 0; give at least 1" in capsys.readouterr().err


def test_a_stage_is_resumed_until_it_has_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends early with an exit code ends the plan; the next call uses the same folder again."""
    calls: list[str] = []

    def interrupted(arguments: list[str]) -> int:
        calls.append(arguments[arguments.index("--run_dir") + 1])
        return 130

    monkeypatch.setattr(ablation, "unildiff", interrupted)
    for _ in range(2):
        assert ablation.train(Variant("x", ()), BUDGET, 0, tmp_path, lambda: True) == 130
    assert len(calls) == 2 and calls[0] == calls[1]
