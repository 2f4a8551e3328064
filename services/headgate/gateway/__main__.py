"""`python -m headgate.gateway`: serves `RouterService` until SIGTERM."""

import gc
import os
import sys

# Imports make many objects and no garbage: the collector, a tenth of them, waits until the process serves.
gc.disable()

try:
    from headgate.adapters import unreported  # isort: skip  # noqa: F401
    from headgate.adapters import diagnosis
    from headgate.gateway import process
except ModuleNotFoundError as missing:
    if (missing.name or "").partition(".")[0] == "headgate":
        raise
    sys.exit(f'headgate gateway: {missing.name} is not installed; pip install "headgate[server,cpu]"')

if __name__ == "__main__":
    diagnosis.prepare()
    sys.exit(process.main(sys.argv[1:], os.environ))  # noqa: TID251
