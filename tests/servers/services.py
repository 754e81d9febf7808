"""Redis, sshd and nginx on 127.0.0.1, and what names a store on each as `Bucket` does for buckets."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from tests.servers.harness import Bucket, Cutter, Server, free_port


@dataclass
class Service(Server):
    """A server with a directory of its own."""

    directory: Path = Path("/not/there")

    def kill(self) -> None:
        """Kill what serves single connections as well."""
        if self.process is not None:
            served = psutil.Process(self.process.pid).children(recursive=True)
            super().kill()
            for one in served:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
                    _wait_for_end(one)

    def close(self) -> None:
        super().close()
        shutil.rmtree(self.directory, ignore_errors=True)


def _wait_for_end(process: psutil.Process) -> None:
    """Wait until a process has closed what it had open, whether its parent has heard of its end or not."""
    give_up = time.monotonic() + 30
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < give_up, process
        time.sleep(0.005)


def _wait_for_data(endpoint: str) -> None:
    """Fail while a Redis still reads what it had on disk."""
    where = urlsplit(endpoint)
    with socket.create_connection((where.hostname, where.port), 20) as plug:
        plug.sendall(b"PING\r\n")
        answer = plug.recv(1000)
    if not answer or answer.startswith(b"-LOADING"):
        raise ConnectionError(answer.decode())


def redis(*options: str) -> Service:
    """A Redis that keeps what it has on disk, so that it comes back with it."""
    port, directory = free_port(), Path(tempfile.mkdtemp(prefix="tests-redis-"))
    command = [
        "redis-server",
        "--bind",
        "127.0.0.1",
        "--port",
        str(port),
        "--dir",
        str(directory),
        "--save",
        "",
    ]
    command += ["--unixsocket", str(directory / "redis.sock"), "--appendonly", "yes"]
    # A killed process loses nothing that the system has, and nobody cuts the power.
    command += ["--appendfsync", "no", "--auto-aof-rewrite-percentage", "0", *options]
    return Service(command, port, _wait_for_data, directory=directory)


_SSHD = """
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host_key
PidFile none
AuthorizedKeysFile {directory}/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
MaxStartups 100:30:200
MaxSessions 100
Subsystem sftp {sftp}
{more}
"""


def sshd(*options: str, more: str = "") -> Service:
    """An sshd for the user who runs the tests, with a key for the host and one for the user."""
    port, directory = free_port(), Path(tempfile.mkdtemp(prefix="tests-sshd-"))
    for name in ("host_key", "user_key"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(directory / name)]
        subprocess.run(make, check=True)
    shutil.copy(directory / "user_key.pub", directory / "authorized_keys")
    (directory / "files").mkdir()
    sftp = " ".join(["internal-sftp", *options])  # no shell is needed, which not every user has
    (directory / "sshd_config").write_text(_SSHD.format(port=port, directory=directory, sftp=sftp, more=more))
    # As root it takes another identity before a key is asked for, in a directory that Debian's service makes.
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)
    program = shutil.which("sshd", path="/usr/sbin:/sbin:" + os.environ["PATH"]) or "sshd"
    command = [program, "-D", "-e", "-f", str(directory / "sshd_config")]
    server = Service(command, port, directory=directory)
    trust(server, port)
    return server


def trust(server: Service, port: int) -> None:
    """Note the host's key for a port, that of a proxy perhaps."""
    kind, key, *_ = (server.directory / "host_key.pub").read_text().split()
    with open(server.directory / "known_hosts", "a", encoding="ascii") as file:
        file.write(f"[127.0.0.1]:{port} {kind} {key}\n")


_NGINX = """
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
worker_processes 1;
{user}
events {{ worker_connections 512; }}
http {{
    access_log {directory}/access.log;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    tcp_nodelay on;
    server {{
        listen 127.0.0.1:{port};
        root {directory}/files;
        location / {{ autoindex on; autoindex_format json; }}
        location /html/ {{ alias {directory}/files/; autoindex on; }}
        location /rounded/ {{ alias {directory}/files/; autoindex on; autoindex_exact_size off; }}
        location /silent/ {{ alias {directory}/files/; }}
        location /whole/ {{ alias {directory}/files/; autoindex on; autoindex_format json; max_ranges 0; }}
        location /untagged/ {{ alias {directory}/files/; autoindex on; autoindex_format json; etag off; }}
        location /forbidden/ {{ deny all; }}
        location /guarded/ {{
            alias {directory}/files/; autoindex on; autoindex_format json;
            auth_basic "files"; auth_basic_user_file {directory}/passwords;
        }}
        location /moved/ {{ return 302 /; }}
        if ($request_uri ~ ^/sent(/.*)$) {{ return 302 {other}$1; }}
        if ($request_uri ~ ^/elsewhere(/.*)$) {{ return 307 $1; }}
        location /broken/ {{ return 503; }}
    }}
}}
"""


def nginx(elsewhere: str = "") -> Service:
    """An nginx that lists and serves a directory, in several ways, and sends on what another one has."""
    port, directory = free_port(), Path(tempfile.mkdtemp(prefix="tests-nginx-"))
    (directory / "files").mkdir()
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    (directory / "nginx.conf").write_text(
        _NGINX.format(port=port, directory=directory, user=user, other=elsewhere)
    )
    (directory / "passwords").write_text("someone:{PLAIN}open-sesame\n")
    program = shutil.which("nginx", path="/usr/sbin:/sbin:" + os.environ["PATH"]) or "nginx"
    command = [program, "-c", str(directory / "nginx.conf"), "-e", str(directory / "error.log")]
    return Service(command, port, directory=directory)


class _Place(Bucket):
    """What a store of ours serves, each with a protocol of its own."""

    greeting = 0
    packets = 1

    def faulty(self, *, share: float, seed: int) -> Cutter:
        return Cutter(self.server, share=share / self.packets, seed=seed, greeting=self.greeting)


class RedisPlace(_Place):
    """A prefix in a Redis."""

    def timeouts(self, seconds: float) -> dict[str, Any]:
        return {"socket_timeout": seconds, "socket_connect_timeout": seconds}

    def root(self, path: str = "", endpoint: str | None = None, **options: Any) -> dict[str, Any]:
        where = urlsplit(endpoint or self.server.endpoint).netloc
        return {
            "url": f"redis://{where}/0/{self.path}{path}",
            "storage_options": {**self.options, **options},
        }


class SftpPlace(_Place):
    """A directory of an sshd."""

    greeting = 2000  # keys are agreed on in a dozen packets
    packets = 3  # an object is looked for, opened, written, closed and linked

    def timeouts(self, seconds: float) -> dict[str, Any]:
        return {"timeout": seconds, "connect_timeout": seconds}

    def root(self, path: str = "", endpoint: str | None = None, **options: Any) -> dict[str, Any]:
        where = urlsplit(endpoint or self.server.endpoint)
        directory = self.server.directory  # type: ignore[attr-defined]
        trust(self.server, where.port or 22)  # type: ignore[arg-type]
        named = {"key_filename": str(directory / "user_key"), "known_hosts": str(directory / "known_hosts")}
        return {
            "url": f"sftp://{where.netloc}{directory}/files/{self.path}{path}",
            "storage_options": {**named, **self.options, **options},
        }
