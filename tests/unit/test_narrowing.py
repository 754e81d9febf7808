"""Selections behind reads: what is read is what they leave, and the values are as without the pass."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest

import daskcache
from daskcache.pool import StoredBlock

VALUES = np.arange(24 * 20 * 10.0).reshape(24, 20, 10)

SELECTIONS = {
    "one after another": lambda x: x[3:20][:, 4][:, 2:5],
    "all of a block": lambda x: x[6:18][:, 3, 5],
    "back to front": lambda x: x[::-1][2:9][:, ::2][:, :, 7],
    "steps": lambda x: x[1::5][:, 2::3][1:, 1:][0],
    "nothing left": lambda x: x[5:5][:, 2],
    "an array": lambda x: x[4:20][:, [1, 5, 3]][:, 1],
    "a new axis": lambda x: x[4:20][:, None][:, 0, 3],
    "calculation between": lambda x: (x[4:20][:, 2:9] * 2)[:, 1:3],
}


@pytest.fixture
def sizes(monkeypatch):
    """Notes how many elements each read of a block gives."""
    found: list[int] = []
    get = StoredBlock.__getitem__

    def noted(self, index):
        values = get(self, index)
        found.append(np.size(values))
        return values

    monkeypatch.setattr(StoredBlock, "__getitem__", noted)
    return found


@pytest.mark.parametrize("selection", SELECTIONS)
def test_values_are_those_without_the_pass(selection, tmp_path) -> None:
    select = SELECTIONS[selection]
    with daskcache.activate(str(tmp_path)):
        stored = daskcache.persist(da.from_array(VALUES, chunks=(6, 10, 10)) + 1, "x", hints=None)
        np.testing.assert_array_equal(select(stored).compute(), select(VALUES + 1))


def test_no_more_is_read_than_the_selections_leave(sizes, tmp_path) -> None:
    with daskcache.activate(str(tmp_path)):
        stored = daskcache.persist(da.from_array(VALUES, chunks=(6, 20, 10)) + 1, "x")
        for selection in ("one after another", "all of a block", "steps"):
            sizes.clear()
            selected = SELECTIONS[selection](stored).compute(scheduler="sync")
            assert sum(sizes) == selected.size, selection


def test_what_several_need_is_read_once(sizes, tmp_path) -> None:
    with daskcache.activate(str(tmp_path)):
        stored = daskcache.persist(da.from_array(VALUES, chunks=-1) + 1, "x")
        part = stored[2:10]
        first, second = dask.compute(part[:, 3], part[:, 4] + part[:, 5])
    np.testing.assert_array_equal(first, VALUES[2:10, 3] + 1)
    np.testing.assert_array_equal(second, VALUES[2:10, 4] + VALUES[2:10, 5] + 2)


def test_a_graph_that_dask_has_not_fused_is_left_alone(tmp_path) -> None:
    with daskcache.activate(str(tmp_path)), dask.config.set({"optimization.fuse.active": False}):
        stored = daskcache.persist(da.from_array(VALUES, chunks=(6, 20, 10)) + 1, "x")
        np.testing.assert_array_equal(stored[3:20][:, 4].compute(), VALUES[3:20, 4] + 1)
