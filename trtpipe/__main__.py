"""`python -m trtpipe` and the command `trtpipe`."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and exit with its code.

    The command has closed everything, so the interpreter's own shutdown is skipped. During that shutdown a signal would
    end the process by its default action, and Python would wait for threads that wait for a server.
    """
    try:
        from trtpipe import interrupts

        interrupts.handle()
        from trtpipe.cli import main

        code = main.main(sys.argv[1:])
        interrupts.over()
    except KeyboardInterrupt as interrupt:  # before the command began, or after it ended
        code = 128 + (interrupt.args or (2,))[0]
    os._exit(code)


if __name__ == "__main__":
    main()
