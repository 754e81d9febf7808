"""The accessor ``.cache`` of Dataset, DataArray and DataTree."""

from __future__ import annotations

from typing import Any

import xarray as xr

from daskcache.explain import Explanation, explain
from daskcache.identity import token
from daskcache.lazy import checkpoint
from daskcache.persist import persist
from daskcache.status import Status, status
from daskcache.transfer import Published, publish_object

__all__ = ["CacheAccessor"]


class CacheAccessor:
    """Store, mark and identify an xarray object.

    Parameters
    ----------
    obj : xarray.Dataset, xarray.DataArray or xarray.DataTree
        The object.

    Examples
    --------
    >>> import dask.array as da, daskcache
    >>> ds = xr.Dataset({"t": ("x", da.arange(4, chunks=2) * 2)})
    >>> with daskcache.activate("memory://doc-accessor"):
    ...     kept = ds.cache.persist("doubled")
    ...     ds.cache.status().is_complete
    True
    >>> kept.t.values
    array([0, 2, 4, 6])
    """

    def __init__(self, obj: Any) -> None:
        self._obj = obj

    @property
    def token(self) -> str:
        """The identity of the object.

        Returns
        -------
        str
            40 hex digits; see `daskcache.token`.

        Examples
        --------
        >>> import dask.array as da
        >>> ds = xr.Dataset({"t": ("x", da.arange(4, chunks=2))})
        >>> ds.cache.token == (ds + 0).cache.token, len(ds.cache.token)
        (False, 40)
        """
        return token(self._obj)

    def persist(
        self,
        name: str | None = None,
        *,
        namespace: str | None = None,
        store: str | None = None,
        chunks: Any = None,
        hints: Any = None,
        wait: bool = True,
        expires: str | float | None = None,
    ) -> Any:
        """Store the object, computing what is missing, and give it back as it is stored.

        Parameters
        ----------
        name : str, optional
            The entry's name in the namespace; by default its version.
        namespace : str, optional
            Instead of the configured one.
        store : str, optional
            URL or path, instead of the configured one.
        chunks : optional
            Rechunk first.
        hints : Hints, str, tuple, mapping or list, optional
            How it will be read, such as ``"time"``; see `daskcache.Hints`.
        wait : bool, optional
            Whether to wait until all is stored; `daskcache.last_run` tells how far it is.
        expires : str or float, optional
            Such as ``"30d"``: when `daskcache.expire` drops it.

        Returns
        -------
        xarray.Dataset, xarray.DataArray or xarray.DataTree
            The same kind of object, lazy, read from the store; see `daskcache.persist`.

        Examples
        --------
        >>> import dask.array as da
        >>> ds = xr.Dataset({"t": ("x", da.arange(4, chunks=2))})
        >>> ds.cache.persist("numbers", store="memory://doc-accessor-persist").t.values
        array([0, 1, 2, 3])
        """
        return persist(
            self._obj,
            name,
            namespace=namespace,
            store=store,
            chunks=chunks,
            hints=hints,
            wait=wait,
            expires=expires,
        )

    def checkpoint(
        self,
        name: str | None = None,
        *,
        namespace: str | None = None,
        store: str | None = None,
        hints: Any = None,
        expires: str | float | None = None,
    ) -> Any:
        """Mark the object's blocks as worth storing: they are when they are first computed.

        Parameters
        ----------
        name : str, optional
            The entry's name in the namespace; by default its version.
        namespace : str, optional
            Instead of the configured one.
        store : str, optional
            URL or path, instead of the configured one.
        hints : Hints, str, tuple, mapping or list, optional
            How it will be read, such as ``"time"``; see `daskcache.Hints`.
        expires : str or float, optional
            Such as ``"30d"``: when `daskcache.expire` drops it.

        Returns
        -------
        xarray.Dataset, xarray.DataArray or xarray.DataTree
            The same values; see `daskcache.checkpoint`.

        Examples
        --------
        >>> import dask.array as da, daskcache
        >>> ds = xr.Dataset({"t": ("x", da.arange(4, chunks=2))})
        >>> with daskcache.activate("memory://doc-accessor-checkpoint"):
        ...     _ = ds.cache.checkpoint("numbers").mean().compute()
        ...     daskcache.open("numbers").t.values
        array([0, 1, 2, 3])
        """
        return checkpoint(self._obj, name, namespace=namespace, store=store, hints=hints, expires=expires)

    def publish(
        self,
        target: Any,
        *,
        namespace: str | None = None,
        store: str | None = None,
        overwrite: bool = False,
        dry_run: bool = False,
    ) -> Published:
        """Bring a plain Zarr store up to date with the entry that the object was opened from or persisted as.

        Parameters
        ----------
        target : str, path, mapping, sequence or zarr.abc.store.Store
            Where nothing is yet, or what was published before.
        namespace : str, optional
            The entry's, instead of the configured one.
        store : str, optional
            The entry's, instead of the configured one.
        overwrite : bool, optional
            Whether a Zarr store that is there is removed first, whoever wrote it.
        dry_run : bool, optional
            Only tell what would be written.

        Returns
        -------
        Published
            Blocks and bytes by array; see `daskcache.publish`.

        Examples
        --------
        >>> import dask.array as da
        >>> ds = xr.Dataset({"t": ("x", da.arange(4, chunks=2))})
        >>> kept = ds.cache.persist("numbers", store="memory://doc-accessor-publish")
        >>> kept.cache.publish("memory://doc-accessor-publish.zarr", store="memory://doc-accessor-publish").chunks
        2
        """
        return publish_object(
            self._obj, target, namespace=namespace, store=store, overwrite=overwrite, dry_run=dry_run
        )

    def status(self, *, store: str | None = None) -> Status:
        """Tell which blocks of the object are stored.

        Parameters
        ----------
        store : str, optional
            URL or path, instead of the configured one.

        Returns
        -------
        Status
            Counts and bytes for each variable; see `daskcache.status.status`.

        Examples
        --------
        >>> import dask.array as da
        >>> ds = xr.Dataset({"t": ("x", da.arange(4, chunks=2))})
        >>> _ = ds.isel(x=slice(2)).cache.persist(store="memory://doc-accessor-status")
        >>> ds.cache.status(store="memory://doc-accessor-status").is_complete
        False
        """
        return status(self._obj, store=store)

    def explain(
        self, name: str | None = None, *, namespace: str | None = None, store: str | None = None
    ) -> Explanation:
        """Tell why blocks of the object are not stored: what changed since it was stored last.

        Parameters
        ----------
        name : str, optional
            The entry to compare it with; by default the one that is most like it.
        namespace : str, optional
            Instead of the configured one.
        store : str, optional
            URL or path, instead of the configured one.

        Returns
        -------
        Explanation
            Each cause with the number of missing blocks that depend on it; see `daskcache.explain`.

        Examples
        --------
        >>> import dask.array as da
        >>> ds = xr.Dataset({"t": ("x", da.arange(4, chunks=2))})
        >>> _ = ds.clip(0, 1).cache.persist("clipped", store="memory://doc-accessor-explain")
        >>> ds.clip(0, 2).cache.explain("clipped", store="memory://doc-accessor-explain")
        2 of 2 blocks are not stored in memory://doc-accessor-explain, compared with default/clipped@...
          2: argument `a_max` of `numpy.clip` changed
        """
        return explain(self._obj, name, namespace=namespace, store=store)


def register() -> None:
    """Register the accessor; called once, when daskcache is imported."""
    registrations: tuple[Any, ...] = (
        xr.register_dataset_accessor,
        xr.register_dataarray_accessor,
        xr.register_datatree_accessor,
    )
    for registration in registrations:
        registration("cache")(CacheAccessor)
