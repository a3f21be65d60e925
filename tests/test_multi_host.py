"""Two processes of four devices against one of eight; when one dies, both end, and one process goes on alone."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow

SCRIPT = pathlib.Path(__file__).parents[1] / "experiments" / "multi_host.py"
NUM_EPOCHS = 2


def start(out, log, *arguments):
    command = [sys.executable, str(SCRIPT), "--games", "16", "--out", str(out), *arguments]
    environment = os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5"}
    with log.open("w") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)


def start_pair(folder):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    options = ["--coordinator", address, "--num-processes", "2", "--cpu-devices", "4", "--epochs", "1000"]
    return [start(folder, folder / f"{i}.log", *options, "--process-id", str(i)) for i in (0, 1)]


def epochs(folder):
    """The metrics of the epochs that are done, but for times."""
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [{name: x for name, x in row.items() if "second" not in name} for row in rows]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    options = ["--num-processes", "1", "--cpu-devices", "8", "--epochs", str(NUM_EPOCHS)]
    assert start(folder, folder / "log", *options).wait(timeout=300) == 0, (folder / "log").read_text()
    return epochs(folder)


@pytest.mark.parametrize("victim", [0, 1])
def test_two_processes_give_the_same_end_together_and_one_goes_on(tmp_path, alone, victim):
    pair = start_pair(tmp_path)
    try:
        deadline = time.monotonic() + 300
        while len(epochs(tmp_path)) < NUM_EPOCHS and time.monotonic() < deadline:
            assert all(process.poll() is None for process in pair), (tmp_path / "0.log").read_text()
            time.sleep(0.2)
        for expected, found in zip(alone, epochs(tmp_path)[:NUM_EPOCHS], strict=True):
            assert found == pytest.approx(expected, rel=1e-4)

        pair[victim].send_signal(signal.SIGKILL)
        assert pair[1 - victim].wait(timeout=60) != 0
        assert "JAX distributed service detected fatal errors" in (tmp_path / f"{1 - victim}.log").read_text()
        lines = [line for line in (tmp_path / "1.log").read_text().splitlines() if line.startswith("epoch")]
        assert not lines, "only process 0 prints"
    finally:
        for process in pair:
            process.kill()
            process.wait()
    *_, newest = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdecimal())
    assert newest >= NUM_EPOCHS - 1
    more = ["--num-processes", "1", "--cpu-devices", "8", "--epochs", str(newest + 1), "--resume"]
    assert start(tmp_path, tmp_path / "log", *more).wait(timeout=300) == 0, (tmp_path / "log").read_text()
    assert [row["epoch"] for row in epochs(tmp_path)] == list(range(newest + 1))
