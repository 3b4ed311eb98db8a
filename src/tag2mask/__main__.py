"""python -m tag2mask: the command line."""

import sys

from tag2mask.cli import main

if __name__ == "__main__":
    sys.exit(main())
