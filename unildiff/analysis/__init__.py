"""What happens inside a trained model: gates, experts, sweeps and the figures drawn from them."""
