"""diffusers loads an exported folder where UniLDiff is not installed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.small import small_model
from tests.weights.hub import hub
from unildiff.data.images import write_png
from unildiff.weights.pipeline import UniLDiffPipeline

ONLY_DIFFUSERS = """
import sys
from pathlib import Path

HIDDEN = {"unildiff", "datamodules", "lightning", "pytorch_lightning", "torchmetrics", "jsonargparse", "cv2", "pandas",
          "lmdb", "scipy", "skimage", "tifffile", "imagecodecs", "pillow_heif", "peft", "matplotlib", "jinja2", "ray"}


class Hides:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


sys.meta_path[:] = [Hides(finder) for finder in sys.meta_path]
try:
    import unildiff
except ImportError:
    pass
else:
    sys.exit("unildiff can be imported")

import numpy
import torch
from diffusers import DiffusionPipeline, EulerDiscreteScheduler

folder, photo, result = map(Path, sys.argv[1:])
copy = folder.with_name("my_unildiff.py")
copy.write_bytes((folder / "pipeline.py").read_bytes())
made = []
for source, options in (
    (folder, {}),
    (folder, {"custom_pipeline": str(copy)}),
    ("me/model", {}),
):
    pipe = DiffusionPipeline.from_pretrained(source, trust_remote_code=True, **options)
    made.append(pipe(str(photo), "a cat", num_inference_steps=2, output_type="np").images[0])
numpy.save(result, made)
scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="linspace")
options = {"scheduler": scheduler, "dtype": torch.bfloat16, "device_map": "cpu", "use_safetensors": True}
other = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, **options)
assert other.scheduler is scheduler and other.dtype == torch.bfloat16
pipe.save_pretrained(result.with_name("again"))
"""


def test_one_file_restores_without_the_package(tmp_path: Path) -> None:
    pipe = UniLDiffPipeline.from_model(small_model())
    pipe.save_pretrained(tmp_path / "folder")
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    write_png(tmp_path / "photo.png", image)
    pipe = UniLDiffPipeline.from_pretrained(tmp_path / "folder")
    expected = pipe(image, "a cat", num_inference_steps=2, output_type="np", return_dict=False)[0][0]
    with hub(tmp_path / "folder", "me/model") as (address, fetched):
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                ONLY_DIFFUSERS,
                *(str(tmp_path / name) for name in ("folder", "photo.png", "made.npy")),
            ],
            env={**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": ""},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "pip install" not in done.stderr and "not expected" not in done.stderr, done.stderr
    for made in np.load(tmp_path / "made.npy"):
        assert np.array_equal(made, expected)
    assert "network/loader.py" in fetched and "fusion/model.safetensors" in fetched
    source = (tmp_path / "folder" / "pipeline.py").read_bytes()
    assert (tmp_path / "again" / "pipeline.py").read_bytes() == source and len(source) < 400_000
