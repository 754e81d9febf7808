"""What tables in parts are made of: names, ledgers, turns."""

from __future__ import annotations

import json
import time

import pandas as pd
import pytest

from daskcache import stores
from daskcache.config import Settings
from daskcache.errors import InvalidInputError, StoreError, UncacheableError
from daskcache.formats.contents import Contents
from daskcache.formats.holding import Holding, Parts, Rows, merge
from daskcache.formats.ledger import Contribution, Ledger
from daskcache.formats.sql_names import LONGEST, column_names, table_name
from daskcache.formats.turns import take_turn

SETTINGS = Settings("memory://turns")
KEY = "namespaces/default/table/@/turn"


@pytest.mark.parametrize(
    "entry", ["a" * 200, "Größe.ü/call-1", "1st", "...", "select", "a" * 46 + "." + "b" * 46]
)
def test_names_of_tables_need_no_quotes_and_differ(entry: str) -> None:
    name = table_name("/data", "default", entry)
    assert name.isidentifier()
    assert name == name.lower()
    assert len(name.encode()) <= LONGEST
    others = {
        table_name("/data", "other", entry),
        table_name("/data2", "default", entry),
        table_name("/data", "default", entry + "x"),
    }
    assert len({name, *others}) == 4


@pytest.mark.parametrize(
    "names",
    [
        ["a", "A", "a"],
        ["é" * 40, "é" * 41],
        ["daskcache_row", "daskcache_part"],
        ["", "\0", "column_0", "column_1"],
        ["t_1", "T", "t"],
    ],
)
def test_names_of_columns_differ_and_fit(names: list[str]) -> None:
    found = column_names(names)
    assert len({name.casefold() for name in found} | {"daskcache_row", "daskcache_part"}) == len(names) + 2
    assert all(0 < len(name.encode()) <= LONGEST and "\0" not in name for name in found)


def test_the_living_are_whole() -> None:
    ledger = Ledger(
        (
            Contribution("a", (0,), {"x": "1"}),
            Contribution("b", (1, 2), {"y": "1"}, over=(0,)),
            Contribution("c", (3,), {"z": "1"}, over=(2,)),
            Contribution("d", (4,)),
        )
    )
    for gone, left in (("x", "bcd"), ("y", "cd"), ("z", "d"), ("", "abcd")):
        living = ledger.living(lambda sources, gone=gone: gone in sources)
        assert "".join(one.id for one in living.contributions) == left
    assert ledger.sources == {"x": "1", "y": "1", "z": "1"}
    assert Ledger.from_json(json.loads(json.dumps(ledger.to_json()))) == ledger
    with pytest.raises(InvalidInputError, match="damaged"):
        Ledger.from_json([["a", 1]])


def rows(**columns: object) -> Rows:
    return Rows("pandas", [Contents.of(pd.DataFrame(columns))])


def test_a_table_is_kept_by_one_set_of_keys() -> None:
    made = merge(None, Parts(), Ledger(), Contribution("a"), rows(k=[1], v=[1]), ["k"]).holding
    with pytest.raises(UncacheableError, match="kept by the keys"):
        merge(made, Parts(), made.ledger, Contribution("b"), rows(k=[1], v=[1]), ["v"])
    document = made.to_json()
    with pytest.raises(InvalidInputError, match="a newer daskcache"):
        Holding.from_json({**document, "layout": 2})
    with pytest.raises(InvalidInputError, match="is damaged"):
        Holding.from_json({**document, "pieces": 3})


def note(**members: object) -> bytes:
    return json.dumps(
        {"id": "other", "host": "elsewhere", "pid": 1, "time_s": time.time(), **members}
    ).encode()


def test_a_turn_elsewhere_is_waited_for_and_taken_over_when_it_is_old() -> None:
    store = stores.open(SETTINGS.store)
    stores.put(store, KEY, note())
    with pytest.raises(StoreError, match="has been writing"), take_turn(SETTINGS, "table", patience_s=0.2):
        pass
    for old in (note(time_s=time.time() - 1000), b"{", note(pid="x")):
        stores.put(store, KEY, old)
        with take_turn(SETTINGS, "table", patience_s=5) as turn:
            turn.check()
        assert stores.get(store, KEY) is None


def test_a_turn_that_was_taken_away_is_noticed_and_left_alone() -> None:
    store = stores.open(SETTINGS.store)
    with take_turn(SETTINGS, "table") as turn:
        stores.put(store, KEY, note())
        with pytest.raises(StoreError, match="another process has begun to write"):
            turn.check()
    assert stores.get(store, KEY) is not None
    stores.delete(store, KEY)
