"""Under-display cameras: T-OLED and P-OLED, zero-shot test and optional training."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from unildiff.data.catalogue import POLED, TOLED
from unildiff.data.images import read_rgb
from unildiff.data.layouts import PictureSet
from unildiff.data.paired import PairedDataModule
from unildiff.data.pairs import Split
from unildiff.data.raw import Bayer, demosaic, mosaic, raw_to_rgb, read_raw
from unildiff.errors import UserError

_DISPLAYS = {"toled": TOLED, "poled": POLED}


class UDCDataModule(PairedDataModule):
    """300 DIV2K scenes behind each display, 1024x2048: 240 to train on, 30 for validation, 30 to test on, as reported.

    Read as ``{Poled,Toled}_{train,val,test}/{LQ,HQ}`` or as the UniLDiff authors keep it (``TOLED_test`` + ``TOLED_GT``,
    ``POLED/poled_images`` + ``POLED/test_GT``). 8-bit RGB by default. With ``format: raw`` the files are 16-bit mosaics
    (PNG, TIFF, npy or mat), for which the Bayer pattern must be given: no file says which it is, and a wrong one swaps
    colours without a word. The public test split came without truths: restore it with ``--data folder``.
    """

    dataset: ClassVar[str] = "udc"

    def __init__(
        self,
        displays: list[str] | None = None,
        format: Literal["rgb", "raw"] = "rgb",
        bayer: Bayer | None = None,
        white_level: int = 65535,
        through_raw: bool = False,
        **kwargs: Any,
    ) -> None:
        """Choose displays and file format.

        Args:
            displays: "toled", "poled" or both (default).
            format: what the files hold.
            bayer: RGGB, BGGR, GRBG or GBRG; required for ``format: raw`` and ``through_raw``.
            white_level: the RAW value that becomes 255.
            through_raw: take 8-bit RGB through an 8-bit mosaic and back (the supplement's step from linear RGB to RAW).
            kwargs: see :class:`PairedDataModule`.
        """
        super().__init__(**kwargs)
        self.displays = displays or list(_DISPLAYS)
        if unknown := [name for name in self.displays if name not in _DISPLAYS]:
            raise UserError(f"displays: no {', '.join(unknown)}; choose from {', '.join(_DISPLAYS)}")
        if (format == "raw" or through_raw) and bayer is None:
            raise UserError("udc: RAW needs --data.bayer RGGB, BGGR, GRBG or GBRG; it is never guessed")
        if bayer is not None and format == "raw":
            self.reader = partial(_developed, pattern=bayer, white=white_level)
        elif bayer is not None and through_raw:
            self.reader = partial(_through_raw, pattern=bayer)

    def pictures(self, split: Split) -> Sequence[PictureSet]:
        """Return the displays asked for."""
        return [_DISPLAYS[name] for name in self.displays]


def _developed(path: Path, pattern: Bayer, white: int) -> np.ndarray:
    return raw_to_rgb(read_raw(path), pattern, white)


def _through_raw(path: Path, pattern: Bayer) -> np.ndarray:
    return demosaic(mosaic(read_rgb(path), pattern), pattern)
