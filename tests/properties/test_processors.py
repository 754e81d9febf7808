"""Clipping and cropping against an oracle that looks at each label alone."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from daskcache.chunks import Hints
from daskcache.chunks.hints import plan_inner
from daskcache.processors import Area
from daskcache.processors.axes import align
from daskcache.processors.times import Span, positions

MOMENTS = st.datetimes(dt.datetime(1999, 1, 1), dt.datetime(2002, 1, 1))
TEXTS = st.tuples(MOMENTS, st.sampled_from(["%Y", "%Y-%m", "%Y-%m-%d", "%Y-%m-%dT%H", "%Y-%m-%d %H:%M"]))


@given(st.lists(MOMENTS, max_size=30), MOMENTS, MOMENTS, st.booleans())
def test_instants(labels, start, end, is_sorted) -> None:
    start, end = min(start, end), max(start, end)
    index = pd.DatetimeIndex(sorted(labels) if is_sorted else labels)
    found = index[positions(index, Span.parse(start, end))]
    assert list(found) == [label for label in index if start <= label <= end]


@given(st.lists(MOMENTS, min_size=1, max_size=30), TEXTS, TEXTS)
def test_texts_are_what_pandas_slices(labels, start, end) -> None:
    texts = [moment.strftime(form) for moment, form in (start, end)]
    periods = [pd.Period(text) for text in texts]
    index = pd.DatetimeIndex(sorted(set(labels)))
    if periods[1].end_time < periods[0].start_time:
        return
    found = index[positions(index, Span.parse(*texts))]
    low, high = periods[0].start_time, (periods[1] + 1).start_time
    assert list(found) == [label for label in index if low <= label < high]


@given(st.lists(st.tuples(MOMENTS, MOMENTS), min_size=3, max_size=3))
def test_what_covers_has_each_label_of_what_it_covers(spans) -> None:
    ordered = [(min(pair), max(pair)) for pair in spans]
    outer, inner = (Span.parse(*pair) for pair in ordered[:2])
    index = pd.date_range("1999", "2002", freq="7h")
    held = set(index[positions(index, outer)])
    if outer.covers(inner, None):
        assert set(index[positions(index, inner)]) <= held
    assert outer.covers(inner, None) == (ordered[0][0] <= ordered[1][0] and ordered[1][1] <= ordered[0][1])


@given(
    st.integers(-180, 180),
    st.integers(0, 359),
    st.integers(-90, 90),
    st.integers(-90, 90),
    st.integers(1, 40),
    st.booleans(),
)
def test_boxes(west, width, south, north, step, is_signed) -> None:
    lons = np.arange(-180, 180, step) if is_signed else np.arange(0, 360, step)
    lats = np.arange(-90, 91, 7)
    area = Area.parse((west, south, west + width, north))
    assert area is not None
    chosen = lons[area.order(lons)]
    inside = [lon for lon in lons if (lon - west) % 360 <= width]
    assert sorted(chosen) == sorted(inside)
    # From west to east.
    assert list(np.diff((chosen - west) % 360) > 0) == [True] * max(len(chosen) - 1, 0)
    low, high = min(south, north), max(south, north)
    assert list(lats[area.holds_latitudes(lats)]) == [lat for lat in lats if low <= lat <= high]


@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=8),
    st.lists(st.integers(1, 7), min_size=1, max_size=8),
    st.integers(0, 60),
    st.integers(0, 60),
)
def test_aligned_positions_cut_no_block(first, second, start, stop) -> None:
    size = max(sum(first), sum(second))
    first[-1] += size - sum(first)
    second[-1] += size - sum(second)
    ds = xr.Dataset({"a": ("x", np.arange(size)), "b": ("x", np.arange(size))})
    ds = xr.Dataset({"a": ds.a.chunk(x=tuple(first)), "b": ds.b.chunk(x=tuple(second))})
    start, stop = sorted((start % (size + 1), stop % (size + 1)))
    found = align(ds, {"x": slice(start, stop)})["x"]
    if start < stop:
        assert found.start <= start <= stop <= found.stop
    for lengths in (first, second):
        edges = {0, *np.cumsum(lengths).tolist()}
        assert {found.start, found.stop} <= edges


@given(
    st.tuples(*[st.integers(1, 60)] * 3),
    st.tuples(*[st.booleans()] * 3),
    st.sampled_from(["a", ("b", "c"), {"a": 2, ("b", "c"): 1}]),
    st.integers(4, 100_000),
)
def test_inner_chunks_divide_their_blocks(block, single, hints, target) -> None:
    inner = plan_inner(Hints(hints, target), ("a", "b", "c"), block, single, 4)
    if inner is None:
        return
    assert np.prod(inner) * 4 <= target
    for length, part, is_single in zip(block, inner, single, strict=True):
        assert 1 <= part <= length
        padded = -(-length // part) * part
        assert padded == length or (is_single and (padded - length) * 16 <= length)
