"""`python -m genmodels`, which is what torchrun starts."""

import sys

from genmodels.cli import main

if __name__ == "__main__":
    sys.exit(main())
