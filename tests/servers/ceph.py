"""Ceph's RADOS gateway: one monitor, one object store in memory, one gateway, all without authentication between them."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers.harness import BUCKET, KEY, SECRET, Server, free_port

_CONF = """
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{port}
mon initial members = a
public addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc secure
ms bind msgr2 = false
ms tcp nodelay = true
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
osd pool default pg num = 8
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 4294967296
run dir = {root}
log file = {root}/$name.log
admin socket = {root}/$name.asok
mon data = {root}/mon
osd data = {root}/osd
mon warn on pool no redundancy = false
rgw frontends = beast endpoint=127.0.0.1:{gateway} tcp_nodelay=1
"""


@dataclass
class Gateway(Server):
    """A gateway with what lies under it; killing it leaves the store, so that it finds its objects again."""

    root: Path = Path()
    below: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        if not (self.root / "ready").exists():
            try:
                self._start_store()
            except BaseException:
                # The next test begins anew, and does not fail of what is left.
                self.close()
                self.below.clear()
                self.root.mkdir()
                raise
        super().start()
        _run(
            self.root, "radosgw-admin", "user", "create", "--uid=tests", "--display-name=tests",
            f"--access-key={KEY}", f"--secret-key={SECRET}", check=False,
        )  # fmt: skip
        _make_bucket(self.endpoint)

    def close(self) -> None:
        """Stop what lies under the gateway as well."""
        self.kill()
        for process in self.below:
            process.kill()
            process.wait()
        shutil.rmtree(self.root, ignore_errors=True)

    def _start_store(self) -> None:
        fsid, port = str(uuid.uuid4()), free_port()
        (self.root / "ceph.conf").write_text(
            _CONF.format(fsid=fsid, port=port, root=self.root, gateway=self.port)
        )
        (self.root / "osd").mkdir()
        _run(self.root, "monmaptool", "--create", "--addv", "a", f"[v1:127.0.0.1:{port}]", "--fsid", fsid,
             "--enable-all-features", str(self.root / "monmap"))  # fmt: skip
        _run(self.root, "ceph-mon", "--mkfs", "-i", "a", "--monmap", str(self.root / "monmap"))
        self._spawn("ceph-mon", "-f", "-i", "a")
        # A store that boots with another identity than it was announced with is ignored.
        identity = str(uuid.uuid4())
        # Until the monitor has elected itself, it answers that nothing is permitted.
        _wait(lambda: _run(self.root, "ceph", "osd", "create", identity, check=False).returncode == 0)
        _run(self.root, "ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", identity)
        self._spawn("ceph-osd", "-f", "-i", "0")
        _wait(lambda: b"1 up" in _run(self.root, "ceph", "osd", "stat", check=False).stdout)
        (self.root / "ready").touch()

    def _spawn(self, program: str, *arguments: str) -> None:
        process = subprocess.Popen(
            [program, *arguments, "-c", str(self.root / "ceph.conf")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.below.append(process)


def gateway() -> Gateway:
    root = Path(tempfile.mkdtemp(prefix="ceph-"))
    port = free_port()
    command = ["radosgw", "-f", "-n", "client.admin", "-c", str(root / "ceph.conf")]
    return Gateway(command, port, root=root, patience_s=90)


def _run(
    root: Path, program: str, *arguments: str, check: bool = True, timeout: float = 60
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [program, "-c", str(root / "ceph.conf"), *arguments],
        capture_output=True,
        check=check,
        timeout=timeout,
    )


def _wait(is_so: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not is_so():
        if time.monotonic() > give_up:
            raise RuntimeError("the store under the gateway does not come up")
        time.sleep(0.3)


def _make_bucket(endpoint: str) -> None:
    import botocore.session

    client = botocore.session.Session().create_client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=BUCKET)
    client.close()
