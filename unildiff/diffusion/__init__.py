"""Plain-torch diffusion: schedule, loss, sampler, keyed noise."""
