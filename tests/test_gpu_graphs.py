"""Loops as CUDA graphs: when the flag is set, and the result of a flag that XLA does not know."""

import os

import pytest

from tz.runs import gpu_graphs


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(gpu_graphs, "_has_gpu", lambda environment: True)


def environment(flags: str | None = None) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | (
        {} if flags is None else {"XLA_FLAGS": flags}
    )


def test_the_flag_is_added_to_those_of_the_user(gpu):
    found = environment("--xla_gpu_autotune_level=1")
    assert gpu_graphs.use_gpu_graphs(found) is None
    assert found["XLA_FLAGS"] == f"--xla_gpu_autotune_level=1 {gpu_graphs.FLAG}"


def test_what_the_user_says_of_graphs_stays(gpu):
    found = environment("--xla_gpu_enable_command_buffer=")
    assert gpu_graphs.use_gpu_graphs(found) is None
    assert found["XLA_FLAGS"] == "--xla_gpu_enable_command_buffer="


def test_a_flag_that_xla_does_not_know_is_left_out_and_named(gpu, monkeypatch):
    monkeypatch.setattr(gpu_graphs, "FLAG", "--xla_gpu_no_such_flag=1")
    found = environment()
    assert "refuses --xla_gpu_no_such_flag=1" in str(gpu_graphs.use_gpu_graphs(found))
    assert "XLA_FLAGS" not in found


@pytest.mark.parametrize("platforms", ["cpu", "tpu,cpu"])
def test_without_a_gpu_nothing_is_set(platforms, monkeypatch):
    monkeypatch.setattr(gpu_graphs.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(gpu_graphs.pathlib.Path, "exists", lambda path: True)
    found = environment() | {"JAX_PLATFORMS": platforms}
    assert gpu_graphs.use_gpu_graphs(found) is None
    assert "XLA_FLAGS" not in found
