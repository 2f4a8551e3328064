"""`forward.py HOST:PORT HOST:PORT`: publishes the second at the first, as engines do with a proxy."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress


async def main(listen: str, target: str) -> None:
    """For ever."""
    host, _, port = listen.partition(":")

    async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner, outer = await asyncio.open_connection(*target.split(":"))
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pumped(reader, outer), _pumped(inner, writer))

    server = await asyncio.start_server(joined, host, int(port))
    print("up", flush=True)
    await server.serve_forever()


async def _pumped(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    target.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
