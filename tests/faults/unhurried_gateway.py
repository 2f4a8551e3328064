"""A gateway that takes its time to look for a like question: `python -m tests.faults.unhurried_gateway …`.

The arguments are those of `python -m headgate.gateway`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any, Final

from headgate.gateway import process
from headgate.gateway.like_questions import LikeQuestions

LOOKS_S: Final = 2.0

_find = LikeQuestions.find


async def _unhurried(self: LikeQuestions, *arguments: Any) -> Any:
    await asyncio.sleep(LOOKS_S)
    return await _find(self, *arguments)


if __name__ == "__main__":
    LikeQuestions.find = _unhurried  # type: ignore[method-assign]
    sys.exit(process.main(sys.argv[1:], os.environ))
