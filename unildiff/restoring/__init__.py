"""Restoring files: which, in what order, by which settings, and what became of them. Only ``run`` and ``ray`` load torch."""
