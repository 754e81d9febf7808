"""Transfer: what is stored, kept up to date elsewhere, as plain Zarr or as entries of another store."""

from daskcache.transfer.published import Published, PublishedArray, publish, publish_object

__all__ = ["Published", "PublishedArray", "publish", "publish_object"]
