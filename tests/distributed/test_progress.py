"""A bar of what a cluster computes, on a terminal."""

import pytest

pytest.importorskip("distributed")

from tests.clusters import processes
from tests.terminals import BAR, watch

pytestmark = pytest.mark.slow

WAYS = """
from distributed import Client

@daskcache.version("1")
def fail(block, gate):
    wait_for(block, gate)
    raise ArithmeticError

with Client(os.environ["TEST_CLUSTER"]):
    daskcache.persist(gated("persist"), "a")
    daskcache.persist(gated("wait"), "b", wait=False)
    daskcache.last_run().wait()
    gate = os.path.join(os.environ["TEST_GATES"], "fails")
    open(gate, "x").close()
    tell("fails")
    try:
        daskcache.persist(made(fail, gate), "c")
    except ArithmeticError:
        tell("compute")
    daskcache.activate(policy="outputs")
    made(last, 1.2).compute()
    tell("end")
"""


def test_whoever_waits_on_a_terminal_sees_a_bar(tmp_path, store_root):
    with processes(tmp_path, 1) as cluster:
        seen = watch(WAYS, store_root, tmp_path / "gates", terminal=True, TEST_CLUSTER=cluster.address)
    assert list(seen) == ["", "persist", "wait", "fails", "compute", "end"]
    for name in ("persist", "wait", "fails"):
        *_, last = seen[name].split("\r[")
        assert BAR in last
        assert last.endswith("\n")
        assert last.startswith("#" * 40 + "] | 100%") == (name != "fails")
    assert BAR not in seen[""] + seen["compute"]
