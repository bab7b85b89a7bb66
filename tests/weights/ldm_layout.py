"""Writes a base as one file in the layout in which Stability AI published SDXL, to test reading it."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from unildiff.core.base import Base

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def write_single_file(base: Base, path: Path) -> None:
    weights = {f"model.diffusion_model.{unet_name(base, k)}": v for k, v in base.unet.state_dict().items()}
    for name, value in base.vae.state_dict().items():
        renamed = vae_name(name, len(base.vae.config.block_out_channels))
        linear = ".attn_1." in renamed and value.dim() == 2  # the published VAE's attention is made of 1x1 convolutions
        weights[f"first_stage_model.{renamed}"] = value[:, :, None, None] if linear else value
    first, second = base.text.encoders
    for name, value in first.state_dict().items():
        bare = name.removeprefix("text_model.")
        weights[f"conditioner.embedders.0.transformer.text_model.{bare}"] = value
    weights |= {f"conditioner.embedders.1.model.{k}": v for k, v in open_clip(second.state_dict()).items()}
    save_file({name: value.contiguous() for name, value in weights.items()}, path)


def unet_name(base: Base, name: str) -> str:
    layers = int(base.unet.config.layers_per_block)
    for ours, theirs in (("conv_in.", "input_blocks.0.0."), ("conv_norm_out.", "out.0."), ("conv_out.", "out.2.")):
        name = theirs + name.removeprefix(ours) if name.startswith(ours) else name
    for kind, theirs in (("time_embedding", "time_embed."), ("add_embedding", "label_emb.0.")):
        name = name.replace(f"{kind}.linear_1", f"{theirs}0").replace(f"{kind}.linear_2", f"{theirs}2")
    part, *rest = name.split(".")
    if part not in ("down_blocks", "up_blocks", "mid_block"):
        return name
    if part == "mid_block":
        kind, number, *rest = rest
        place = f"middle_block.{1 if kind == 'attentions' else 2 * int(number)}"
    else:
        block, kind, number, *rest = rest
        if kind == "downsamplers":
            return f"input_blocks.{(int(block) + 1) * (layers + 1)}.0.op.{rest[-1]}"
        if kind == "upsamplers":
            after = 1 if base.unet.config.up_block_types[int(block)] == "UpBlock2D" else 2
            return f"output_blocks.{int(block) * (layers + 1) + layers}.{after}.conv.{rest[-1]}"
        first = 1 + int(block) * (layers + 1) if part == "down_blocks" else int(block) * (layers + 1)
        place = (
            f"{'input' if part == 'down_blocks' else 'output'}_blocks.{first + int(number)}.{kind == 'attentions':d}"
        )
    if kind == "resnets":
        rest[0] = RESNET[rest[0]]
    return ".".join([place, *rest])


def vae_name(name: str, levels: int) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    for number in range(levels):
        name = name.replace(f"down_blocks.{number}.resnets", f"down.{number}.block")
        name = name.replace(f"down_blocks.{number}.downsamplers.0", f"down.{number}.downsample")
        name = name.replace(f"up_blocks.{number}.resnets", f"up.{levels - 1 - number}.block")
        name = name.replace(f"up_blocks.{number}.upsamplers.0", f"up.{levels - 1 - number}.upsample")
    name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
    for ours, theirs in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
        name = name.replace(f"attn_1.{ours}", f"attn_1.{theirs}")
    return name


def open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {name.removeprefix("text_model."): value for name, value in state.items()}
    out = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "text_projection": state["text_projection.weight"].T,
        "logit_scale": torch.ones(()),
    }
    for name, value in state.items():
        if not name.startswith("encoder.layers."):
            continue
        _, _, layer, *rest = name.split(".")
        place, tail = f"transformer.resblocks.{layer}", ".".join(rest)
        for ours, theirs in (
            ("layer_norm1", "ln_1"),
            ("layer_norm2", "ln_2"),
            ("mlp.fc1", "mlp.c_fc"),
            ("mlp.fc2", "mlp.c_proj"),
            ("self_attn.out_proj", "attn.out_proj"),
        ):
            if tail.startswith(ours):
                out[f"{place}.{theirs}{tail.removeprefix(ours)}"] = value
    layers = {int(name.split(".")[2]) for name in state if name.startswith("encoder.layers.")}
    for layer in layers:
        for kind in ("weight", "bias"):
            parts = [state[f"encoder.layers.{layer}.self_attn.{x}_proj.{kind}"] for x in "qkv"]
            out[f"transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(parts)
    return out
