"""Images and reference implementations that the metric tests share; nothing here is imported from unildiff."""

import cv2
import numpy as np
import torch
from skimage import data


def tensor(image):
    """(H, W, 3) array to (1, 3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]


def degrade(image, seed=0):
    rng = np.random.default_rng(seed)
    blurred = cv2.GaussianBlur(image, (0, 0), 1.2)
    return np.clip(blurred + rng.normal(0, 8, image.shape), 0, 255).round().astype(np.uint8)


def pairs():
    """name -> (restored, truth), uint8 (H, W, 3): photographs, tiny, flat, identical and extreme images."""
    rng = np.random.default_rng(1)
    cat = data.chelsea()[60:181, 100:263]
    tiny = data.astronaut()[100:119, 200:221]  # 19x21: DA-CLIP's border of 4 leaves one row of windows
    checker = (np.indices((64, 80)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    halves = np.full((64, 80, 3), 155, np.uint8)
    halves[:, 40:] = 55
    return {
        "photograph": (degrade(cat), cat),
        "photograph, tall": (degrade(data.coffee()[100:283, 200:277], 2), data.coffee()[100:283, 200:277]),
        "one level off": (np.clip(cat.astype(int) + rng.integers(-1, 2, cat.shape), 0, 255).astype(np.uint8), cat),
        "tiny": (degrade(tiny, 3), tiny),
        "identical": (cat, cat),
        "flat, identical": (np.full((48, 48, 3), 255, np.uint8),) * 2,
        "flat, off by 3": (np.full((48, 48, 3), 200, np.uint8), np.full((48, 48, 3), 203, np.uint8)),
        "black and white": (np.zeros((48, 50, 3), np.uint8), np.full((48, 50, 3), 255, np.uint8)),
        "inverse checkers": (255 - checker, checker),
        "opposite halves": (halves, 210 - halves),  # locally flat, 100 levels apart: worst for cancellation
        "noise": (rng.integers(0, 256, (90, 70, 3), np.uint8), rng.integers(0, 256, (90, 70, 3), np.uint8)),
    }


PAIRS = pairs()


def centre_crop(image, multiple):
    height, width = image.shape[:2]
    rows, columns = height % multiple, width % multiple
    top, left = rows // 2, columns // 2
    return image[top : top + height - rows, left : left + width - columns]


def luma_bt601(image):
    """MATLAB's rgb2ycbcr, first channel, 16..235, not rounded."""
    return 16 + image.astype(np.float64) / 255 @ np.array([65.481, 128.553, 24.966])


def luma_yiq(image):
    """0..255, not rounded."""
    return image.astype(np.float64) @ np.array([0.299, 0.587, 0.114])


def luma_yiq_rounded(image):
    """Half to even, ties decided exactly (in thousandths)."""
    thousandths = image.astype(np.int64) @ np.array([299, 587, 114])
    whole, rest = np.divmod(thousandths, 1000)
    return whole + ((rest > 500) | ((rest == 500) & (whole % 2 == 1)))


def ssim_by_definition(x, y, edges="valid", clip=False):
    """Wang et al. 2004 on planes 0..255, written out: a 2-D Gaussian 11x11 window, weights sum to 1, L = 255."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    axis = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(axis, axis) / axis.sum() ** 2
    if edges == "replicate":
        x, y = (np.pad(z, 5, mode="edge") for z in (x, y))

    def weighted(z):
        return (np.lib.stride_tricks.sliding_window_view(z, (11, 11)) * window).sum((-1, -2))

    mx, my = weighted(x), weighted(y)
    vx, vy, cov = weighted(x * x) - mx**2, weighted(y * y) - my**2, weighted(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    structure = (2 * cov + c2) / (vx + vy + c2)
    if clip:
        structure = np.maximum(structure, 0)
    return ((2 * mx * my + c1) / (mx**2 + my**2 + c1) * structure).mean()


def psnr_by_definition(x, y, peak, epsilon=0.0):
    mse = np.mean((x.astype(np.float64) - y.astype(np.float64)) ** 2)
    return np.inf if mse + epsilon == 0 else 10 * np.log10(peak**2 / (mse + epsilon))
