"""Importing this keeps ONNX Runtime from reporting its use to its maker, which it does from 1.32 on.

It has to come first: the library looks once, when it is loaded. Who sets `ORT_DISABLE_TELEMETRY=0` is heard.
"""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # noqa: TID251
