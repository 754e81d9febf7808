"""What is Redis' own: databases and prefixes, the longest value, full and guarded servers, lost answers."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from daskcache import stores
from daskcache.errors import InvalidInputError, ReadOnlyError, StoreError, StoreFullError
from daskcache.stores import Levels
from daskcache.stores.sync import wait_for
from tests.servers import services
from tests.servers.conftest import start
from tests.servers.harness import Cutter
from tests.servers.services import RedisPlace, Service

pytestmark = [pytest.mark.slow, pytest.mark.server("redis-server")]


@pytest.fixture
def place() -> RedisPlace:
    return RedisPlace(start("redis"), "redis", None, {}, uuid.uuid4().hex)


@pytest.fixture(scope="module")
def own() -> Iterator[Service]:
    """A server whose settings a test may change."""
    server = services.redis()
    server.start()
    yield server
    server.close()


@pytest.fixture
def admin(own: Service) -> Iterator[Any]:
    with redis.Redis(port=own.port) as client:
        yield client
        client.config_set("maxmemory", 0)
        client.config_set("proto-max-bulk-len", 512 * 1024 * 1024)


def test_databases_and_prefixes_are_apart(own: Service, admin: Any) -> None:
    at = f"redis://127.0.0.1:{own.port}"
    here = {
        f"{at}/0/a": b"0:a/k",
        f"{at}/3/a": b"3:a/k",
        f"{at}/a": b"0:a/k",
        f"{at}/a?db=2": b"2:a/k",
        at: b"0:k",
    }
    for number, (url, name) in enumerate(here.items()):
        stores.put(stores.open(url), "k", b"%d" % number)
        database, _, key = name.partition(b":")
        with redis.Redis(port=own.port, db=int(database)) as client:
            assert client.get(key)[20:] == b"%d" % number
    socket = stores.open(f"unix://{own.directory}/redis.sock/a?db=2")
    assert stores.get(socket, "k") == b"3"
    assert stores.describe(socket) == f"unix://{own.directory}/redis.sock/a"
    with_option = stores.open(f"{at}/a", db=3)
    assert stores.get(with_option, "k") == b"1"


def test_a_prefix_is_taken_as_it_stands(place: RedisPlace) -> None:
    """Of Redis' patterns nothing in a name has a meaning."""
    names = ["a[b]", "a*", "a?", "ab", "a", "a^b", "a-b", "äö", "a b"]
    store = place.open()
    for name in names:
        stores.drive.put(store, f"{name}/x", name.encode())
    for name in names:
        assert list(stores.drive.walk(store, f"{name}/")) == [f"{name}/x"]
    wait_for(store.delete_dir("a*"))
    assert stores.drive.list_dirs(store, "") == sorted(set(names) - {"a*"})


def test_many_parts_take_one_request(place: RedisPlace) -> None:
    store: Any = place.open()
    for number in range(50):
        stores.put(store, f"c/{number}", b"%03d-abc" % number)
    asked = [(f"c/{number}", RangeByteRequest(0, 3)) for number in range(50)]
    more = [("c/7", None), ("c/8", SuffixByteRequest(3)), ("c/9", SuffixByteRequest(300)), ("none", None)]
    with redis.Redis(port=place.server.port) as client:
        before = client.info("stats")["total_reads_processed"]
        found = wait_for(store.get_partial_values(default_buffer_prototype(), [*asked, *more]))
        assert client.info("stats")["total_reads_processed"] - before <= 4
    texts = [None if one is None else one.to_bytes() for one in found]
    assert texts == [b"%03d" % number for number in range(50)] + [b"007-abc", b"abc", b"009-abc", None]


def test_what_is_longer_than_the_server_takes_is_refused_before_it_is_sent(own: Service, admin: Any) -> None:
    admin.config_set("proto-max-bulk-len", 2 * 1024 * 1024)
    store = stores.open(f"redis://127.0.0.1:{own.port}/0/{uuid.uuid4().hex}")
    longest = 2 * 1024 * 1024 - 20
    stores.put(store, "a", bytes(longest))
    received = admin.info("stats")["total_net_input_bytes"]
    for write in (stores.put, stores.create):
        with pytest.raises(StoreFullError, match=f"up to {longest} bytes, and b has {longest + 1}"):
            write(store, "b", bytes(longest + 1))
    assert admin.info("stats")["total_net_input_bytes"] - received < 10_000
    assert stores.drive.list_objects(store, "").keys() == {"a"}
    home = MemoryStore()
    stores.put(Levels(store, home), "b", bytes(longest + 1))
    assert stores.size(home, "b") == longest + 1


def test_a_full_server_says_so(own: Service, admin: Any) -> None:
    store = stores.open(f"redis://127.0.0.1:{own.port}/0/{uuid.uuid4().hex}")
    stores.put(store, "a", b"1")
    admin.config_set("maxmemory", 1)
    with pytest.raises(StoreFullError, match="is full: cannot write b"):
        stores.put(store, "b", b"1")
    assert stores.get(store, "a") == b"1"


def test_what_others_put_there_is_not_taken_for_ours(place: RedisPlace) -> None:
    store: Any = place.open()
    for name, value in [(b"short", b"x"), (b"long", b"x" * 100)]:
        store._client.set(store._name(name.decode()), value)
        with pytest.raises(StoreError, match="put there by another program"):
            stores.get(store, name.decode())
    store._client.rpush(store._name("list"), b"x")
    with pytest.raises(StoreError, match="WRONGTYPE"):
        stores.get(store, "list")


def test_whoever_may_only_read_reads(own: Service, admin: Any) -> None:
    admin.acl_setuser(
        "reader", enabled=True, passwords=["+open-sesame"], keys=["*"], commands=["+@read", "+@connection"]
    )
    root = f"redis://127.0.0.1:{own.port}/0/{uuid.uuid4().hex}"
    stores.put(stores.open(root), "a/b", b"1")
    store = stores.open(root, username="reader", password="open-sesame")
    assert stores.get(store, "a/b") == b"1"
    assert stores.list_sizes(store, "a") == {"b": 1}
    with pytest.raises(StoreError):
        stores.put(store, "b", b"1")
    admin.acl_setuser("reader", commands=["+time"])
    with pytest.raises(ReadOnlyError, match="takes no writes: cannot write b"):
        stores.put(store, "b", b"1")
    wrong = stores.open(root, username="reader", password="sesame-closed")
    with pytest.raises(StoreError, match="invalid username-password") as caught:
        stores.get(wrong, "a/b")
    assert "sesame" not in str(caught.value)


def test_where_an_answer_is_lost_the_first_writer_still_knows_that_it_won(place: RedisPlace) -> None:
    proxy = Cutter(place.server)
    try:
        store = place.open(endpoint=proxy.endpoint, **place.timeouts(5))
        stores.put(store, "before", b"1")
        for number in range(6):
            proxy.answers = 0
            assert stores.create(store, f"a/{number}", b"%d" % number)
            assert proxy.cuts == number + 1
            assert not stores.create(store, f"a/{number}", b"%d" % number)
        assert stores.list_sizes(place.open(), "a") == {f"{number}": 1 for number in range(6)}
    finally:
        proxy.close()


def test_what_stays_is_listed_once_while_much_comes_and_goes(place: RedisPlace) -> None:
    store: Any = place.open()
    stays = {f"{number:04d}" for number in range(500)}
    for name in stays:
        stores.put(store, f"a/{name}", b"1")
    done = threading.Event()

    def churn() -> None:
        for turn in itertools.count():
            names = [store._name(f"b/{turn}-{number}") for number in range(3000)]
            store._client.mset(dict.fromkeys(names, b"x"))
            store._client.unlink(*names)
            if done.is_set():
                return

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        end = time.monotonic() + 2
        while time.monotonic() < end:
            found = list(stores.drive.walk(store, "a/"))
            assert len(found) == len(set(found))
            assert {key[2:] for key in found} == stays
    finally:
        done.set()
        thread.join()


def test_times_are_the_servers(place: RedisPlace) -> None:
    store: Any = place.open()
    stores.put(store, "a/b", b"1")
    seconds, _ = store._client.time()
    ((_, written),) = stores.list_objects(store, "a").values()
    assert written is not None
    assert abs(written - seconds) < 60
    # A machine that slept is found out: its clock and what it counts have come apart.
    clock = store._clock
    clock._seen = (clock._seen[0] - 1000, clock._seen[1], clock._seen[2] - 1000)
    assert abs(clock.now() - seconds) < 60


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("redis://127.0.0.1:1/a", {"no_such_option": 1}, "no_such_option"),
        ("redis://127.0.0.1:1/a", {"decode_responses": True}, "leave decode_responses out"),
        ("unix:///no/socket/here", {}, "names no socket"),
        ("redis://127.0.0.1:port/a", {}, "cannot open|port"),
    ],
)
def test_what_cannot_be_opened(url: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        stores.open(url, **options)
