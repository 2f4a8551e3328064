"""Ends the local stack when its supervisor is gone, whatever took it: `python -I -S guard.py DIRECTORY`.

The guard leads the process group in which every child lives, and reads a pipe whose other end only the
supervisor holds. The end of the pipe means that the supervisor died: then the group gets SIGTERM, a moment,
SIGKILL, and the stack's temporary directory is removed. It imports next to nothing, because it only waits.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time

GRACE_S = 2.0
"""How long orphans may take to end by themselves."""


def main(directory: str) -> None:
    """Waits for the supervisor's end."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE_S)
    shutil.rmtree(directory, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1])
