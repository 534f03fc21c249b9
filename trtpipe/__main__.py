"""`python -m trtpipe` and the command `trtpipe`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        from trtpipe.cli import main

        code = main.main(sys.argv[1:])
    except KeyboardInterrupt:  # before there was anything to tidy
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
