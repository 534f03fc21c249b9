"""`python -m trtpipe` and the command `trtpipe`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    from trtpipe import cli

    sys.exit(cli.main(sys.argv[1:]))


if __name__ == "__main__":
    main()
