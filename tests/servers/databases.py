"""A PostgreSQL of our own: made in a temporary directory, run by a user without privileges, reached with a password."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from tests.servers.harness import free_port

USER, PASSWORD = "reader_of_tables", "canary-p4ssw0rd"


def _user() -> str | None:
    """Give the user that the server runs as, since it refuses to run as root."""
    return "postgres" if os.geteuid() == 0 else None


@dataclass
class Postgres:
    """A server on 127.0.0.1 with one user, who owns the database ``results``."""

    home: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp")))
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def bin(self) -> Path:
        return Path(max(glob.glob("/usr/lib/postgresql/*/bin/initdb"))).parent

    def start(self) -> None:
        user = _user()
        if user is not None:
            entry = pwd.getpwnam(user)
            os.chown(self.home, entry.pw_uid, entry.pw_gid)
        data = self.home / "data"
        if not data.exists():
            self._run(
                "initdb", "-D", str(data), "-U", "owner", "-A", "trust", "--locale=C.UTF-8", "-E", "UTF8"
            )
            (data / "pg_hba.conf").write_text(
                "local all owner trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
            )
        settings = ["fsync=off", f"unix_socket_directories={self.home}", "listen_addresses=127.0.0.1"]
        command = [str(self.bin / "postgres"), "-D", str(data), "-p", str(self.port)]
        command += [part for setting in settings for part in ("-c", setting)]
        self.process = subprocess.Popen(
            command, user=user, cwd=self.home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        give_up = time.monotonic() + 60
        while True:
            try:
                with self.owner() as connection:
                    if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [USER]).fetchone():
                        connection.execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
                        connection.execute(f"CREATE DATABASE results OWNER {USER}")
                return
            except psycopg.OperationalError:
                if time.monotonic() > give_up or self.process.poll() is not None:
                    raise
                time.sleep(0.1)

    def owner(self, database: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(
            host=str(self.home), port=self.port, user="owner", dbname=database, autocommit=True
        )

    def url(self, user: str = USER) -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/results"

    def close(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
        shutil.rmtree(self.home, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self.bin / program), *arguments],
            user=_user(),
            cwd=self.home,
            check=True,
            capture_output=True,
        )
