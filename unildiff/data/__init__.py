"""Shared data machinery: reading, pairing, sampling, keys."""
