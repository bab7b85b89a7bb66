"""TIFF: samples as the tags describe them (photometric interpretation, bit depth, planes, alpha), TIFF 6.0.

Axis letters: H W pixels, C channels.
"""

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image, ImageOps

from unildiff.data.images.files import DECODER_FAULTS, check_pixels, decoder, open_pillow, unreadable, unsupported
from unildiff.data.images.stored import ORIENTATION, Metadata, StoredImage, divided_by_alpha, full_range

if TYPE_CHECKING:
    import tifffile

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _SEPARATED, _CFA, _LINEAR_RAW = 0, 1, 2, 5, 32803, 34892
_OWN = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _SEPARATED: 4}  # photometric -> colour samples
_ASSOCIATED, _UNASSOCIATED = 1, 2
_DNG_VERSION = 50706
_SAMPLE_FORMATS = {2: "signed integers", 3: "floating-point samples", 5: "complex integers", 6: "complex numbers"}
# Tags that describe the photograph and not how its samples are stored.
_DESCRIPTIVE = {270, 271, 272, 274, 282, 283, 296, 305, 306, 315, 316, 18246, 33432, 34665, 34853}
_DESCRIPTIVE |= set(range(40091, 40096))


def read_tiff(path: Path, file: BinaryIO) -> StoredImage:
    """Return the first image of a TIFF.

    Raises:
        UserError: it is of a kind without a known range (signed, floating-point, 32 bits), raw camera data, or too large.
    """
    with decoder("tifffile").TiffFile(file) as tiff:
        page = tiff.pages.first
        _refuse(path, page)
        metadata, orientation = _metadata(file, page), _orientation(page)
        bits = page.bitspersample
        colours = _OWN.get(int(page.photometric))
        if colours is None or not isinstance(bits, int) or page.jpegtables is not None or page.is_subsampled:
            return _through_pillow(path, file, metadata)
        samples = page.asarray(maxworkers=1)
        axes = page.axes
    if axes in ("SYX", "YX"):
        samples = samples[..., None] if axes == "YX" else np.moveaxis(samples, 0, -1)
    if samples.ndim != 3 or samples.shape[2] < colours:
        raise unreadable(path, f"axes {axes} of {samples.shape} are not an image")
    if samples.dtype == bool:
        bits = 1
        samples = samples.astype(np.uint8)
    samples = full_range(samples, 2**bits - 1)
    stored = StoredImage(samples[..., :colours], None, metadata, "TIFF", orientation)
    if page.photometric == _WHITE_IS_ZERO:
        stored.samples = np.iinfo(samples.dtype).max - stored.samples
    extra = [int(kind) for kind in page.extrasamples][: samples.shape[2] - colours]
    if (
        not page.extrasamples and page.photometric == _RGB and samples.shape[2] == 4
    ):  # OpenCV does not declare its alpha
        extra = [_UNASSOCIATED]
    for index, kind in enumerate(extra):
        if kind in (_ASSOCIATED, _UNASSOCIATED) and stored.alpha is None:
            stored.alpha = np.ascontiguousarray(samples[..., colours + index])
            if kind == _ASSOCIATED:
                stored.samples = divided_by_alpha(stored.samples, stored.alpha)
    if len(extra) > (stored.alpha is not None):
        stored.warnings.append("extra channels that are not alpha were left out")
    return stored


def tiff_size(path: Path, file: BinaryIO) -> tuple[int, int, int]:
    """Return (height, width, orientation) as stored, from the tags.

    Raises:
        UserError: see :func:`read_tiff`.
    """
    with decoder("tifffile").TiffFile(file) as tiff:
        page = tiff.pages.first
        _refuse(path, page)
        return page.imagelength, page.imagewidth, _orientation(page)


def _refuse(path: Path, page: "tifffile.TiffPage") -> None:
    check_pixels(path, page.imagewidth, page.imagelength)
    if page.photometric in (_CFA, _LINEAR_RAW) or _DNG_VERSION in page.tags:
        raise unsupported(path, "raw camera data (DNG); develop it first")
    if page.sampleformat in _SAMPLE_FORMATS:
        raise unsupported(path, f"{_SAMPLE_FORMATS[page.sampleformat]}, whose range is unknown")
    bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
    if bits > 16:
        raise unsupported(path, f"{bits}-bit samples, whose range is unknown")
    ink_set = page.tags.get(332)
    if page.photometric == _SEPARATED and (page.samplesperpixel < 4 or (ink_set and ink_set.value != 1)):
        raise unsupported(path, "inks other than CMYK")


def _orientation(page: "tifffile.TiffPage") -> int:
    tag = page.tags.get(ORIENTATION)
    return tag.value if tag is not None and isinstance(tag.value, int) and 1 <= tag.value <= 8 else 1


def _metadata(file: BinaryIO, page: "tifffile.TiffPage") -> Metadata:
    """Return profile, XMP and the descriptive tags: the file as a whole has the form of an EXIF block."""
    profile, xmp = page.tags.get(34675), page.tags.get(700)
    metadata = Metadata(bytes(profile.value) if profile else None, xmp=bytes(xmp.value) if xmp else None)
    try:
        file.seek(0)
        found = Image.Exif()
        found.load_from_fp(file)
        for tag in [tag for tag in found if tag not in _DESCRIPTIVE]:
            del found[tag]
        metadata.exif.load(found.tobytes())
    except DECODER_FAULTS:  # damaged tags never make an image unreadable
        metadata.exif = Image.Exif()
    return metadata


def _through_pillow(path: Path, file: BinaryIO, metadata: Metadata) -> StoredImage:
    """Return what libtiff makes of a palette, YCbCr or L*a*b* image as 8-bit RGB, rotated already."""
    file.seek(0)
    with open_pillow(path, file) as image:
        image.load()
        alpha = np.array(image.getchannel("A")) if "A" in image.getbands() else None
        return StoredImage(np.array(ImageOps.exif_transpose(image).convert("RGB")), alpha, metadata, "TIFF")
