"""Servers on 127.0.0.1 that tests start, kill and start again, and proxies that spoil what goes through them."""

from __future__ import annotations

import http.client
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from zarr.abc.store import Store

from daskcache import stores

BUCKET = "bucket"
KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
# What servers say, with the status 501, of a condition that they do not know.
UNKNOWN = {"unknown": b"<Error><Code>NotImplemented</Code></Error>", "unknown without a word": b""}


# Below those that systems give out, so that nobody takes one before its server does, or while that is down; and each
# once, so that no client's memory of one server is taken for another's. Processes begin far from each other.
_PORTS = range(10_000, 30_000)
_ports = itertools.count(os.getpid() * 1009)


def free_port() -> int:
    for number in _ports:
        port = _PORTS[number % len(_PORTS)]
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("there is always another one")


@dataclass
class Server:
    """A program that listens on a port, and what makes it ready."""

    command: Sequence[str]
    port: int
    prepare: Callable[[str], None] = lambda endpoint: None
    environment: Mapping[str, str] = field(default_factory=dict)
    patience_s: float = 60.0
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            list(self.command),
            env={**os.environ, **self.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        give_up = time.monotonic() + self.patience_s
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                self.prepare(self.endpoint)
                return
            except (OSError, http.client.HTTPException):
                if time.monotonic() > give_up or self.process.poll() is not None:
                    raise RuntimeError(f"{self.command[0]} does not answer") from None
                time.sleep(0.1)

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def close(self) -> None:
        """Stop for good."""
        self.kill()


_MOTO = """
import sys, threading
from moto.server import main
from moto.s3.models import s3_backends
from moto.s3.responses import S3Response
put, lock = S3Response.put_object, threading.Lock()
def put_at_once(*args):
    # It looks for what must not be there, and puts the object some time later.
    with lock:
        return put(*args)
S3Response.put_object = put_at_once
count = int(sys.argv.pop())
if count:
    backend = s3_backends["123456789012"]["aws"]
    backend.create_bucket("many", "us-east-1")
    for n in range(count):
        backend.put_object("many", f"root/chunks/00ff/{n:040x}", b"12345")
main(["-H", "127.0.0.1", "-p", sys.argv[1]])
"""


def moto(count: int = 0) -> Server:
    port = free_port()
    environment = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    command = [sys.executable, "-c", _MOTO, str(port), str(count)]
    return Server(command, port, lambda endpoint: request(endpoint, "PUT", f"/{BUCKET}"), environment)


_GCS = """
import sys
from gcp_storage_emulator import server as handling
from gcp_storage_emulator.handlers.objects import _make_object_resource
from gcp_storage_emulator.server import create_server
_, port, bucket, count = sys.argv
decode = handling._decode_raw_data
def decode_whole(*args):
    # A carriage return at the end of what is put would be taken for a part of the line end that gcsfs writes.
    data, end = decode(*args), b"\\n--==0==--"
    return data[:-len(end)] + b"\\r" + end if data and data.endswith(end) else data
handling._decode_raw_data = decode_whole
server = create_server("127.0.0.1", int(port), in_memory=True, default_bucket=bucket)
storage = server._storage
storage._write_config_to_file = lambda: None  # it writes all it knows down for each object that is put
for n in range(int(count)):
    name = f"many/chunks/00ff/{n:040x}"
    storage.create_file(bucket, name, b"12345", _make_object_resource("", bucket, name, "", 5))
server.run()
"""


def gcs(count: int = 0) -> Server:
    port = free_port()
    command = [sys.executable, "-c", _GCS, str(port), BUCKET, str(count)]
    return Server(command, port, lambda endpoint: request(endpoint, "GET", f"/storage/v1/b/{BUCKET}"))


def request(endpoint: str, method: str, path: str, body: bytes = b"") -> bytes:
    parts = urlsplit(endpoint)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        data = response.read()
        if response.status >= 300:
            raise OSError(f"{method} {path}: {response.status} {data[:200]!r}")
        return data
    finally:
        connection.close()


@dataclass(frozen=True)
class Bucket:
    """A bucket of a server, as one client talks to it."""

    server: Server
    scheme: str
    client: str | None
    options: Mapping[str, Any]
    path: str

    def root(self, path: str = "", endpoint: str | None = None, **options: Any) -> dict[str, Any]:
        """Give what `daskcache.store` takes."""
        return {
            "url": f"{self.scheme}://{BUCKET}/{self.path}{path}",
            "client": self.client,
            "storage_options": {**self.options, "endpoint_url": endpoint or self.server.endpoint, **options},
        }

    def open(self, path: str = "", endpoint: str | None = None, **options: Any) -> Store:
        return stores.open(self.root(path, endpoint, **options))

    def timeouts(self, seconds: float) -> dict[str, Any]:
        """Give the options that make the client wait no longer; none where it takes none."""
        if self.scheme == "gs":
            return {}
        return {"config_kwargs": {"read_timeout": seconds, "connect_timeout": seconds}}

    def faulty(self, *, share: float, seed: int) -> Faulty | Cutter:
        """Give a proxy that spoils a share of what is asked."""
        return Faulty(self.server, share=share, seed=seed)


class Cutter:
    """A TCP proxy that cuts connections once so many bytes have come from the client, or by chance; or is slow."""

    def __init__(
        self,
        server: Server,
        *,
        share: float = 0.0,
        seed: int = 0,
        stall_s: float = 4.0,
        delay_s: float = 0.0,
        greeting: int = 0,
    ) -> None:
        self.server = server
        self.after: int | None = None
        self.cuts = 0
        self.answers: int | None = None
        """After how many more answers, or parts of such, the next is lost with its connection."""
        self.faults: dict[str, int] = {"cut": 0, "stalled": 0}
        self._share, self._stall_s, self._delay_s = share, stall_s, delay_s
        # Bytes of the client's before its first request, of which chance spoils none.
        self._greeting = greeting
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", free_port()))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self.server.port))
        except OSError:
            client.close()
            return
        back = threading.Thread(target=self._pump, args=(server, client, False), daemon=True)
        back.start()
        self._pump(client, server, True)
        back.join()
        client.close()
        server.close()

    def _pump(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        passed = 0
        try:
            while data := source.recv(65536):
                passed += len(data)
                after = self.after
                if counted and after is not None and passed > after:
                    target.sendall(data[: len(data) // 2])
                    self.cuts += 1
                    break
                if counted and passed > self._greeting and (fault := self._draw()):
                    target.sendall(data[: len(data) // 2])
                    time.sleep(self._stall_s if fault == "stalled" else 0)
                    break
                if not counted and self._loses_answer():
                    self.cuts += 1
                    break
                time.sleep(self._delay_s)
                target.sendall(data)
        except OSError:
            return
        finally:
            for end in (source, target):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    def _loses_answer(self) -> bool:
        with self._lock:
            if self.answers is None:
                return False
            self.answers -= 1
            if self.answers >= 0:
                return False
            self.answers = None
            return True

    def _draw(self) -> str | None:
        with self._lock:
            if self._chance.random() >= self._share:
                return None
            fault = self._chance.choice([*self.faults])
            self.faults[fault] += 1
            return fault


class Faulty:
    """An HTTP proxy that answers some requests with 500 or 503, or not in time; or knows nothing of conditions."""

    def __init__(
        self,
        server: Server,
        *,
        share: float = 0.0,
        seed: int = 0,
        stall_s: float = 4.0,
        conditions: str = "kept",
    ) -> None:
        chance = random.Random(seed)
        lock = threading.Lock()
        self.faults: dict[str, int] = {"500": 0, "503": 0, "stalled": 0}
        self.requests = self.conditional = 0
        self.methods: Counter[str] = Counter()
        self.puts: Counter[tuple[str, bool]] = Counter()
        """By path, and whether the server was told to copy."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

            def handle_any(self) -> None:
                body = self._body()
                with lock:
                    proxy.requests += 1
                    proxy.methods[self.command] += 1
                    if self.command == "PUT":
                        proxy.puts[self.path.partition("?")[0], "x-amz-copy-source" in self.headers] += 1
                    fault = chance.choice([*proxy.faults]) if chance.random() < share else None
                    if fault:
                        proxy.faults[fault] += 1
                conditional = "If-None-Match" in self.headers
                proxy.conditional += conditional
                if conditional and conditions in UNKNOWN:
                    self._answer(501, [], UNKNOWN[conditions])
                elif fault == "stalled":
                    time.sleep(stall_s)
                    self.close_connection = True
                elif fault:
                    self._answer(int(fault), [], b"<Error><Code>InternalError</Code></Error>")
                else:
                    self._forward(body)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_PATCH = handle_any

            def _body(self) -> bytes:
                if "chunked" in self.headers.get("Transfer-Encoding", ""):
                    parts = []
                    while size := int(self.rfile.readline().split(b";")[0], 16):
                        parts.append(self.rfile.read(size))
                        self.rfile.readline()
                    self.rfile.readline()
                    return b"".join(parts)
                if self.headers.get("Expect", "").lower() == "100-continue":
                    self.send_response_only(100)
                    self.end_headers()
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            def _forward(self, body: bytes) -> None:
                drop = {"transfer-encoding", "content-length", "expect", "connection"}
                if conditions == "ignored":
                    drop.add("if-none-match")
                headers = {name: value for name, value in self.headers.items() if name.lower() not in drop}
                headers["Content-Length"] = str(len(body))
                upstream = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
                try:
                    upstream.request(self.command, self.path, body, headers)
                    response = upstream.getresponse()
                    self._answer(response.status, response.getheaders(), response.read())
                except OSError:
                    self.close_connection = True
                finally:
                    upstream.close()

            def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
                self.send_response_only(status)
                length = {name.lower(): value for name, value in headers}.get("content-length")
                for name, value in headers:
                    if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                        self.send_header(name, value)
                self.send_header(
                    "Content-Length", length if self.command == "HEAD" and length else str(len(body))
                )
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Clients hang up on requests that are stalled."""

        self._server = Quiet(("127.0.0.1", free_port()), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
