"""`python -m recipes` is the command `polymath`."""

import sys

from recipes.cli import main

if __name__ == "__main__":
    sys.exit(main())
