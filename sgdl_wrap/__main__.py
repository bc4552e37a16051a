"""``python -m sgdl_wrap`` is the command ``sgdl-wrap``."""

import sys

from sgdl_wrap.command.cli import main

if __name__ == "__main__":
    sys.exit(main())
