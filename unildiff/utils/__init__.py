"""Errors, files, keyed randomness, parallel work: what every other package may import."""
