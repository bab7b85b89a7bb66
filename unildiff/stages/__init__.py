"""Training stages: alignment, joint, joint_lora, decoder and pretrain; they share base, restoration and denoising."""
