"""Listings of web servers: nginx's autoindex in JSON, and pages of links as nginx, Apache and Python make them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from html.parser import HTMLParser
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

__all__ = ["Entry", "parse_index"]

_TITLE = re.compile(r"\s*(?:Index of|Directory listing for)\b")
# nginx: time and size; one such as 5K is rounded, and tells none.
_DETAILS = re.compile(r"\s*(\d{2}-\w{3}-\d{4} \d{2}:\d{2})\s+(\S+)\s*\Z")


class Entry(NamedTuple):
    """What a listing tells of one name."""

    name: str
    """The last segment."""
    is_dir: bool
    """Whether it is a directory."""
    size: int | None = None
    """Bytes; None where the listing does not tell."""
    written: float | None = None
    """When it was written, in seconds since 1970; None where the listing does not tell."""


def parse_index(data: bytes, content_type: str) -> list[Entry] | None:
    """Read a listing.

    Parameters
    ----------
    data : bytes
        The page.
    content_type : str
        What the server calls it.

    Returns
    -------
    list of Entry or None
        None where it is another page.

    Examples
    --------
    >>> parse_index(b'[{"name": "c", "type": "file", "size": 3}]', "application/json")
    [Entry(name='c', is_dir=False, size=3, written=None)]
    >>> page = b'<title>Index of /</title><a href="a%20b/">a b/</a>'
    >>> parse_index(page, "text/html")
    [Entry(name='a b', is_dir=True, size=None, written=None)]
    """
    if content_type.partition(";")[0].strip() == "application/json":
        try:
            return [_from_json(item) for item in json.loads(data)]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
    page = _Page()
    page.feed(data.decode("utf-8", "replace"))
    page.close()
    return list(page.entries()) if _TITLE.match(page.title) else None


def _from_json(item: dict[str, str]) -> Entry:
    time = item.get("mtime")
    written = None if time is None else parsedate_to_datetime(time).timestamp()
    size = item.get("size")
    return Entry(str(item["name"]), item["type"] == "directory", None if size is None else int(size), written)


class _Page(HTMLParser):
    """The links of a page, and what stands behind each."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self._within = ""
        self._links: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._within = tag if tag in ("title", "a") else self._within
        if tag == "a":
            self._links.append([dict(attrs).get("href") or "", ""])

    def handle_endtag(self, tag: str) -> None:
        self._within = "" if tag == self._within else self._within

    def handle_data(self, data: str) -> None:
        if self._within == "title":
            self.title += data
        elif self._within != "a" and self._links:
            self._links[-1][1] += data

    def entries(self) -> Iterator[Entry]:
        for link, behind in self._links:
            parts = urlsplit(link)
            # A name with a colon is linked as ./a:b, and else is a link to somewhere else, as is one with a path.
            name = unquote(parts.path.removeprefix("./").removesuffix("/"))
            if (
                parts.scheme
                or parts.netloc
                or parts.query
                or not name
                or name == ".."
                or link.startswith("/")
            ):
                continue
            if "/" in parts.path.removeprefix("./").removesuffix("/"):
                continue
            found = _DETAILS.match(behind)
            written = found and datetime.strptime(found[1], "%d-%b-%Y %H:%M").replace(tzinfo=UTC).timestamp()
            size = int(found[2]) if found and found[2].isdecimal() else None
            yield Entry(name, parts.path.endswith("/"), size, written)
