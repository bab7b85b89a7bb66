"""Seeded degradations in numpy: the CDD-11 operators, masks, maps and their 11 combinations."""
