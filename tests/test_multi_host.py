"""Two processes of four devices against one of eight. If one dies, both end, and other processes continue."""

import json
import os
import pathlib
import runpy
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest

pytestmark = [pytest.mark.once, pytest.mark.slow]

SCRIPT = pathlib.Path(__file__).parents[1] / "experiments" / "multi_host.py"
NUM_EPOCHS = 2


def options(out, *more):
    return [str(SCRIPT), "--games", "16", "--simulations", "4", "--out", str(out), *more]


def start(out, log, *more):
    environment = os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5"}
    with log.open("w") as file:
        command = [sys.executable, *options(out, *more)]
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)


def start_pair(folder):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    of_both = ["--coordinator", address, "--num-processes", "2", "--cpu-devices", "4", "--patience", "10"]
    of_both += ["--epochs", "1000"]
    return [start(folder, folder / f"{i}.log", *of_both, "--process-id", str(i)) for i in (0, 1)]


def epochs(folder):
    """Returns the metrics of the finished epochs, without times."""
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [{name: x for name, x in row.items() if "second" not in name} for row in rows]


def one_process(folder, num_epochs, *more):
    """Runs the script in this process, which has eight devices."""
    assert jax.device_count() == 8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", options(folder, "--num-processes", "1", "--epochs", str(num_epochs), *more))
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return epochs(folder)


def end_both(pair, folder, num_epochs):
    """Kills the second process after some epochs, which ends the first too; returns the last saved epoch."""
    try:
        deadline = time.monotonic() + 300
        while len(epochs(folder)) < num_epochs and time.monotonic() < deadline:
            assert all(process.poll() is None for process in pair), (folder / "0.log").read_text()
            time.sleep(0.2)
        assert all(process.poll() is None for process in pair), (folder / "0.log").read_text()
        pair[1].send_signal(signal.SIGKILL)
        assert pair[0].wait(timeout=60) != 0
        log = (folder / "0.log").read_text()
        # The other process notices it by the coordination service, or earlier by a collective that fails.
        assert "JAX distributed service detected fatal errors" in log or "gloo::" in log
        lines = [line for line in (folder / "1.log").read_text().splitlines() if line.startswith("epoch")]
        assert not lines, "only process 0 prints"
    finally:
        for process in pair:
            process.kill()
            process.wait()
    *_, newest = sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())
    assert newest >= num_epochs - 1
    return newest


def test_two_processes_give_the_same_end_together_and_others_go_on(tmp_path_factory):
    """A pair loses its second process, which ends the first too, and one process continues alone."""
    folder = tmp_path_factory.mktemp("pair")
    newest = end_both(start_pair(folder), folder, NUM_EPOCHS)
    for expected, found in zip(one_process(tmp_path_factory.mktemp("one"), NUM_EPOCHS), epochs(folder), strict=False):
        assert found == pytest.approx(expected, rel=1e-4)
    assert [row["epoch"] for row in one_process(folder, newest + 1, "--resume")] == list(range(newest + 1))
