"""Inspect a trained model: gates, experts, sweeps of the sampler's settings, and figures of them."""
