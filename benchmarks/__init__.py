"""Measurements against peers and limits; `make bench` runs them all (see README.md here)."""
