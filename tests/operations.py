"""Operations on arrays, and what their results have in common with and without the pass."""

import dask.array as da
import numpy as np


def grid(dtype="f8"):
    return da.from_array(np.arange(48, dtype=dtype).reshape(6, 8), chunks=(3, 4)) + 1


OPERATIONS = {
    "itself": lambda x: x,
    "elementwise": lambda x: (x * 2 - x / 3) ** 2,
    "sum": lambda x: x.sum(),
    "sum along": lambda x: x.sum(axis=0),
    "mean": lambda x: x.mean(),
    "std": lambda x: x.std(axis=1),
    "max": lambda x: x.max(),
    "argmax": lambda x: x.argmax(axis=1),
    "any": lambda x: (x > 3).any(),
    "cumsum": lambda x: x.cumsum(axis=0),
    "slice": lambda x: x[1:5, ::3],
    "reversed": lambda x: x[::-1, -2],
    "one": lambda x: x[2, 3],
    "fancy": lambda x: x[[5, 0, 3]],
    "mask": lambda x: da.where(x > 9, x, -x),
    "transpose": lambda x: x.T,
    "reshape": lambda x: x.reshape(48),
    "rechunk": lambda x: x.rechunk((2, 8)),
    "concatenate": lambda x: da.concatenate([x, x + 1]),
    "stack": lambda x: da.stack([x, x + 1]),
    "dot": lambda x: x @ x.T,
    "tensordot": lambda x: da.tensordot(x, x, axes=((0,), (0,))),
    "overlap": lambda x: x.map_overlap(lambda block: block + block.mean(), depth=1, boundary="none"),
    "map_blocks": lambda x: x.map_blocks(lambda block: block[:1], chunks=((1, 1), (4, 4)), dtype="f8"),
    "block_info": lambda x: x.map_blocks(
        lambda b, block_info=None: b + block_info[0]["chunk-location"][0], dtype="f8"
    ),
    "roll": lambda x: da.roll(x, 3, axis=1),
    "pad": lambda x: da.pad(x, 1),
    "percentile": lambda x: da.percentile(x.ravel(), [10, 50]),
    "histogram": lambda x: da.histogram(x, bins=4, range=(0, 50))[0],
    "unknown chunks": lambda x: x[x > 10],
    "int": lambda x: x.astype("i4"),
    "swapped": lambda x: x.astype(">f4"),
    "complex": lambda x: x + 1j,
    "linalg": lambda x: da.linalg.norm(x),
    "nothing": lambda x: x[:0],
    "scalar of nothing": lambda x: x[:0].sum(),
}


def identical(one, other):
    assert type(one) is type(other)
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    assert one.tobytes() == other.tobytes()
