"""A bucket that answers each request after 10 ms: ``python bucket.py DIRECTORY ROOT``.

It lists, page by page as S3 does, the keys that the files of a directory name: of the file ``chunks/00ff`` each line
is an object below that prefix, of 4,096 bytes, of which the head can be had. It holds nothing else, and says so (404); the
port is printed. ``GET /requests`` tells, at once, how many requests came since it was asked last.
"""

from __future__ import annotations

import sys
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

LATENCY_S = 0.010
PAGE = 1000
_ENTRY = (
    "<Contents><Key>{}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;0&quot;</ETag>"
    "<Size>4096</Size><StorageClass>STANDARD</StorageClass></Contents>"
)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    names: ClassVar[dict[str, list[str]]] = {}
    entries: ClassVar[dict[str, list[str]]] = {}
    requests: ClassVar[Iterator[int]] = count()

    def setup(self) -> None:
        super().setup()
        # Else a small answer waits 40 ms for the acknowledgement of its head.
        self.request.setsockopt(6, 1, True)

    def do_HEAD(self) -> None:
        time.sleep(LATENCY_S)
        next(self.requests)
        _, _, group, name = urlsplit(self.path).path.strip("/").rsplit("/", 3)
        names = self.names.get(f"chunks/{group}", [])
        place = bisect_left(names, name)
        self.send_response(200 if place < len(names) and names[place] == name else 404)
        self.send_header("Content-Length", "4096")
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("ETag", '"0"')
        self.end_headers()

    def do_GET(self) -> None:
        if self.path == "/requests":
            self._answer(200, str(next(self.requests)))
            type(self).requests = count()
            return
        time.sleep(LATENCY_S)
        next(self.requests)
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        if "list-type" not in query:
            self._answer(404, "<Error><Code>NoSuchKey</Code><Message>there is none</Message></Error>")
            return
        prefix = query.get("prefix", "")
        listed = prefix.rstrip("/").partition("/")[2]
        names = self.names.get(listed, [])
        after = query.get("continuation-token") or query.get("start-after", "")
        start = bisect_right(names, after.removeprefix(prefix)) if after else 0
        more = start + PAGE < len(names)
        token = (
            f"<NextContinuationToken>{prefix}{names[start + PAGE - 1]}</NextContinuationToken>"
            if more
            else ""
        )
        page = self.entries.get(listed, [])[start : start + PAGE]
        self._answer(
            200,
            f"<ListBucketResult><Name>b</Name><Prefix>{prefix}</Prefix><KeyCount>{len(page)}</KeyCount>"
            f"<MaxKeys>{PAGE}</MaxKeys><IsTruncated>{str(more).lower()}</IsTruncated>{token}{''.join(page)}"
            "</ListBucketResult>",
        )

    def _answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Keep quiet."""


def main(directory: Path, root: str) -> None:
    """Serve until killed."""
    for path in sorted(directory.glob("chunks/*")):
        names = sorted(path.read_text().split())
        _Handler.names[f"chunks/{path.name}"] = names
        # Made once: what is measured is who asks.
        _Handler.entries[f"chunks/{path.name}"] = [
            _ENTRY.format(f"{root}/chunks/{path.name}/{name}") for name in names
        ]
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
