"""Plain-torch core: degradation-aware fusion (DAFF), mixture of experts, detail experts (DAEM), encoders."""
