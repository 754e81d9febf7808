"""Any dtype, shape, chunks, attributes and names come back from a store, bit for bit."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import daskcache
from daskcache.errors import InvalidInputError
from daskcache.parts import join, split
from tests.labelled import assert_same

UNITS = st.sampled_from(["W", "D", "h", "m", "s", "ms", "us", "ns"])
ORDERS = st.sampled_from("<>")
DTYPES = st.one_of(
    st.sampled_from(["?", "i1", "u1"]),
    st.builds("{}{}".format, ORDERS, st.sampled_from("i2 i4 i8 u2 u4 u8 f2 f4 f8 c8 c16".split())),  # noqa: SIM905
    # Not the other byte order, which pandas overlooks where xarray converts units.
    st.builds("<{}8[{}]".format, st.sampled_from("Mm"), UNITS),
    st.builds("{}U{}".format, ORDERS, st.integers(1, 3)),
    st.builds("S{}".format, st.integers(1, 3)),
    st.just("T"),
).map(np.dtype)

names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=4
).filter(lambda name: name not in (".", "..", "zarr.json"))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
# No NaN, which xarray does not find equal to another within an attribute.
plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=3)
    | st.binary(max_size=3)
)
attributes = st.dictionaries(
    st.text(max_size=4),
    st.recursive(
        plain, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2)
    ),
    max_size=3,
)


@st.composite
def lengths(draw: Any, total: int) -> tuple[int, ...]:
    """Cut a dimension into blocks, some of them perhaps of no length."""
    cuts = sorted(draw(st.lists(st.integers(0, total), max_size=3)))
    return tuple(stop - start for start, stop in zip([0, *cuts], [*cuts, total], strict=True))


@st.composite
def values(draw: Any, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Give an array of any bits that its dtype takes."""
    dtype = draw(DTYPES)
    size = int(np.prod(shape))
    if dtype.kind == "T":
        items = draw(st.lists(texts, min_size=size, max_size=size))
        return np.array(items, "T").reshape(shape)
    if dtype.kind in "SUb":
        found: np.ndarray[Any, Any] = draw(npst.arrays(dtype, shape))
        return found
    # Bits, not numbers: a NaN's payload is one of 2**52.
    data = draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize))
    bits = np.frombuffer(data, dtype).reshape(shape)
    if dtype.kind in "Mm" and (unit := np.datetime_data(dtype)[0]) != "ns":
        # xarray shows times in other units, of which there are not enough for all.
        limit = 2**33 if unit in ("s", "ms", "us") else 2**20
        bits = (bits.view(f"{dtype.str[0]}i8") % limit).astype(f"{dtype.str[0]}i8").view(dtype)
    return bits


@st.composite
def variables(draw: Any, sizes: dict[str, int]) -> xr.Variable:
    dims = draw(st.lists(st.sampled_from(sorted(sizes)), unique=True, max_size=2)) if sizes else []
    array = draw(values(tuple(sizes[dim] for dim in dims)))
    data: Any = array
    if draw(st.booleans()):
        data = da.from_array(array, chunks=tuple(draw(lengths(length)) for length in array.shape))
    return xr.Variable(dims, data, draw(attributes))


@st.composite
def datasets(draw: Any) -> xr.Dataset:
    sizes = draw(st.dictionaries(names, st.integers(0, 4), max_size=3))
    members = draw(
        st.dictionaries(names.filter(lambda name: name not in sizes), variables(sizes), max_size=4)
    )
    dataset = xr.Dataset(members, attrs=draw(attributes))
    for dim in draw(st.permutations(sorted(set(sizes) & set(dataset.dims)))):
        if draw(st.booleans()):
            labels = np.arange(sizes[dim])[::-1].astype(draw(st.sampled_from(["i8", ">f4", "U1", "M8[s]"])))
            dataset = dataset.assign_coords({dim: labels})
            if draw(st.booleans()):
                dataset = dataset.drop_indexes(dim)
    return dataset.set_coords([name for name in members if draw(st.booleans())])


@st.composite
def things(draw: Any) -> Any:
    dataset = draw(datasets())
    kind = draw(st.sampled_from(["dataset", "dataarray", "datatree"]))
    if kind == "dataarray" and dataset.data_vars:
        array = dataset[draw(st.sampled_from(list(dataset.data_vars)))]
        return array.rename(
            draw(st.none() | names | st.text(max_size=2) | st.sampled_from([*array.coords, None]))
        )
    if kind == "datatree":
        children = draw(
            st.dictionaries(names.filter(lambda name: name not in dataset.variables), datasets(), max_size=2)
        )
        try:
            return xr.DataTree.from_dict(
                {"/": dataset, **{f"/{name}": child for name, child in children.items()}},
                name=draw(st.none() | names),
            )
        except (ValueError, KeyError):
            return dataset  # the nodes' coordinates do not align
    return dataset


@given(things())
def test_anything_comes_back(thing: Any) -> None:
    assert_same(join(split(thing)), thing, encoding="all")
    root = tempfile.mkdtemp(prefix="daskcache-roundtrip-")
    try:
        kept = daskcache.persist(thing, "entry", store=root)
        assert_same(kept, thing)
        assert_same(daskcache.open("entry", store=root), thing)
        assert daskcache.token(kept) == daskcache.token(thing)
        assert daskcache.status(thing, store=root).is_complete
    finally:
        shutil.rmtree(root)


@given(st.text(max_size=5))
def test_any_name_is_stored_or_refused(name: str) -> None:
    dataset = xr.Dataset({name: ("x", da.ones(2, chunks=1))})
    try:
        kept = daskcache.persist(dataset, store="memory://names")
    except InvalidInputError:
        assert not name or "/" in name or "\0" in name or name in (".", "..", "zarr.json")
        return
    assert_same(kept, dataset)
    array = xr.DataArray(dataset[name], name=name)
    assert_same(daskcache.persist(array, store="memory://names"), array)
