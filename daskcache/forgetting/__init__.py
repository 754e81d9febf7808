"""Forgetting: dropping versions, and sweeping the blocks that nothing needs, beside runs that go on."""

from daskcache.forgetting.expiry import Expired, clear, expire
from daskcache.forgetting.lease import wait_for_sweep
from daskcache.forgetting.reuse import Reuse, refreshing
from daskcache.forgetting.sweep import Swept, gc, sweep, sweep_also

__all__ = [
    "Expired",
    "Reuse",
    "Swept",
    "clear",
    "expire",
    "gc",
    "refreshing",
    "sweep",
    "sweep_also",
    "wait_for_sweep",
]
