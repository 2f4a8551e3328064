"""`python -m headgate.worker --model NAME`: serves one model of the pool until SIGTERM."""

import os
import sys

try:
    from headgate.adapters import unreported  # isort: skip  # noqa: F401
    from headgate.adapters import diagnosis
    from headgate.worker import process
except ModuleNotFoundError as missing:
    if (missing.name or "").partition(".")[0] == "headgate":
        raise
    sys.exit(f'headgate worker: {missing.name} is not installed; pip install "headgate[server,cpu]"')

if __name__ == "__main__":
    diagnosis.prepare()
    sys.exit(process.main(sys.argv[1:], os.environ))  # noqa: TID251
