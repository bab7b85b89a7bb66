"""Everything that reads or writes weights: base models, LoRA, checkpoints, exported folders, the diffusers pipeline."""
