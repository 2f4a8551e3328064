"""`python -m headgate.jobs runner|reconciler`: runs jobs, or queues again what got lost, until SIGTERM."""

import os
import sys

try:
    from headgate.adapters import diagnosis
    from headgate.jobs import process
except ModuleNotFoundError as missing:
    if (missing.name or "").partition(".")[0] == "headgate":
        raise
    sys.exit(f'headgate jobs: {missing.name} is not installed; pip install "headgate[server,jobs]"')

if __name__ == "__main__":
    diagnosis.prepare()
    sys.exit(process.main(sys.argv[1:], os.environ))  # noqa: TID251
