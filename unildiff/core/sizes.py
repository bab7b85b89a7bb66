"""Sizes of the base model: ``tiny`` (trained from scratch here) and ``sdxl`` (SDXL base 1.0), as diffusers configs.

The same classes serve both; only these numbers differ. Sources: the ``sdxl`` entries are the published configs of SDXL
base 1.0 (U-Net 2,567,463,684 parameters, VAE 83,653,863; a test counts both on the meta device). The ``tiny`` entries
are our choice, measured on 2 CPU cores (docs/history/tiny-model.md): the VAE sees images through a 4x4 pixel unshuffle
(48 channels), since convolutions at high resolution cost most on a CPU.
"""

from typing import Any

TINY: dict[str, dict[str, Any]] = {
    "vae": {
        "in_channels": 48,
        "out_channels": 48,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (64, 96),
        "layers_per_block": 1,
        "latent_channels": 16,
        "norm_num_groups": 8,
        "mid_block_add_attention": False,
        "sample_size": 64,
        "scaling_factor": 1.0,
    },
    "unet": {
        "sample_size": 16,
        "in_channels": 16,
        "out_channels": 16,
        "down_block_types": ("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        "block_out_channels": (64, 96, 112),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "cross_attention_dim": 64,
        "attention_head_dim": 4,
        "transformer_layers_per_block": 1,
        "use_linear_projection": True,
    },
    # The last timestep is pure noise: with SDXL's schedule brightness is still visible in it (signal 0.068 of 1, averaged
    # over all latents), and the model copied that of the degraded image (docs/history/tiny-model.md). For pure noise epsilon says
    # nothing and v is the image itself.
    "scheduler": {
        "num_train_timesteps": 1000,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    },
    "text_encoder": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "max_position_embeddings": 24,
        "projection_dim": 64,
        "hidden_act": "quick_gelu",
    },
}

SDXL: dict[str, dict[str, Any]] = {
    "vae": {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": 4,
        "norm_num_groups": 32,
        "sample_size": 1024,
        "scaling_factor": 0.13025,
        "force_upcast": False,  # the fp16-safe variant of the VAE
    },
    "unet": {
        "sample_size": 128,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (320, 640, 1280),
        "layers_per_block": 2,
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "scheduler": {
        "num_train_timesteps": 1000,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "prediction_type": "epsilon",
        "timestep_spacing": "leading",
        "steps_offset": 1,
    },
    "text_encoder": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "max_position_embeddings": 77,
        "projection_dim": 768,
        "hidden_act": "quick_gelu",
        "vocab_size": 49408,
    },
    "text_encoder_2": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_attention_heads": 20,
        "num_hidden_layers": 32,
        "max_position_embeddings": 77,
        "projection_dim": 1280,
        "hidden_act": "gelu",
        "vocab_size": 49408,
    },
}
