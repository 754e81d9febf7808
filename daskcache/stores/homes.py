"""Which store of a fan-out holds what may change."""

from __future__ import annotations

import json
import math
import random
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from zarr.abc.store import Store

from daskcache.errors import StoreError
from daskcache.stores import drive
from daskcache.stores.driven import Driven
from daskcache.stores.naming import describe
from daskcache.stores.shares import Shares, most_telling

__all__ = ["MARK", "Home"]

MARK = ".daskcache-fanout"
"""How the object is called by which each store of a fan-out knows which of them is the home."""

_FORMAT = "daskcache.json"
_ATTEMPTS = 50
_PAUSE_S = 0.05
_LOOK_S = 30.0


class Home:
    """The one store of a fan-out that holds what may change.

    Parameters
    ----------
    shares : Shares
        The stores.

    Notes
    -----
    Once it is found it stays, so that it costs one small read of each store and process. Of several processes that
    first write one agrees with the others: whoever has put a mark looks for others, and takes its own back where
    there is one.
    """

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self.mark = f"{MARK}{max(map(_depth, shares.stores)) or ''}"
        self._number: int | None = None
        self._id: str | None = None
        self._signed: set[int] = set()
        self._looked_s = -math.inf
        self._lock = threading.RLock()

    @property
    def number(self) -> int | None:
        """The number of the store, which has to be found; None where nothing that may change was ever written."""
        if self._number is None:
            with self._lock:
                self._number, self._id = self._found()
        return self._number

    def is_at(self, number: int) -> bool:
        """Tell whether a store is known to be the home, without looking for one each time.

        Parameters
        ----------
        number : int
            The store's.

        Returns
        -------
        bool
            False also where nobody knows.
        """
        if self._number is None and time.monotonic() - self._looked_s > _LOOK_S:
            self._looked_s = time.monotonic()
            with suppress(StoreError):  # who needs a home will say what is wrong with it
                return self.number == number
        return self._number == number

    def ask[T](self, question: Callable[[Store], T], *, write: bool = False) -> T | None:
        """Ask the store; where it fails, so does this.

        Parameters
        ----------
        question : callable
            Takes the store.
        write : bool, optional
            Whether it is written, for which one is chosen where there is none.

        Returns
        -------
        object
            The answer; None where there is no store yet.

        Raises
        ------
        StoreError
            It failed, cannot be reached, or is not known.
        """
        number = self._settle() if write else self.number
        if number is None:
            return None
        return self._shares.ask_strictly(number, question)

    def sign(self, number: int) -> None:
        """Leave a mark in a store that was written, by which the home is missed when it is not there.

        Parameters
        ----------
        number : int
            The store's.
        """
        if number in self._signed or self._id is None:
            return
        self._signed.add(number)
        with suppress(StoreError):
            store = self._shares.stores[number]
            drive.create(store, self.mark, _document(self._id, "home" if number == self._number else "part"))

    def _settle(self) -> int:
        with self._lock:
            for _ in range(_ATTEMPTS):
                number = self.number
                if number is not None:
                    if self._id is None:
                        self._mark_older(number)
                    return number
                self._choose()
        raise StoreError(f"other processes choose a home among {self._names()} all the time; try again")

    def _mark_older(self, number: int) -> None:
        """Mark an older store, which has become a part of this; of several processes that do, one is first."""
        store = self._shares.stores[number]
        with suppress(StoreError):  # one that has no room for it is found as it was
            drive.create(store, self.mark, _document(uuid.uuid4().hex, "home"))
        mark = self._read_mark(number)
        self._id = None if mark is None else mark[0]

    def _choose(self) -> None:
        """Mark the first store that takes a mark, unless another process does the same."""
        errors = []
        for number, store in enumerate(self._shares.stores):
            if store.read_only:
                continue
            own = uuid.uuid4().hex
            put = partial(drive.create, key=self.mark, data=_document(own, "candidate"))
            try:
                created = self._shares.ask(number, put, write=True)
            except StoreError as error:
                errors.append(error)
                continue
            if created:
                # Of two each sees the other, or one of them comes too late to be seen and sees the first. One that took
                # long may have been given up by others, which have chosen then.
                marks = self._marks()[0]
                if {home for home, _ in marks.values()} == {own}:
                    drive.put(store, self.mark, _document(own, "home"))
                elif marks.get(number, ("",))[0] == own:
                    drive.delete(store, self.mark)
            time.sleep(random.uniform(0, _PAUSE_S))
            return
        raise most_telling(errors)

    def _found(self) -> tuple[int | None, str | None]:
        """Look for the home, and wait while others choose."""
        marks, errors = self._marks()
        missed: set[str] = set()
        for _ in range(_ATTEMPTS):
            parts = {home for home, state in marks.values() if state != "candidate"}
            homes = [number for number, (_, state) in marks.items() if state == "home"]
            if len(parts) > 1:
                raise StoreError(
                    f"of {self._names()} some are of one fan-out and some of another; use them apart"
                )
            if homes:
                return homes[0], marks[homes[0]][0]
            if parts == missed != set():
                why = errors[0] if errors else "is its disk mounted?"
                raise StoreError(
                    f"the store with the documents of {self._names()} is not among them: {why} To give up what it has, "
                    f"remove {self.mark} from the others"
                )
            if not marks:
                break
            # Stores are read one after the other: another process may have marked one that was read, and then signed
            # one that was not. Whose home is missing the second time is gone.
            missed = parts
            time.sleep(_PAUSE_S)
            marks, errors = self._marks()
        else:
            return self._adopt(marks)
        if errors:
            raise errors[0]
        for number in range(len(self._shares.stores)):
            # An older store, which has become a part of this.
            if self._shares.ask_strictly(number, lambda store: drive.exists(store, _FORMAT)):
                return number, None
        return None, None

    def _adopt(self, marks: dict[int, tuple[str, str]]) -> tuple[int, str]:
        """Take the home that a process chose which died before it could say so."""
        first, *others = marks
        for number in others:
            self._shares.ask_strictly(number, lambda store: drive.delete(store, self.mark))
        home = marks[first][0]
        drive.put(self._shares.stores[first], self.mark, _document(home, "home"))
        return first, home

    def _marks(self) -> tuple[dict[int, tuple[str, str]], list[StoreError]]:
        marks: dict[int, tuple[str, str]] = {}
        errors = []
        for number in range(len(self._shares.stores)):
            error = self._shares.why_resting(number)
            if error is None:
                try:
                    mark = self._read_mark(number)
                except StoreError as failed:
                    error = failed
                else:
                    if mark is not None:
                        marks[number] = mark
            if error is not None:
                errors.append(error)
        return marks, errors

    def _read_mark(self, number: int) -> tuple[str, str] | None:
        data = self._shares.ask(number, lambda store: drive.get(store, self.mark))
        if data is None:
            return None
        try:
            document = json.loads(data)
            return str(document["home"]), str(document["state"])
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(
                f"{self.mark} in store {describe(self._shares.stores[number])} is not understood ({error}); remove it, "
                "and it is written anew"
            ) from error

    def _names(self) -> str:
        return ", ".join(map(describe, self._shares.stores))


def _document(home: str, state: str) -> bytes:
    return json.dumps({"home": home, "state": state}).encode("ascii")


def _depth(store: Store) -> int:
    """Count the fan-outs within each other: each hides its own mark."""
    if not isinstance(store, Driven):
        return 0
    inner = max((_depth(one) for one in store.parts if one is not store), default=0)
    return inner + hasattr(store, "shares")
