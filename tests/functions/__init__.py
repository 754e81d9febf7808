"""Cached functions that other processes import."""

from __future__ import annotations

import daskcache
from tests.functions import add

__all__ = ["add", "counted", "scale"]


@daskcache.cache
def counted(value):
    add.log.append("counted")
    return len(value)


@daskcache.cache
def scale(x, factor=2):
    add.log.append("scale")
    return factor * x
