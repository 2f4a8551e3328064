"""`headgate`: imports nothing beyond the standard library until it knows that the extra is installed."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Runs the command line; returns 0, 1 for what went wrong, 2 for wrong usage, 130 after Ctrl-C."""
    try:
        from headgate.adapters import unreported  # isort: skip  # noqa: F401
        from headgate.cli.app import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "headgate":
            raise
        install = 'pip install "headgate[server,cpu,embedded]"'
        print(f"headgate: {error.name} is missing; run: {install}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return run(sys.argv[1:], os.environ)  # noqa: TID251


if __name__ == "__main__":
    sys.exit(main())
