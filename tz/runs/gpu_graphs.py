"""Loops as CUDA graphs, which make a search on a GPU faster."""

import importlib.util
import os
import pathlib
import subprocess
import sys
from collections.abc import MutableMapping

FLAG = "--xla_gpu_enable_command_buffer=+WHILE"
_PLUGINS = "jax_cuda12_plugin", "jax_cuda13_plugin"
_START = "import jax; jax.devices('cpu')"


def use_gpu_graphs(environment: MutableMapping[str, str] = os.environ) -> str | None:
    """Ask XLA to run loops as CUDA graphs, where JAX is going to use an NVIDIA GPU.

    A simulation of a search starts more than a hundred small kernels, and the card waits for each to be started. As a
    graph, a loop starts them all at once: on an H100, searches took 0.6 to 0.9 of their time
    (`experiments/results/gpu_h100.md`). Results are the same. Call it before JAX's first computation, as XLA reads its
    flags when it starts. A flag of the user's own for these graphs stays as it is.

    **Arguments:** `environment`, where `XLA_FLAGS` is read and set.

    **Returns:** None if there is nothing to say; a sentence if this version of XLA refuses the flag, which is then left
    out.
    """
    flags = environment.get("XLA_FLAGS", "")
    if "xla_gpu_enable_command_buffer" in flags or not _has_gpu(environment):
        return None
    with_graphs = f"{flags} {FLAG}".strip()
    # XLA ends a process that has a flag it does not know, so another process tries. It needs no GPU for that.
    trial = dict(environment, XLA_FLAGS=with_graphs, JAX_PLATFORMS="cpu")
    ran = subprocess.run([sys.executable, "-c", _START], env=trial, capture_output=True, check=False)
    if ran.returncode != 0:
        return f"This version of XLA refuses {FLAG}, so loops are not run as CUDA graphs."
    environment["XLA_FLAGS"] = with_graphs
    return None


def _has_gpu(environment: MutableMapping[str, str]) -> bool:
    """Whether JAX is going to find an NVIDIA GPU, told without starting JAX."""
    platforms = environment.get("JAX_PLATFORMS", "")
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return False
    return any(map(importlib.util.find_spec, _PLUGINS)) and pathlib.Path("/dev/nvidiactl").exists()
