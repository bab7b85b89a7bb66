"""What a training run will need, worked out from shapes alone: no weights, no data, no GPU."""
