"""Formats: how results that are no arrays are stored, by their type."""

from daskcache.formats import containers, plain, sweeping, tables  # noqa: F401  (importing them registers what they do)
from daskcache.formats.base import Encoded, Format, find_format, get_format, register
from daskcache.formats.entries import draft_value, read_value

__all__ = ["Encoded", "Format", "draft_value", "find_format", "get_format", "read_value", "register"]
