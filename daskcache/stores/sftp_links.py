"""Connections over SSH: a few of them, each of one thread at a time, made again where one was cut."""

from __future__ import annotations

import contextlib
import errno
import getpass
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from daskcache.errors import InvalidInputError, MissingExtraError, StoreError
from daskcache.stores.faults import redact
from daskcache.stores.served import Given
from daskcache.stores.sftp_wire import Refused, Wire

__all__ = ["Links"]

_OPTIONS: dict[str, Any] = {
    "username": None,
    "password": None,
    "port": None,
    "key_filename": None,
    "passphrase": None,
    "allow_agent": True,
    "look_for_keys": True,
    "known_hosts": None,
    "compress": False,
    "timeout": 60.0,
    "connect_timeout": 10.0,
    "connections": 4,
}
_ATTEMPTS = 5
_BACKOFF_S = 0.1
# Routers forget connections on which nothing is said.
_KEEPALIVE_S = 30
_SYSTEM_HOSTS = "/etc/ssh/ssh_known_hosts"
# As much as a server may send before it waits for us.
_WINDOW = 1 << 24

# A child of a fork has the parent's connections, and must not say a word on them, not even goodbye.
_sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
_left: list[Any] = []


def _leave_connections() -> None:
    for one in list(_sockets):
        one.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_connections)


class Links:
    """The connections of one store.

    Parameters
    ----------
    given : Given
        Its URL, and storage options.

    Raises
    ------
    MissingExtraError
        paramiko is not installed.
    InvalidInputError
        An option is unknown, or the URL names no host.

    Notes
    -----
    paramiko's sessions are not safe in threads, and two threads that wait for each other's answers wait for ever; so
    each session is lent to one thread at a time, and others wait for their turn.
    """

    def __init__(self, given: Given) -> None:
        parts = urlsplit(given.url)
        self._shown = redact(given.url)
        self._given = given.take(_OPTIONS)
        if not parts.hostname:
            raise InvalidInputError(f"store {self._shown} names no host; expected sftp://host/path")
        try:
            import paramiko

            self._paramiko = paramiko
        except ImportError as error:
            raise MissingExtraError(
                f"store {self._shown} needs paramiko, which is not installed; install daskcache[sftp]"
            ) from error
        self._host = parts.hostname
        self._port = int(parts.port or self._given["port"] or 22)
        self._username = unquote(parts.username or "") or self._given["username"] or getpass.getuser()
        named = self._given["key_filename"]
        if named is not None:
            files = [named] if isinstance(named, str) else list(named)
            self._given["key_filename"] = [os.path.expanduser(name) for name in files]
        self._password = unquote(parts.password or "") or self._given["password"]
        self._set_up()

    def _set_up(self) -> None:
        self._pid = os.getpid()
        self._free: list[_Link] = []
        self._turns = threading.BoundedSemaphore(int(self._given["connections"]))

    def run[T](self, call: Callable[[Wire], T]) -> T:
        """Do something on a connection, and again on another where that was cut.

        Parameters
        ----------
        call : callable
            What is done: what may be begun twice.

        Returns
        -------
        object
            What it returns.

        Raises
        ------
        OSError
            The server refuses, or cannot be reached.
        """
        for attempt in range(_ATTEMPTS):
            try:
                return self._run_once(call)
            except (Refused, FileNotFoundError, StoreError):
                raise
            except (OSError, EOFError, self._paramiko.SSHException) as error:
                if attempt == _ATTEMPTS - 1:
                    raise _clear(error) from error
                time.sleep(_BACKOFF_S * 3**attempt)
        raise AssertionError("each attempt returns or raises")

    def _run_once[T](self, call: Callable[[Wire], T]) -> T:
        if self._pid != os.getpid():
            _left.append(self._free)
            self._set_up()
        with self._turns:
            link = self._take()
            try:
                result = call(link.wire)
            except (Refused, FileNotFoundError):
                self._free.append(link)
                raise
            # Whatever else it was, an answer may still be on its way, and would be taken for another's.
            except BaseException:
                link.close()
                # What cut this one, or let it go silent, did so to those that lie idle.
                idle, self._free = self._free, []
                for other in idle:
                    other.close()
                raise
            self._free.append(link)
            return result

    def _take(self) -> _Link:
        while True:
            try:
                link = self._free.pop()
            except IndexError:
                return self._connect()
            if link.is_open:
                return link
            link.close()

    def _connect(self) -> _Link:
        given = self._given
        client = self._paramiko.SSHClient()
        client.set_missing_host_key_policy(self._paramiko.RejectPolicy())
        self._load_hosts(client, given["known_hosts"])
        plug = socket.create_connection((self._host, self._port), given["connect_timeout"])
        _sockets.add(plug)
        # Small requests would wait for acknowledgements of those before.
        plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            client.connect(
                self._host, self._port, self._username, self._password, sock=plug,
                **{name: given[name] for name in ("key_filename", "passphrase", "allow_agent", "look_for_keys", "compress")},
                timeout=given["connect_timeout"], banner_timeout=given["timeout"], auth_timeout=given["timeout"],
                channel_timeout=given["timeout"],
            )  # fmt: skip
            transport = client.get_transport()
            transport.set_keepalive(_KEEPALIVE_S)
            channel = transport.open_session(window_size=_WINDOW)
            channel.settimeout(given["timeout"])
            channel.invoke_subsystem("sftp")
            return _Link(client, plug, Wire(channel))
        except BaseException as error:
            client.close()
            plug.close()
            told = self._tell(error)
            if told is None:
                raise
            raise StoreError(f"store {self._shown} cannot be opened: {told}") from None

    def _load_hosts(self, client: Any, known_hosts: str | None) -> None:
        try:
            if known_hosts is not None:
                client.load_system_host_keys(os.path.expanduser(known_hosts))
                return
            client.load_system_host_keys()
            if os.path.exists(_SYSTEM_HOSTS):
                client.load_host_keys(_SYSTEM_HOSTS)
        except OSError as error:
            raise StoreError(
                f"store {self._shown} cannot be opened: the known hosts in {known_hosts or _SYSTEM_HOSTS} cannot be read "
                f"({error.strerror or error})"
            ) from None

    def _tell(self, error: BaseException) -> str | None:
        """Say what was wrong with a connection that trying again does not mend; None where it may."""
        ssh = self._paramiko.ssh_exception
        host = self._host if self._port == 22 else f"[{self._host}]:{self._port}"
        if isinstance(error, ssh.BadHostKeyException):
            return f"the server's host key is not the one that the known hosts have for {host}; find out why before you go on"
        if isinstance(error, ssh.PasswordRequiredException):
            return "its private key needs a passphrase; give it by a function: @daskcache.secret('storage_options')"
        has_nothing = isinstance(error, ssh.SSHException) and "No authentication methods" in str(error)
        if has_nothing or isinstance(error, ssh.AuthenticationException):
            return (
                f"the server does not let {self._username} in with any of the keys and passwords at hand; name a key with "
                "the storage option key_filename, load one into the agent, or give the password by a function: "
                "@daskcache.secret('storage_options')"
            )
        if isinstance(error, ssh.SSHException) and "not found in known_hosts" in str(error):
            return (
                f"the known hosts have no key of {host}; add it once it is checked (ssh-keyscan shows it), or name another file "
                "with the storage option known_hosts"
            )
        return None


class _Link:
    """One connection with its session."""

    def __init__(self, client: Any, plug: socket.socket, wire: Wire) -> None:
        self._client = client
        self._plug = plug
        self.wire = wire
        # Also where the store is dropped: an agent's connection stays open else.
        self._end = weakref.finalize(self, _end, client, plug, os.getpid())
        self._end.atexit = False

    @property
    def is_open(self) -> bool:
        transport = self._client.get_transport()
        return transport is not None and transport.is_active()

    def close(self) -> None:
        self._end()


def _end(client: Any, plug: socket.socket, pid: int) -> None:
    if os.getpid() != pid:
        return
    # Of a connection that is no more, nothing is left to say.
    with contextlib.suppress(OSError, EOFError):
        client.close()
    plug.close()


def _clear(error: Exception) -> OSError:
    if isinstance(error, TimeoutError):
        return TimeoutError(errno.ETIMEDOUT, "the server did not answer in time")
    if isinstance(error, OSError) and error.strerror:
        return error
    return ConnectionError(errno.ECONNRESET, f"the connection failed: {str(error) or type(error).__name__}")
