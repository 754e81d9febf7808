"""Packs: what is stored without a name is listed by few documents, each read once by a process."""

import dask
import numpy as np
import pytest

import daskcache
from daskcache.catalog import Catalog, Listed, packs, put_pack
from daskcache.catalog.packs import list_packs
from daskcache.chunks import ChunkSpec
from daskcache.pool import StoredBlock
from tests import producers
from tests.producers import count, doubled

EXPECTED = np.arange(12) * 2


@pytest.fixture(autouse=True)
def calls(tmp_path, monkeypatch):
    directory = tmp_path / "calls"
    directory.mkdir()
    monkeypatch.setenv(producers.CALLS, str(directory))


def test_many_packs_become_few(store_root):
    root = str(store_root)
    spec = ChunkSpec.for_block("f4", (3,))
    scalar = ChunkSpec.for_block("f4", ())

    def block(number):
        shape = (3,) if number % 2 else ()
        token = number.to_bytes(20, "big")
        return StoredBlock(root, "00ff", token, spec if shape else scalar, shape, np.dtype("f4"), 64)

    for number in range(100):
        put_pack(root, "default", [Listed(block(number))])
    assert len(list_packs(root, "default")) <= 33
    index = Catalog(root).token_index()
    assert len(index) == 100
    for number in range(100):
        assert index.get(number.to_bytes(20, "big")) == block(number)
    assert not Catalog(root).entries()
    put_pack(root, "default", [])


def test_few_bytes_are_written_for_each_block(store_root, monkeypatch):
    """What was put together once is not put together again with each thirty-second small one."""
    root, written = str(store_root), []
    spec = ChunkSpec.for_block("f4", ())
    encode = packs.to_idx
    monkeypatch.setattr(
        packs, "to_idx", lambda manifest: written.append(len(manifest.variables)) or encode(manifest)
    )
    for number in range(1000):
        token = number.to_bytes(20, "big")
        put_pack(root, "default", [Listed(StoredBlock(root, "00ff", token, spec, (), np.dtype("f4"), 64))])
    assert sum(written) < 6 * 1000
    assert len(list_packs(root, "default")) <= 33
    assert len(Catalog(root).token_index()) == 1000


def test_each_pack_is_read_once(store_root, monkeypatch):
    read, restore = [], packs.from_idx
    monkeypatch.setattr(packs, "from_idx", lambda data: read.append(data) or restore(data))
    with daskcache.activate(policy="outputs"), dask.config.set(scheduler="sync"):
        for number in range(60):
            (doubled() + number).sum().compute()
    # Once to find what it lists, and once to put it together with others.
    assert len(read) <= 2 * 60 + 2


def test_a_damaged_pack_is_left_out(store_root):
    with daskcache.activate(policy="outputs"):
        doubled().compute()
        count()
        (pack,) = store_root.glob("namespaces/default/@/*.idx")
        pack.write_bytes(pack.read_bytes()[:-1] + b"?")
        assert ((doubled() + 1).compute() == EXPECTED + 1).all()
        assert count() == 4
