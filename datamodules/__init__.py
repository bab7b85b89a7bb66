"""Datasets, one file each: ``datamodules/cdd11.py`` holds ``CDD11DataModule``, whose short name is ``cdd11``.

Importing this package imports none of them.
"""

from unildiff.utils.datamodules import class_path as class_path
from unildiff.utils.datamodules import names as names
