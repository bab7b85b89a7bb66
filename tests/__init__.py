"""Makes this folder a package: torch-fidelity (extra iqa) installs another package named tests, which would hide it."""
