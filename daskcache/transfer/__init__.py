"""Transfer: what is stored, kept up to date elsewhere, as plain Zarr or as entries of another store."""

from daskcache.transfer.copies import Copied, copy, mirror
from daskcache.transfer.published import Published, PublishedArray, publish, publish_object

__all__ = ["Copied", "Published", "PublishedArray", "copy", "mirror", "publish", "publish_object"]
