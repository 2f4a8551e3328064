"""`asker.py PAGE RATE SEED`: asks as the page's Python block does, again and again, until stdin ends.

Says of each request on stdout, a line of JSON: {"error": "" or what failed, "calls": how many it took}.
"""

from __future__ import annotations

import json
import random
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

PLACES = 64


def main(page: str, rate: str, seed: str) -> None:
    """Requests are due at random, whether or not those before have ended."""
    names: dict[str, Any] = {}
    block = re.search(r"^```python\n(.*?)^```", Path(page).read_text(), re.MULTILINE | re.DOTALL)
    assert block
    exec(block[1], names)  # noqa: S102
    client, calls, ended, saying = names["client"], threading.local(), threading.Event(), threading.Lock()

    class Counting:
        def generate(self, question: str) -> Any:
            calls.made += 1
            return client.generate(question)

    names["client"] = Counting()

    def one(number: int) -> None:
        calls.made, error = 0, ""
        try:
            names["ask"](f"{number} in words")
        except Exception as failed:
            error = f"{type(failed).__name__}: {failed}"
        with saying:
            print(json.dumps({"error": error, "calls": calls.made}), flush=True)

    def end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=end, daemon=True).start()
    draw = random.Random(seed)
    with ThreadPoolExecutor(PLACES) as pool:
        while not ended.wait(draw.expovariate(float(rate))):
            pool.submit(one, draw.randrange(100, 10_000))


if __name__ == "__main__":
    main(*sys.argv[1:])
