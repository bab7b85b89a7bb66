"""A start for the tiny VAE: its encoder begins as principal components of image patches.

Axis letters: B batch, H/W pixels, p pixel-unshuffle factor, K kept components, C latent channels.
Not in the paper. Why: found by gradients from a random start, the 16 components that matter most take thousands of steps,
since brightness is ten times their size; found by a singular value decomposition they take a second (docs/history/tiny-model.md).
"""

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from unildiff.core.encoders import unshuffle_factor

CONSTANT = 3.0
"""Size of the two constant channels in each group of the encoder's last norm: large beside the components' spread of about
one, so that the norm divides every image by nearly the same number and keeps absolute brightness."""


@torch.no_grad()
def start_from_patches(vae: AutoencoderKL, images: Tensor) -> None:
    """Set the VAE's weights so that its latents are principal components of patches; residual branches start at zero.

    A component is divided by the square root of its spread: between raw, where only brightness would count for the
    diffusion, and whitened, where the finest detail would count as much as brightness (our choice).

    Args:
        vae: with one halving of resolution: two blocks of different widths, the first no narrower than the packed image,
            and no attention; changed in place.
        images: (B, 3, H, W) in [-1, 1], sides multiples of 2 p, of enough different patches.

    Raises:
        ValueError: the VAE has another structure, or the images have fewer components than are kept.
    """
    encoder = vae.encoder
    inputs, norm = int(vae.config.in_channels), encoder.conv_norm_out
    widths = tuple(vae.config.block_out_channels)
    attends = any(layer is not None for layer in encoder.mid_block.attentions)
    if len(widths) != 2 or widths[0] < inputs or widths[0] == widths[1] or attends:
        raise ValueError(
            f"a start from patches needs two blocks of different widths, the first with {inputs} channels or more, and no "
            f"attention; this VAE has {widths}" + (" and attention" if attends else "")
        )
    for name, module in vae.named_modules():
        if name.endswith("conv2"):
            _zero(module)
    size = norm.num_channels // norm.num_groups
    pairs = [group + 2 * pair for group in range(0, norm.num_channels, size) for pair in range(1, size // 2)]
    latents = int(vae.config.latent_channels)
    kept = min(len(pairs), int(vae.config.block_out_channels[0]))
    components, offset = _components(images, unshuffle_factor(vae), kept)

    _zero(encoder.conv_in, inputs)
    encoder.conv_in.weight[range(inputs), range(inputs), 1, 1] = 1
    down = encoder.down_blocks[0].downsamplers[0].conv  # pads right and below: taps 0 and 1 cover a cell of 2x2
    _zero(down, kept)
    down.weight[:kept, :inputs, :2, :2] = components.reshape(kept, inputs, 2, 2)
    down.bias[:kept] = offset
    widen = encoder.down_blocks[1].resnets[0].conv_shortcut
    for layer in (widen, encoder.conv_out, vae.quant_conv, vae.post_quant_conv):
        _zero(layer, latents if layer is vae.quant_conv else None)
    for group in range(0, norm.num_channels, size):
        widen.bias[group], widen.bias[group + 1] = CONSTANT, -CONSTANT
    norm.weight.fill_(CONSTANT * (2 / size) ** 0.5)  # takes the norm's division back
    for index, channel in enumerate(pairs[:kept]):
        widen.weight[channel, index], widen.weight[channel + 1, index] = 1, -1
        if index < latents:  # silu(x) - silu(-x) = x
            encoder.conv_out.weight[index, channel, 1, 1], encoder.conv_out.weight[index, channel + 1, 1, 1] = 1, -1
    for layer in (vae.quant_conv, vae.post_quant_conv):
        layer.weight[range(latents), range(latents), 0, 0] = 1


def _zero(layer: nn.Module, rows: int | None = None) -> None:
    layer.weight[:rows] = 0  # type: ignore[operator]
    layer.bias[:rows] = 0  # type: ignore[operator]


def _components(images: Tensor, factor: int, kept: int) -> tuple[Tensor, Tensor]:
    """Return K components (K, 12 p^2) of patches of 2p x 2p pixels, scaled to a mean square of one, and their offsets."""
    cells = F.pixel_unshuffle(F.pixel_unshuffle(images.double(), factor), 2)
    patches = cells.permute(0, 2, 3, 1).flatten(0, 2)
    mean = patches.mean(dim=0)
    _, values, vectors = torch.linalg.svd(patches - mean, full_matrices=False)
    spread = (values / len(patches) ** 0.5)[:kept]
    if len(spread) < kept or spread[-1] < 1e-6:
        found = int((spread > 1e-6).sum())
        raise ValueError(
            f"the patches of the images have {found} components, but {kept} are needed; use more, or more varied, images"
        )
    components = vectors[:kept] / spread.sqrt()[:, None] / spread.mean().sqrt()
    return components.float(), -(components @ mean).float()
