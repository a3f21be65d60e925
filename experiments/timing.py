"""Tools of the benchmarks: timing functions alternately, and a line about the machine and the versions."""

import datetime
import importlib.metadata
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax


def compare(
    functions: list[Callable], inputs: list[Any], seconds: float
) -> tuple[list[list[float]], list[float], list[int]]:
    """Compiles the functions and runs them alternately.

    **Returns:** for each function, the seconds of its runs, the seconds of its compilation, and the bytes that the
    compiled function takes besides its inputs, as XLA plans it.
    """
    compiled, compile_seconds, times, memory = [], [], [[] for _ in functions], []
    for function, arguments in zip(functions, inputs, strict=True):
        start = time.perf_counter()
        compiled.append(jax.jit(function).lower(*arguments).compile())
        compile_seconds.append(time.perf_counter() - start)
    for function, arguments in zip(compiled, inputs, strict=True):
        jax.block_until_ready(function(*arguments))
        plan = function.memory_analysis()
        memory.append(plan.temp_size_in_bytes + plan.output_size_in_bytes)
    begin = time.perf_counter()
    while len(times[0]) < 3 or (time.perf_counter() - begin < seconds and len(times[0]) < 200):
        for function, arguments, record in zip(compiled, inputs, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            record.append(time.perf_counter() - start)
    return times, compile_seconds, memory


def device_name() -> str:
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    models = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return f"{len(models)}-core CPU ({models[0]})"


def heading(*packages: str) -> str:
    """Returns a line with the date, the device, and the versions of Python and of `packages`."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return f"{datetime.date.today()}, {device_name()}, Python {platform.python_version()}, {versions}."
