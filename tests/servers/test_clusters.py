"""Buckets on a cluster of processes: what opens them there, and that no secret is seen on the way."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import numpy as np
import pytest

pytest.importorskip("distributed")

from distributed import wait

import daskcache
from daskcache import stores
from tests.clusters import processes
from tests.servers.harness import BUCKET
from tests.servers.test_ours import place_of
from tests.servers.test_secrets import (
    AMBIENT,
    assert_unseen,
    canary,
    credentials,
    fail,
    guarded,
    pipeline,
    root,
)

__all__ = ["canary", "guarded", "root"]  # fixtures

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

EXPECTED = np.arange(12) * 2.0
PAGES = ("/info/main/workers.html", "/info/main/logs.html", "/json/identity.json", "/json/counts.json")
# Not those of groups of tasks, which distributed fails to make of any graph that stays on the cluster.
PLOTS = (
    "/status", "/tasks", "/graph", "/events", "/exceptions", "/profile", "/individual-progress",
    "/individual-memory-by-key",
)  # fmt: skip
ONE_CLIENT = pytest.mark.parametrize("root", ["fsspec"], indirect=True)


def look_at(dask_scheduler: Any) -> dict[str, Any]:
    """Give what the scheduler knows and shows."""
    broker = dask_scheduler._broker
    return {
        "port": dask_scheduler.http_server.port,
        "events": [repr(dask_scheduler.get_events()), repr(broker), repr(vars(broker))],
        "transitions": repr(list(dask_scheduler.transition_log)),
        "tasks": [cloudpickle.dumps(task.run_spec) for task in dask_scheduler.tasks.values()],
        "configuration": repr(dask.config.config),
    }


@ONE_CLIENT
def test_the_canary_is_seen_nowhere_on_a_cluster(canary: str, root: dict[str, Any], tmp_path: Path) -> None:
    with (
        processes(tmp_path, 2) as cluster,
        cluster.client(2) as client,
        warnings.catch_warnings(record=True, action="always") as caught,
        daskcache.activate(root),
    ):
        stored = daskcache.persist(pipeline(), "entry")
        kept = client.persist(pipeline().cache.checkpoint("marked") + 0)
        assert (kept.compute().v.values == EXPECTED).all()
        assert (stored.compute().v.values == EXPECTED).all()
        with pytest.raises(RuntimeError, match="not this time"):
            daskcache.persist(pipeline(fail), "broken")
        seen = client.run_on_scheduler(look_at)
        where = f"http://127.0.0.1:{seen.pop('port')}"
        assert seen["tasks"]
        assert "daskcache" in seen["events"][0]
        seen |= {
            "pages": [read(f"{where}{page}") for page in PAGES],
            "logs": [repr(client.get_scheduler_logs()), repr(client.get_worker_logs())],
            "files": [(tmp_path / f"{name}.log").read_text() for name in ("scheduler", "worker")],
            "warnings": [str(one.message) for one in caught],
            "run": repr(daskcache.last_run()),
            "shown": [repr(client), client._repr_html_()],
        }
        # The search is one: the workers do have it.
        held = client.run(lambda: credentials.fetch()["secret"])
    assert_unseen(canary, seen)
    assert stores.exists(stores.open(root), "daskcache.json")
    assert len(held) == 2
    with pytest.raises(AssertionError):
        assert_unseen(canary, list(held.values()))


@pytest.mark.nightly
@ONE_CLIENT
def test_the_canary_is_seen_on_no_dashboard(canary: str, root: dict[str, Any], tmp_path: Path) -> None:
    """All pages of a scheduler, and what the plots on them are sent: graph, task stream, progress and the rest."""
    with (
        processes(tmp_path, 1, dashboard=True) as cluster,
        cluster.client(1) as client,
        daskcache.activate(root),
    ):
        where = client.dashboard_link.removesuffix("/status")
        pull(where)  # most only gather what happens once somebody has looked
        stored = daskcache.persist(pipeline(), "entry")
        kept = client.persist(pipeline().cache.checkpoint("marked") + 0)
        assert (kept.compute().v.values == EXPECTED).all()
        assert (stored.compute().v.values == EXPECTED).all()
        with pytest.raises(RuntimeError, match="not this time"):
            daskcache.persist(pipeline(fail), "broken")
        failed = client.persist(pipeline(fail).v.data + 1)
        wait(failed)
        tasks = [urllib.parse.quote(str(key), safe="") for key in client.run_on_scheduler(list_tasks)]
        (worker,) = [
            urllib.parse.quote(address, safe="") for address in client.scheduler_info(n_workers=-1)["workers"]
        ]
        pages = [*PAGES, "/info/main/exceptions.html", f"/info/worker/{worker}.html"]
        pages += [f"/info/{kind}/{worker}.html" for kind in ("call-stacks", "logs")]
        pages += [f"/info/{kind}/{task}.html" for kind in ("task", "call-stack") for task in tasks[:6]]
        seen = {page: read(where + page) for page in [*PLOTS, *pages]}
        sent = pull(where)
    assert_unseen(canary, {"pages": seen, "sent": sent})
    # They do show what was done.
    for plot in ("/status", "/tasks", "/graph", "/individual-progress"):
        assert "marked" in sent[plot] or "checkpoint" in sent[plot], plot
    assert len(tasks) > 3
    assert any(b"not this time" in seen[page] for page in pages)


def list_tasks(dask_scheduler: Any) -> list[Any]:
    return list(dask_scheduler.tasks)


PULL = """
import json, sys
from bokeh.client import pull_session

where, *plots = sys.argv[1:]
found = {}
for plot in plots:
    session = pull_session(url=where + plot)
    found[plot] = json.dumps(session.document.to_json(), default=repr)
    session.close()
print(json.dumps(found))
"""


def pull(where: str) -> dict[str, str]:
    """Fetch what pages' plots are sent, as a browser does; in a process of its own, for its event loop is its own."""
    done = subprocess.run(
        [sys.executable, "-c", PULL, where, *PLOTS], capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def read(url: str) -> bytes:
    """Fetch a page. distributed cannot make some of them until each worker has sent its figures."""
    for _ in range(20):
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                data: bytes = answer.read()
                return data
        except urllib.error.HTTPError as error:
            if error.code != 500:
                raise
            time.sleep(0.5)
    pytest.fail(f"{url} is never answered")


@ONE_CLIENT
def test_options_of_the_client_and_credentials_of_each_process(
    canary: str, root: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = credentials.fetch()
    for name, value in zip(AMBIENT, (found["key"], found["secret"]), strict=False):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TESTS_CREDENTIALS")
    url = f"s3://{BUCKET}/{root['url'].rpartition('/')[2]}-plain"
    # Only the client's configuration names the endpoint.
    with (
        processes(tmp_path, 2) as cluster,
        cluster.client(2),
        dask.config.set({"daskcache.storage-options": root["storage_options"]}),
        daskcache.activate(url),
    ):
        assert (pipeline().cache.checkpoint("marked").compute().v.values == EXPECTED).all()
        assert daskcache.last_run().wait().stored == 3
        stored = daskcache.persist(pipeline(), "entry")
        assert (stored.compute().v.values == EXPECTED).all()
        assert (daskcache.last_run().computed, daskcache.last_run().stored) == (0, 0)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("redis", marks=pytest.mark.server("redis-server")),
        pytest.param("sftp", marks=pytest.mark.server("sshd")),
    ],
)
def test_workers_open_stores_of_ours_for_themselves(kind: str, tmp_path: Path) -> None:
    where = place_of(kind).root()
    with processes(tmp_path, 2) as cluster, cluster.client(2):
        stored = daskcache.persist(pipeline(), "entry", store=where)
        assert (stored.v.values == EXPECTED).all()
        with daskcache.activate(where):
            lazy = (pipeline() + 1).cache.checkpoint("marked")
            assert (lazy.compute().v.values == EXPECTED + 1).all()
    assert (daskcache.open("marked", store=where).v.values == EXPECTED + 1).all()
