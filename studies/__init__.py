"""Studies of the shipped tiny model: validation, goals, rivals and ablation."""
