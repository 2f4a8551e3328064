"""The name server of a stack's networks: says to each who asks what it may know, as an engine's does.

Reads tables from stdin, one a line, as JSON: {asker's address: {name: [addresses]}}; ends with it. A name
that is in no network of the asker's does not exist.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Mapping, Sequence

Table = Mapping[str, Mapping[str, Sequence[str]]]
_HEAD, _A, _NO_SUCH_NAME, _TTL_S = 12, 1, 3, 0


def answered(query: bytes, known: Mapping[str, Sequence[str]]) -> bytes:
    """The answer to one query of RFC 1035; of kinds of records there are addresses of version 4."""
    end, labels = _HEAD, []
    while length := query[end]:
        labels.append(query[end + 1 : end + 1 + length].decode())
        end += 1 + length
    found = known.get(".".join(labels).lower())
    kind = int.from_bytes(query[end + 1 : end + 3], "big")
    addresses = found if found and kind == _A else ()
    flags = 0x8180 | (_NO_SUCH_NAME if found is None else 0)
    head = query[:2] + flags.to_bytes(2, "big") + b"\0\1" + len(addresses).to_bytes(2, "big") + bytes(4)
    record = b"\xc0\x0c\0\1\0\1" + _TTL_S.to_bytes(4, "big") + b"\0\4"
    return head + query[_HEAD : end + 5] + b"".join(record + socket.inet_aton(one) for one in addresses)


def main() -> None:
    """Until stdin ends."""
    table: dict[str, Table] = {"now": {}}

    def serve(asked: socket.socket) -> None:
        while True:
            query, asker = asked.recvfrom(4096)
            asked.sendto(answered(query, table["now"].get(asker[0], {})), asker)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.bind(("0.0.0.0", 53))
        threading.Thread(target=serve, args=(asked,), daemon=True).start()
        print("up", flush=True)
        for line in sys.stdin:
            table["now"] = json.loads(line)
            print("known", flush=True)


if __name__ == "__main__":
    main()
