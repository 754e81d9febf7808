"""The database that tables are kept in: named without its password, opened with it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dask.config

from daskcache import secrets
from daskcache.errors import InvalidInputError, MissingExtraError, ReadOnlyError, StoreError
from daskcache.stores import describe

__all__ = ["Database", "sqlalchemy"]

_DIALECTS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}
_LONGEST_WAIT_S = 60


def sqlalchemy() -> Any:
    """Import SQLAlchemy.

    Returns
    -------
    module
        The library.

    Raises
    ------
    MissingExtraError
        It is not installed.

    Examples
    --------
    >>> sqlalchemy().__name__
    'sqlalchemy'
    """
    try:
        import sqlalchemy as sa
    except ImportError as error:
        raise MissingExtraError(
            "tables are kept in databases by SQLAlchemy; pip install 'daskcache[sql]'"
        ) from error
    return sa


@dataclass(frozen=True, slots=True)
class Database:
    """Where a database is, without what it takes to get in.

    Examples
    --------
    >>> Database.of("sqlite:////data/results.db")
    Database(url='sqlite:////data/results.db', secret=None)
    >>> Database.of("postgresql://me:hush@host/results")
    Traceback (most recent call last):
        ...
    daskcache.errors.InvalidInputError: the database postgresql://host/results is named with its password; ...
    """

    url: str
    """Of SQLAlchemy's form, without a password."""
    secret: str | None = None
    """``module:name`` of the function that gives the rest."""

    @classmethod
    def of(cls, url: str | None = None) -> Database:
        """Name a database.

        Parameters
        ----------
        url : str, optional
            Such as ``sqlite:///results.db`` or ``postgresql://host/results``; by default
            ``daskcache.functions.database``.

        Returns
        -------
        Database
            Nobody has asked it anything yet.

        Raises
        ------
        InvalidInputError
            There is none, or it is named with a password, or it is of a kind that is not known.
        MissingExtraError
            There is no SQLAlchemy.
        """
        given = dask.config.get("daskcache.functions.database", None) if url is None else url
        if not isinstance(given, str) or not given:
            raise InvalidInputError(
                "format='sql' keeps tables in a database, and none is named; set daskcache.functions.database, or "
                "database=, to a URL such as 'sqlite:////data/results.db' or 'postgresql://host/results'"
            )
        parsed = _parse(given)
        if parsed.password is not None or any(
            secrets.is_secret(key, str(value)) for key, value in parsed.query.items()
        ):
            raise InvalidInputError(
                f"the database {_show(parsed)} is named with its password; leave it out, and let a function give it: "
                '@daskcache.secret("database")'
            )
        if parsed.get_backend_name() == "sqlite":
            if parsed.database in (None, "", ":memory:") or str(parsed.database).startswith("file:"):
                raise InvalidInputError(
                    f"the database {_show(parsed)} is no file, so that nothing in it would stay; name one, such as "
                    "sqlite:////data/results.db"
                )
            parsed = parsed.set(database=os.path.abspath(os.path.expanduser(str(parsed.database))))
        return cls(parsed.render_as_string(hide_password=True), secrets.default_reference("database"))

    @property
    def label(self) -> str:
        """What manifests and messages call it: without user, password and options."""
        return _show(_parse(self.url))

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return str(_parse(self.url).get_backend_name())

    @contextmanager
    def begin(self, *, write: bool) -> Iterator[Any]:
        """Open a transaction, which ends with the block: all of it happens, or nothing.

        Parameters
        ----------
        write : bool
            Whether it writes. One that reads sees one state of everything.

        Yields
        ------
        sqlalchemy.Connection
            What statements are given to.

        Raises
        ------
        StoreError
            The database cannot be reached, or refuses; the message holds neither password nor values.
        """
        sa = sqlalchemy()
        known: list[str] = []
        try:
            engine = _engine(self, known)
            try:
                with engine.connect() as connection:
                    options: dict[str, Any] = {"daskcache_write": write}
                    if self.dialect == "postgresql" and not write:
                        options["isolation_level"] = "REPEATABLE READ"
                    with connection.execution_options(**options).begin():
                        yield connection
            finally:
                engine.dispose()
        except sa.exc.SQLAlchemyError as error:
            raise self._translate(error, write, known) from None

    def _translate(self, error: Exception, write: bool, known: list[str]) -> StoreError:
        inner = getattr(error, "orig", None) or error
        text = " ".join(str(inner).split())
        for value in known:
            text = text.replace(value, "***")
        message = f"database {self.label}: {secrets.conceal(text)}"
        refused = ("readonly database", "read-only", "permission denied")
        if write and any(word in text for word in refused):
            return ReadOnlyError(f"{message}; it takes no writes from this user")
        return StoreError(f"{message}; see that it runs, and that daskcache.functions.database names it")


def _parse(url: str) -> Any:
    sa = sqlalchemy()
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        # Whatever it is, it may hold a password.
        raise InvalidInputError(
            "the name of the database is no URL of SQLAlchemy's form, such as 'sqlite:////data/results.db'"
        ) from None
    if parsed.get_backend_name() not in _DIALECTS:
        raise InvalidInputError(
            f"a database of the kind {parsed.get_backend_name()!r} is named; expected one of {sorted(_DIALECTS)}"
        )
    return parsed


def _show(parsed: Any) -> str:
    plain = parsed.set(username=None, password=None, query={})
    return describe(plain.set(drivername=parsed.get_backend_name()).render_as_string())


def _engine(database: Database, known: list[str]) -> Any:
    """Make what opens connections; each is closed after its use, so that processes and threads share none."""
    sa = sqlalchemy()
    url = _parse(database.url)
    # A file has no password.
    if database.secret is not None and url.get_backend_name() != "sqlite":
        given = secrets.fetch(database.secret)
        if "url" in given:
            url = _parse(str(given.pop("url")))
        unknown = given.keys() - {"username", "password", "host", "port", "database", "query"}
        if unknown:
            raise InvalidInputError(
                f"the function {database.secret} gives {sorted(unknown)} of a database's URL; expected username, password, "
                "host, port, database, query or url"
            )
        url = url.set(**given)
        known.extend(str(value) for value in (url.password, *url.query.values()) if value)
        secrets.hide({"password": str(url.password or "")})
    backend = url.get_backend_name()
    if "+" not in url.drivername:
        url = url.set(drivername=_DIALECTS[backend])
    waits = {"timeout": _LONGEST_WAIT_S} if backend == "sqlite" else {"connect_timeout": _LONGEST_WAIT_S // 6}
    try:
        engine = sa.create_engine(url, poolclass=sa.NullPool, hide_parameters=True, connect_args=waits)
    except ImportError as error:
        raise MissingExtraError(
            f"databases of the kind {backend!r} need their driver; pip install 'daskcache[sql]'"
        ) from error
    if backend == "sqlite":
        _begin_by_ourselves(engine)
    return engine


def _begin_by_ourselves(engine: Any) -> None:
    """Have tables made and dropped within transactions, which the driver of SQLite does not by itself."""
    sa = sqlalchemy()

    def connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    def begun(connection: Any) -> None:
        write = connection.get_execution_options().get("daskcache_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    sa.event.listen(engine, "connect", connected)
    sa.event.listen(engine, "begin", begun)
