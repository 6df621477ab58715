"""The real `mlflow ui` and `mlflow server`, which tests may kill and start again where they were."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import psutil

SECONDS = 120
"""Longest wait for a start; it takes ten on an idle machine."""


class MlflowServer:
    """`mlflow COMMAND` in a folder, as plain as a person would type it, with what it says in a log."""

    def __init__(self, folder: Path, log: Path, *command: str) -> None:
        self.folder, self.log, self.port = folder, log, free_port()
        self.command = [sys.executable, "-m", "mlflow", *command, "--port", str(self.port), "--workers", "1"]

    @property
    def address(self) -> str:
        """The address of its pages, and the URI of the store."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
        environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + SECONDS
        while not _answers(self.port):
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def kill(self) -> None:
        """Kill all its processes with SIGKILL, where they live."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def listening(address: str) -> set[str]:
    """Return the interfaces on which the processes behind an address listen, at whatever port."""
    sockets = [each for each in psutil.net_connections("inet") if each.status == psutil.CONN_LISTEN]
    processes = {each.pid for each in sockets if each.laddr.port == urlsplit(address).port}
    return {each.laddr.ip for each in sockets if each.pid in processes}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
