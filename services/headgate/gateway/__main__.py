"""`python -m headgate.gateway`: serves `RouterService` until SIGTERM."""

import gc
import os
import sys

# Imports make many objects and no garbage: the collector, a tenth of them, waits until the process serves.
gc.disable()

from headgate.adapters import diagnosis  # noqa: E402
from headgate.gateway import process  # noqa: E402

if __name__ == "__main__":
    diagnosis.prepare()
    sys.exit(process.main(sys.argv[1:], os.environ))  # noqa: TID251
