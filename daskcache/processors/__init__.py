"""Processors: what is done to arguments and results of functions, cached or not.

Those that come with daskcache select: along time, in space, along anything. What they select by is left out of the key,
so that one stored result serves all of them.
"""

from daskcache.processors.areas import Area
from daskcache.processors.base import Processor
from daskcache.processors.chain import Bound, Chain, Processed
from daskcache.processors.region import Region, region
from daskcache.processors.select import Select, select
from daskcache.processors.timeseries import Timeseries, timeseries

__all__ = [
    "Area",
    "Bound",
    "Chain",
    "Processed",
    "Processor",
    "Region",
    "Select",
    "Timeseries",
    "region",
    "select",
    "timeseries",
]
