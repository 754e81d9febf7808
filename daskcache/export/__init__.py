"""Export: what is stored as a file or store of its own, which needs neither daskcache nor its pool."""

from daskcache.export.entries import FORMATS, export

__all__ = ["FORMATS", "export"]
