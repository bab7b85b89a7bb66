"""A package of its own: torch-fidelity (extra iqa) installs another one of this name, which would hide ours."""
