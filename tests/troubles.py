"""What tests of stores in trouble share."""

import os
import re
import time
import warnings

import dask
import numpy as np
import pytest

from daskcache.errors import (
    DaskcacheWarning,
)
from tests import producers
from tests.producers import leftovers

EXPECTED = np.arange(12) * 2
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.fixture(name="calls", autouse=True)
def calls_fixture(tmp_path, monkeypatch):
    directory = tmp_path / "calls"
    directory.mkdir()
    monkeypatch.setenv(producers.CALLS, str(directory))
    return directory


@pytest.fixture(name="scheduler", params=["synchronous", "threads"])
def scheduler_fixture(request):
    with dask.config.set(scheduler=request.param):
        yield request.param


def compute_with_one_warning(x, match):
    """Compute under the pass, and give the one warning's text."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = x.compute()
    ours = [str(warning.message) for warning in caught if warning.category is DaskcacheWarning]
    assert len(ours) == len(caught) == 1, [str(warning.message) for warning in caught]
    assert re.search(match, ours[0]), ours[0]
    return result


def settle(root):
    """Wait for threads of a run that has failed, and see that nothing half written stays."""
    deadline = time.monotonic() + 5
    while leftovers(root) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not leftovers(root)


def compute_silently(x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return x.compute()
