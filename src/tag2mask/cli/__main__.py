"""`python -m tag2mask.cli`."""

import sys

from tag2mask.cli import main

if __name__ == "__main__":  # worker processes import this file again
    sys.exit(main())
