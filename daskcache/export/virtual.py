"""A commit of virtual references in an Icechunk repository."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any
from urllib.parse import quote, urlsplit

from zarr.buffer import default_buffer_prototype

from daskcache import stores
from daskcache.errors import InvalidInputError, MissingExtraError, NotStoredError
from daskcache.export.copy import read_reference
from daskcache.locations import Location, parse_root
from daskcache.manifest import Manifest, Reference, StoredVariable, documents_of, iterate_references
from daskcache.stores.sync import wait_for

try:
    import icechunk
except ImportError as error:
    raise MissingExtraError(
        "Icechunk needs a package that is not installed; install daskcache[icechunk]"
    ) from error

__all__ = ["commit_references"]

_BATCH = 20_000


def commit_references(manifest: Manifest, root: str, path: str) -> None:
    """Make a repository whose only commit refers to the blocks of a version.

    Parameters
    ----------
    manifest : Manifest
        What is stored.
    root : str
        The pool that holds its blocks.
    path : str
        Where the repository goes.

    Raises
    ------
    NotStoredError
        A block is missing.
    InvalidInputError
        Icechunk cannot read the pool.
    """
    prefix, container = _container(root)
    config = icechunk.RepositoryConfig.default()
    config.set_virtual_chunk_container(container)
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(path), config)
    repository.save_config()
    session = repository.writable_session("main")
    for where, document in documents_of(manifest).items():
        plain = {name: value for name, value in document.items() if name != "consolidated_metadata"}
        _put(session.store, f"{where}/zarr.json" if where else "zarr.json", json.dumps(plain).encode("ascii"))
    for variable in manifest.variables:
        _refer(session.store, variable, root, prefix)
    session.commit(f"daskcache {manifest.version}")


def _container(root: str) -> tuple[str, Any]:
    path = stores.describe(root)
    if stores.is_spread(root):
        raise InvalidInputError(
            f"Icechunk reads the blocks of one place, and those of {path} are spread over several; export to another format, "
            "or copy the entry to one place first: daskcache.copy"
        )
    if "://" not in path:
        prefix = f"file://{quote(path.rstrip('/'))}/"
        return prefix, icechunk.VirtualChunkContainer(prefix, icechunk.local_filesystem_store(path))
    scheme, bucket = urlsplit(path)[:2]
    prefix = f"{scheme}://{bucket}/"
    if scheme in ("s3", "s3a"):
        prefix = f"s3://{bucket}/"
        return f"s3{path[len(scheme) :].rstrip('/')}/", icechunk.VirtualChunkContainer(
            prefix, icechunk.s3_store(**_s3_options(root))
        )
    if scheme in ("gs", "gcs"):
        prefix = f"gs://{bucket}/"
        return f"gs{path[len(scheme) :].rstrip('/')}/", icechunk.VirtualChunkContainer(
            prefix, icechunk.gcs_store()
        )
    raise InvalidInputError(f"Icechunk does not read {path}; expected a path, s3:// or gs://")


def _s3_options(root: str) -> dict[str, Any]:
    """Give what readers have to know of a server that is not Amazon's; credentials are their own."""
    found = parse_root(root)
    options = found.options if isinstance(found, Location) else {}
    client = options.get("client_kwargs", {})
    endpoint = options.get("endpoint_url") or client.get("endpoint_url")
    given = {"region": client.get("region_name"), "anonymous": options.get("anon", False)}
    if endpoint is not None:
        given |= {
            "endpoint_url": endpoint,
            "allow_http": endpoint.startswith("http:"),
            "force_path_style": True,
        }
        given["s3_compatible"] = True
    return given


def _refer(store: Any, variable: StoredVariable, root: str, prefix: str) -> None:
    for part in _batches(_sized(variable, root)):
        specs = []
        for reference, size in part:
            if reference.object is None:
                _put(store, reference.key, read_reference(stores.open(root), reference))
                continue
            index = reference.key[len(variable.path) + 2 :].split("/")
            specs.append(
                icechunk.VirtualChunkSpec(
                    [int(place) for place in index if place],
                    f"{prefix}{reference.object}",
                    reference.offset,
                    size,
                )
            )
        refused = store.set_virtual_refs(f"/{variable.path}", specs) if specs else None
        if refused:
            raise InvalidInputError(
                f"Icechunk refused {len(refused)} references of variable {variable.path!r}"
            )


def _sized(variable: StoredVariable, root: str) -> Iterator[tuple[Reference, int]]:
    """Give each chunk and its size; those of whole objects from the manifest, or from the store."""
    sizes = iter(variable.sizes[variable.sizes > 0].tolist()) if variable.sizes.all() else None
    for reference in iterate_references(variable):
        if reference.size_bytes is not None or reference.object is None:
            yield reference, reference.size_bytes or 0
            continue
        size = next(sizes) if sizes is not None else stores.size(stores.open(root), reference.object)
        if size is None:
            raise NotStoredError(
                f"{reference.object} is not in store {stores.describe(root)}; persist the entry again"
            )
        yield reference, size


def _batches(items: Iterator[Any]) -> Iterator[list[Any]]:
    while part := list(islice(items, _BATCH)):
        yield part


def _put(store: Any, key: str, data: bytes) -> None:
    wait_for(store.set(key, default_buffer_prototype().buffer.from_bytes(data)))
