"""Models of other methods with random weights, tested on a sample set as `unildiff test` tests our own."""

import csv
import json

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from tests.fake_trees import rain
from unildiff.cli.main import main
from unildiff.data.images import read_rgb
from unildiff.rivals import is_rival
from unildiff.rivals.load import Rival, load_rival
from unildiff.rivals.tiles import restore_image
from unildiff.utils.errors import UserError

spandrel = pytest.importorskip("spandrel")
CPU = torch.device("cpu")


def nafnet():
    from spandrel.architectures.NAFNet import NAFNet

    return NAFNet(width=8, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1])


def restormer():
    pytest.importorskip("spandrel_extra_arches")
    from spandrel_extra_arches.architectures.Restormer import Restormer

    return Restormer(dim=8, num_blocks=[1, 1, 1, 1], num_refinement_blocks=1, heads=[1, 1, 1, 1])


def swinir():
    from spandrel.architectures.SwinIR import SwinIR

    return SwinIR(img_size=16, window_size=8, depths=[2], embed_dim=12, num_heads=[2], upscale=1, upsampler="")


def fftformer():
    from spandrel.architectures.FFTformer import FFTformer

    return FFTformer(dim=8, num_blocks=[1, 1, 1], num_refinement_blocks=1)


ARCHITECTURES = {"NAFNet": nafnet, "Restormer": restormer, "SwinIR": swinir, "FFTformer": fftformer}


def saved(model, path):
    torch.save({"params": model.state_dict()}, path)
    return path


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_files_of_spandrel_are_loaded_and_equal_the_network(architecture, tmp_path):
    torch.manual_seed(0)
    model = ARCHITECTURES[architecture]().eval()
    rival = load_rival(f"spandrel:{saved(model, tmp_path / 'model.pth')}", CPU)
    assert rival.label == f"{architecture} (model.pth)" and not rival.told
    image = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        expected = model(image).clamp(0, 1)
    torch.testing.assert_close(restore_image(rival, image), expected, atol=1e-5, rtol=0)
    assert restore_image(rival, torch.rand(1, 3, 21, 30)).shape == (
        1,
        3,
        21,
        30,
    )  # sides that the network cannot process


def test_a_rival_is_tested_and_appears_in_the_table(tmp_path, capsys):
    rain.write(tmp_path / "data", "promptir", "test", count=2)
    file = saved(nafnet(), tmp_path / "naf.pth")
    command = ["test", "--model", f"spandrel:{file}", "--data", "derain", "--data.root", str(tmp_path / "data")]
    command += [
        "--run_dir",
        str(tmp_path / "run"),
        "--model.evaluation.metrics",
        "psnr",
        "ssim",
        "--tile_size",
        "8",
        "--model.evaluation.protocol",
        "onerestore",
    ]
    assert main(command) == 0
    assert "NAFNet (naf.pth): protocol onerestore" in capsys.readouterr().out
    folder = tmp_path / "run" / "test"
    info = json.loads((folder / "run.json").read_text())
    assert (info["blind"], info["data_kind"], info["architecture"]) == (True, "real", "NAFNet")
    assert len(info["weights_sha256"]) == 64
    with (folder / "scores.csv").open() as stream:
        line = next(csv.DictReader(stream))
    files = [folder / kind / line["degradation"] / f"{line['name']}.png" for kind in ("restored", "truth")]
    restored, gt = map(read_rgb, files)
    assert float(line["psnr"]) == pytest.approx(peak_signal_noise_ratio(gt, restored), abs=1e-6)
    again = [str(tmp_path / "told") if word == str(tmp_path / "run") else word for word in command]
    assert main([*again, "--told", "true", "--label", "told"]) == 0
    assert main(["table", "single", str(folder), str(tmp_path / "told" / "test"), "--out", str(tmp_path / "t")]) == 0
    assert "told †" in (tmp_path / "t" / "single.txt").read_text()
    assert main(["compare", str(folder), str(folder)]) == 0


def prompts(model, key):
    return {**model.state_dict(), key: torch.zeros(1)}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (lambda: prompts(nafnet(), "prompt1.prompt_param"), "weights of PromptIR; deepinv has it"),
        (lambda: prompts(nafnet(), "fre1.para1"), "weights of AdaIR"),
        (lambda: prompts(nafnet(), "promptBlock.weight"), "weights of InstructIR"),
        (lambda: prompts(nafnet(), "another.weight"), "its weights do not fit"),
        (lambda: {"a": torch.zeros(2)}, "does not know this architecture"),
    ],
)
def test_wrong_detections_are_one_line(state, message, tmp_path, capsys):
    torch.save(state(), tmp_path / "model.pth")
    assert main(["test", "--model", f"spandrel:{tmp_path / 'model.pth'}", "--data", "derain"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("spandrel:none.pth", "there is no file"),
        ("spandrel:README.md", "spandrel reads .pth"),
        ("deepinv:Nothing", "deepinv has no model Nothing"),
        ("deepinv:PromptIR:none.pth", "there is no file"),
        ("no_such_module:restore", "No module named"),
        ("math:nothing", "has no attribute"),
        ("math:pi", "is not a function"),
    ],
)
def test_mistakes_are_one_line(name, message):
    with pytest.raises(UserError, match=message) as caught:
        load_rival(name, CPU)
    assert "\n" not in str(caught.value)


def test_a_model_for_other_sizes_is_refused(tmp_path):
    from spandrel.architectures.SwinIR import SwinIR

    model = SwinIR(
        img_size=16, window_size=8, depths=[2], embed_dim=12, num_heads=[2], upscale=2, upsampler="pixelshuffledirect"
    )
    with pytest.raises(UserError, match="scale 2"):
        load_rival(f"spandrel:{saved(model, tmp_path / 'x2.pth')}", CPU)


def test_deepinv_takes_a_file_of_weights(tmp_path):
    models = pytest.importorskip("deepinv").models
    torch.manual_seed(0)
    model = models.DnCNN(pretrained=None).eval()
    torch.save({"state_dict": {f"net.{key}": value for key, value in model.state_dict().items()}}, tmp_path / "p.ckpt")
    rival = load_rival(f"deepinv:DnCNN:{tmp_path / 'p.ckpt'}", CPU)
    assert rival.label == "DnCNN (deepinv)" and not rival.told
    image = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(restore_image(rival, image), model(image).clamp(0, 1))
    with pytest.raises(UserError, match="its weights cannot be loaded"):
        load_rival(f"deepinv:MPRNet:{tmp_path / 'p.ckpt'}", CPU)
    with pytest.raises(UserError, match="needs the noise level"):
        load_rival("deepinv:DRUNet", CPU)
    with pytest.raises(UserError, match="publishes no weights"):
        load_rival("deepinv:MPRNet", CPU)


def test_any_function_is_a_rival(tmp_path, monkeypatch):
    (tmp_path / "my_method.py").write_text(
        "def darker(image):\n    return image * 0.5\n\n\ndef wrong(image):\n    return image[:, :1]\n"
    )
    monkeypatch.chdir(tmp_path)
    image = torch.rand(1, 3, 70, 90)
    torch.testing.assert_close(restore_image(load_rival("my_method:darker", CPU), image), image * 0.5)
    torch.testing.assert_close(restore_image(load_rival("my_method:darker", CPU), image, 32), image * 0.5)  # in tiles
    with pytest.raises(UserError, match="they must be equal"):
        restore_image(load_rival("my_method:wrong", CPU), image)


def test_a_function_is_tested_reported_bundled_and_ranked(tmp_path, monkeypatch, capsys):
    (tmp_path / "halves.py").write_text("def restore(image):\n    return image * 0.5\n")
    monkeypatch.chdir(tmp_path)
    rain.write(tmp_path / "data" / "derain", "promptir", "test", count=2)
    assert main(["test", "--model", "halves:restore", "--data", "derain", "--run_dir", "runs/small"]) == 2
    assert "cannot score rain/" in capsys.readouterr().err
    for command in (
        "test --model halves:restore --data derain --protocol onerestore --label Halves --run_dir runs/halves",
        "report runs/halves --out page.html",
        "score runs/halves/test/restored runs/halves/test/truth --label Again --protocol onerestore --bundle bundles/a.zip",
        "leaderboard bundles --out board.html",
        "table single runs/halves/test bundles/a.zip",
        "compare runs/halves/test bundles/a.zip",
    ):
        assert main(command.split()) == 0, command
    printed = capsys.readouterr().out
    assert printed.startswith("Halves: protocol onerestore, 2 images of derain")
    assert all("Halves" in (tmp_path / file).read_text() for file in ("page.html", "results/single.txt"))
    assert "Again" in (tmp_path / "board.html").read_text()
    assert "lowest: rain/1 +0.0000, rain/2 +0.0000" in printed  # the files score as they did in the test


def test_out_of_memory_switches_to_tiles():
    def small_only(image):
        if image.shape[2] > 256:
            raise torch.OutOfMemoryError("too large")
        return image

    rival = Rival("a:b", "b", small_only, 1, False, {})
    image = torch.rand(1, 3, 300, 300)
    torch.testing.assert_close(restore_image(rival, image), image)


def test_stages_are_not_rivals():
    assert not any(
        map(is_rival, ("decoder", "unildiff.stages.decoder.DecoderFinetuneModule", "configs/x.yaml", "C:\\x"))
    )
    assert all(map(is_rival, ("spandrel:a.pth", "deepinv:PromptIR", "package.module:function")))
