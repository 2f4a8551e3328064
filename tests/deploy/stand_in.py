"""`stand_in.py PROGRAM WORD…`: docker, kubectl or kind for who has no engine and no cluster.

The folder STAND_IN has `running.json`; it gets `told`, a line for each command that was good, `faults`, a
line for each that was not, and what was built and made.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.deploy.commands import FaultError, Words, World

USAGE = 64


def main(program: str, words: Sequence[str]) -> int:
    """One command; its exit code."""
    folder = Path(os.environ["STAND_IN"])
    told, name = " ".join([program, *words]), "told"
    try:
        if program == "docker":
            from tests.deploy.of_docker import docker as read
        else:
            from tests.deploy import of_kubectl

            read = getattr(of_kubectl, program)
        read(Words([*words], program), World(folder))
    except FaultError as fault:
        told, name = f"{told}: {fault}", "faults"
        print(fault, file=sys.stderr)
    with (folder / name).open("a") as kept:
        kept.write(f"{told}\n")
    return USAGE if name == "faults" else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
