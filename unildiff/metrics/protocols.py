"""Evaluation protocols: every choice behind a published PSNR or SSIM, as one named and frozen row each.

`source` names the public code that a row follows. Cases that a project leaves undefined are decided here and marked "our
choice"; for example, in most of them an image identical to its ground truth has infinite PSNR.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from unildiff.utils.errors import UserError, did_you_mean

Colour = Literal["rgb", "bt601", "yiq"]
Window = Literal["uniform7", "gaussian11"]


@dataclass(frozen=True)
class Protocol:
    """One way to compute PSNR and SSIM from a restored image and its ground truth.

    Attributes:
        name: Value of `--protocol`, printed above every table.
        colour: `rgb`: the mean over the three channels. `bt601`: MATLAB's luma, 16..235. `yiq`: luma, 0..255.
        crop_multiple: Both images are centre-cropped to a multiple of this (offset: half the remainder, rounded down).
        border: Pixels removed from each side after that.
        quantise: The restored image is rounded to 8 bits first (saved PNGs already are).
        clamp: Values outside of [0, 1] are clamped before anything else.
        data_range: The L of the source (1 or 255); the numbers do not depend on it, the scale of `psnr_epsilon` does.
        window: SSIM window: box of 7x7, or Gaussian of 11x11 with sigma 1.5.
        edges: `valid`: only windows inside the image count. `replicate`: one window per pixel, edges repeated.
        sample_covariance: Covariances are scaled by n / (n - 1), n pixels in a window (scikit-image's default).
        clip_contrast: Negative structure terms count as 0.
        ssim_rounds_luma: Luma is rounded to integers for SSIM (not for PSNR).
        ssim_colour: Colour of SSIM if it is another than that of PSNR.
        psnr_epsilon: Added to the mean squared error, which is on the scale of `data_range`; caps PSNR.
        source: Public code that the row follows.
    """

    name: str
    colour: Colour
    source: str
    window: Window = "gaussian11"
    edges: Literal["valid", "replicate"] = "valid"
    sample_covariance: bool = False
    crop_multiple: int = 1
    border: int = 0
    quantise: bool = True
    clamp: bool = True
    data_range: Literal[1, 255] = 255
    clip_contrast: bool = False
    ssim_rounds_luma: bool = False
    psnr_epsilon: float = 0.0
    ssim_colour: Colour | None = None

    @property
    def identical(self) -> Literal["cap", "exclude"]:
        """Treatment of an image equal to its ground truth: PSNR capped by `psnr_epsilon`, or infinite and left out."""
        return "cap" if self.psnr_epsilon > 0 else "exclude"

    @property
    def identical_psnr(self) -> float:
        """PSNR in dB of an image equal to its ground truth (infinite where the protocol leaves it out of the mean)."""
        return 10 * math.log10(self.data_range**2 / self.psnr_epsilon) if self.psnr_epsilon > 0 else math.inf

    @property
    def window_size(self) -> int:
        """Side of the SSIM window in pixels."""
        return 7 if self.window == "uniform7" else 11

    def __str__(self) -> str:
        """Return the protocol in one line, as printed above a table."""
        names = {"rgb": "RGB", "bt601": "Y (BT.601, 16-235)", "yiq": "Y (YIQ)"}
        colour = names[self.colour] + (f" (SSIM: {names[self.ssim_colour]})" if self.ssim_colour else "")
        crop = f"centre crop to {self.crop_multiple}" if self.crop_multiple > 1 else "full size"
        border = f", border {self.border}" if self.border else ""
        window = "uniform 7x7" if self.window == "uniform7" else "Gaussian 11x11"
        edges = "" if self.edges == "valid" else ", edges replicated"
        covariance = "sample" if self.sample_covariance else "population"
        identical = f"capped at {self.identical_psnr:.0f} dB" if self.identical == "cap" else "left out of mean PSNR"
        return (
            f"{self.name}: {colour}, {'8-bit' if self.quantise else 'float'}, {crop}{border}, "
            f"SSIM {window}, {covariance} covariance{edges}; identical images {identical}"
        )


_ROWS = (
    Protocol(
        "unildiff",
        colour="rgb",
        crop_multiple=16,
        data_range=1,
        clip_contrast=True,
        psnr_epsilon=1e-8,
        source="the authors' public scoring script (github.com/Potatonupt/UniLdiff, test_metrics_other_method_hjh.py): "
        "pyiqa psnr and ssim on RGB of 8-bit PNGs; "
        "pyiqa 0.1.16 psnr_arch.py (epsilon 1e-8), ssim_arch.py (population covariance, contrast clipped at 0)",
    ),
    Protocol(
        "promptir",
        colour="rgb",
        crop_multiple=16,
        quantise=False,
        data_range=1,
        window="uniform7",
        sample_covariance=True,
        source="github.com/va1shn9v/PromptIR, github.com/c-yn/AdaIR and DFPIR, val_utils.py: scikit-image's defaults on "
        "floats",
    ),
    Protocol(
        "moceir",
        colour="rgb",
        crop_multiple=16,
        quantise=False,
        data_range=1,
        sample_covariance=True,
        source="github.com/eduardzamfir/MoCE-IR src/test.py: scikit-image with gaussian_weights=True (sample covariance by "
        "default); for its three-task and five-task sets, which its loader crops to multiples of 16",
    ),
    Protocol(
        "moceir-cdd11",
        colour="rgb",
        quantise=False,
        data_range=1,
        sample_covariance=True,
        source="as moceir; its loader of CDD-11 does not crop, which matters for images of 1080 rows (1080 = 8 mod 16)",
    ),
    Protocol(
        "onerestore",
        colour="rgb",
        data_range=1,
        window="uniform7",
        sample_covariance=True,
        source="github.com/gy65896/OneRestore img_file/cal_psnr_ssim.py on saved 8-bit PNGs",
    ),
    Protocol(
        "daclip",
        colour="rgb",
        border=4,
        source="github.com/Algolzw/daclip-uir test.py with its published test.yml (crop_border unset, scale 4), "
        "img_utils.py",
    ),
    Protocol(
        "diffuir",
        colour="bt601",
        edges="replicate",
        source="github.com/iSEE-Laboratory/DiffUIR src/model.py and metrics/psnr_ssim.py: Y, border 0, SSIM filtered with "
        "replicated edges",
    ),
    Protocol(
        "pyiqa-y",
        colour="yiq",
        data_range=1,
        clip_contrast=True,
        ssim_rounds_luma=True,
        psnr_epsilon=1e-8,
        source="pyiqa 0.1.16 psnry and ssim, YIQ luma (color_util.py), rounded for SSIM only (func_util.py); ties, one "
        "pixel in a thousand, are rounded to even here and at random there, which changes SSIM by 1e-5",
    ),
    Protocol(
        "foundir",
        colour="rgb",
        data_range=1,
        clip_contrast=True,
        ssim_colour="yiq",
        ssim_rounds_luma=True,
        psnr_epsilon=1e-8,
        source="github.com/House-Leo/FoundIR scores its test set with pyiqa's defaults: psnr on RGB, ssim on YIQ luma "
        "(pyiqa 0.1.16, default_model_configs.py)",
    ),
    Protocol(
        "basicsr-y",
        colour="bt601",
        source="BasicSR metrics/psnr_ssim.py with test_y_channel and crop_border 0: Wang et al. 2004, valid windows",
    ),
    Protocol(
        "instructir",
        colour="rgb",
        crop_multiple=16,
        quantise=False,
        clamp=False,
        data_range=1,
        source="github.com/mv-lab/InstructIR test.py: PSNR of floats that are not clamped, SSIM of pytorch_msssim, both on "
        "RGB; its second, luma score feeds RGB into weights meant for BGR and is not offered here",
    ),
)

PROTOCOLS: dict[str, Protocol] = {row.name: row for row in _ROWS}


def get_protocol(name: str | Protocol) -> Protocol:
    """Return the protocol of that name; a Protocol is returned unchanged.

    Raises:
        UserError: No such protocol; the nearest name is given.
    """
    if isinstance(name, Protocol):
        return name
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def chosen_protocol(given: str | None, own: str) -> str:
    """Return the name of the protocol for a dataset.

    MoCE-IR's loader crops all of its sets but CDD-11, so that `moceir` becomes `moceir-cdd11` there.

    Args:
        given: Name that the user gave; None: the dataset's own protocol.
        own: The dataset's own protocol; CDD-11's is `onerestore`.
    """
    return "moceir-cdd11" if given == "moceir" and own == "onerestore" else given or own


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for a name that does not exist, with the nearest name and all names."""
    names = list(known)
    return UserError(f"unknown {kind} {name!r}: {did_you_mean(name, names)}Known: {', '.join(names)}")
