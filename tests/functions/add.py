"""A class with cached methods."""

from __future__ import annotations

import daskcache


class Log(list):
    """What was called. Not part of what functions compute."""

    def __daskcache_fingerprint__(self) -> str:
        return "log"


log = Log()


class Adder:
    def __init__(self, start):
        self.start = start

    @daskcache.cache
    def plus(self, x):
        log.append("plus")
        return self.start + x

    @daskcache.cache(ignore=["self"])
    def shifted(self, x):
        log.append("shifted")
        return x

    @staticmethod
    @daskcache.cache
    def constant(x):
        log.append("constant")
        return x
