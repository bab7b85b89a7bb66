"""``python -m unildiff`` is ``unildiff``."""

import sys

from unildiff.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
