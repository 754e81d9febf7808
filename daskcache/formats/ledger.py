"""Which calls have put rows into a table, and whose rows still hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from daskcache.errors import InvalidInputError
from daskcache.manifest import StoredVariable

__all__ = ["Contribution", "Ledger", "Writing"]

Changed = Callable[[Mapping[str, str | None]], bool]


@dataclass(frozen=True, slots=True, eq=False)
class Writing:
    """What a table is written under."""

    publish: Callable[[Mapping[str, Any], tuple[StoredVariable, ...]], None]
    """Publishes the entry, given what its manifest says of the table, and where its parts lie."""
    is_changed: Changed = lambda sources: False
    """Whether sources are not as they were."""
    is_anew: Callable[[], bool] = lambda: False
    """Whether the table begins anew: asked to, or because its entry was cleared or has expired. Asked while no other
    process writes the table."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one call has put into a table."""

    id: str
    """The call with all of its arguments, in hex."""
    parts: tuple[int, ...] = ()
    """The numbers that its rows have, one for each partition; later ones are higher."""
    sources: Mapping[str, str | None] = field(default_factory=dict)
    """What its rows were made from, and what that looked like."""
    over: tuple[int, ...] = ()
    """The parts that lost rows to it."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """The contributions to a table, in the order of their parts.

    Examples
    --------
    >>> ledger = Ledger((Contribution("a", (0,), {"x": "1"}), Contribution("b", (1,), {"y": "1"}, over=(0,))))
    >>> [one.id for one in ledger.living(lambda sources: "x" in sources).contributions]
    ['b']
    >>> ledger.living(lambda sources: "y" in sources).contributions
    ()
    """

    contributions: tuple[Contribution, ...] = ()
    """None where nothing was put in yet."""

    @property
    def parts(self) -> tuple[int, ...]:
        """The numbers of their parts."""
        return tuple(part for one in self.contributions for part in one.parts)

    @property
    def sources(self) -> dict[str, str | None]:
        """What all of them were made from; None for what looked otherwise to one than to another."""
        found: dict[str, str | None] = {}
        for one in self.contributions:
            for path, state in one.sources.items():
                found[path] = state if found.get(path, state) == state else None
        return found

    def find(self, id: str) -> Contribution | None:  # noqa: A002 (it is one)
        """Give the contribution of a call.

        Parameters
        ----------
        id : str
            The call's.

        Returns
        -------
        Contribution or None
            None where it has none.
        """
        return next((one for one in self.contributions if one.id == id), None)

    def living(self, is_changed: Changed) -> Ledger:
        """Leave out what does not hold any more.

        Parameters
        ----------
        is_changed : callable
            Whether sources are not as they were.

        Returns
        -------
        Ledger
            Without those whose sources have changed, and without those that had lost rows to one of these: such rows are
            not there any more, so that the rest of them would not be what the call gave.
        """
        changed = (one.parts for one in self.contributions if is_changed(one.sources))
        return self.without(part for parts in changed for part in parts)

    def without(self, parts: Iterable[int]) -> Ledger:
        """Leave out parts, and those that had lost rows to them.

        Parameters
        ----------
        parts : iterable of int
            Those that go.

        Returns
        -------
        Ledger
            What is whole without them.
        """
        gone = set(parts)
        # Who lost rows has lower parts than who took them.
        for one in reversed(self.contributions):
            if gone.intersection(one.parts):
                gone.update(one.parts, one.over)
        return Ledger(tuple(one for one in self.contributions if not gone.intersection(one.parts)))

    def to_json(self) -> list[Any]:
        """Give it as JSON.

        Returns
        -------
        list
            One item for each contribution.
        """
        return [[one.id, list(one.parts), dict(one.sources), list(one.over)] for one in self.contributions]

    @classmethod
    def from_json(cls, document: Any) -> Ledger:
        """Read what `to_json` gave.

        Parameters
        ----------
        document : list
            Parsed JSON.

        Returns
        -------
        Ledger
            The same.

        Raises
        ------
        InvalidInputError
            It is not of that form.

        Examples
        --------
        >>> Ledger.from_json(Ledger((Contribution("a", (0,)),)).to_json()).find("a").parts
        (0,)
        """
        try:
            return cls(
                tuple(
                    Contribution(str(name), tuple(map(int, parts)), dict(sources), tuple(map(int, over)))
                    for name, parts, sources, over in document
                )
            )
        except (TypeError, ValueError) as error:
            raise InvalidInputError(f"the list of what calls put into a table is damaged: {error}") from error
