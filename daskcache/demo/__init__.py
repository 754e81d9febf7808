"""The main job on real data, to be watched: ``daskcache demo``."""

from daskcache.demo.runner import run

__all__ = ["run"]
