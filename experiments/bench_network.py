"""Compares the speed of `tz.AZResNet` with the same network in flax.linen.

    python experiments/bench_network.py --norms none layer batch --out experiments/results/network_cpu.md

Both networks have the same layers and the same number of parameters. Inference and gradient steps are measured, each
alone and inside a `lax.scan`, since self-play evaluates inside a scan and a training epoch may be one. The two networks
run alternately; the table has medians, and a ratio above 1 means that `tz.AZResNet` is faster.
"""

import argparse
import functools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from timing import compare, heading

from tz.nn.networks import AZResNet

OPTIMISER = optax.adam(1e-3)


class FlaxResNet(nn.Module):
    """The same network in flax.linen, for batches."""

    num_actions: int
    num_blocks: int
    num_channels: int
    norm: str
    training: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        def conv(x: jax.Array, size: int, channels: int, scale: Any = nn.initializers.ones) -> jax.Array:
            x = nn.Conv(channels, (size, size), use_bias=self.norm == "none")(x)
            if self.norm == "layer":
                return nn.LayerNorm(reduction_axes=(-3, -2, -1), feature_axes=-1, scale_init=scale)(x)
            if self.norm == "batch":
                return nn.BatchNorm(use_running_average=not self.training, scale_init=scale)(x)
            return x

        x = nn.relu(conv(x.astype(jnp.float32), 3, self.num_channels))
        for _ in range(self.num_blocks):
            branch = nn.relu(conv(x, 3, self.num_channels))
            x = nn.relu(x + conv(branch, 3, self.num_channels, nn.initializers.zeros))
        policy, value = nn.relu(conv(x, 1, 2)), nn.relu(conv(x, 1, 1))
        logits = nn.Dense(self.num_actions)(policy.reshape(len(x), -1))
        value = nn.relu(nn.Dense(self.num_channels)(value.reshape(len(x), -1)))
        return logits, jnp.tanh(nn.Dense(1)(value)[:, 0])


def az_loss(logits: jax.Array, value: jax.Array, policy: jax.Array, outcome: jax.Array) -> jax.Array:
    return jnp.mean(optax.softmax_cross_entropy(logits, policy) + (value - outcome) ** 2)


def ours(arguments: argparse.Namespace, norm: str) -> tuple[Any, Callable, Callable, int]:
    """Returns `(carry, infer, train_step, number of parameters)`; `carry` is parameters, statistics and optimiser."""
    network, state = eqx.nn.make_with_state(AZResNet)(
        tuple(arguments.shape), arguments.actions, arguments.blocks, arguments.channels, norm, key=jax.random.key(0)
    )
    params, static = eqx.partition(network, eqx.is_inexact_array)

    def apply(params: Any, state: Any, observations: jax.Array, inference: bool) -> Any:
        network = eqx.nn.inference_mode(eqx.combine(params, static), inference)
        return jax.vmap(network, (0, None), (0, None), axis_name="batch")(observations, state)

    def infer(carry: Any, observations: jax.Array) -> Any:
        return apply(carry[0], carry[1], observations, inference=True)[0]

    def train_step(carry: Any, batch: Any) -> Any:
        params, state, opt_state = carry

        def loss_fn(params: Any) -> Any:
            (logits, value), new_state = apply(params, state, batch[0], inference=False)
            return az_loss(logits, value, *batch[1:]), new_state

        (loss, state), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = OPTIMISER.update(gradient, opt_state)
        return (optax.apply_updates(params, updates), state, opt_state), loss

    return (params, state, OPTIMISER.init(params)), infer, train_step, count(params)


def flax(arguments: argparse.Namespace, norm: str) -> tuple[Any, Callable, Callable, int]:
    """Returns the same as `ours` for flax."""
    make = functools.partial(FlaxResNet, arguments.actions, arguments.blocks, arguments.channels, norm)
    variables = make(training=False).init(jax.random.key(0), jnp.zeros((1, *arguments.shape)))
    params, state = variables["params"], variables.get("batch_stats", {})

    def infer(carry: Any, observations: jax.Array) -> Any:
        return make(training=False).apply({"params": carry[0], "batch_stats": carry[1]}, observations)

    def train_step(carry: Any, batch: Any) -> Any:
        params, state, opt_state = carry

        def loss_fn(params: Any) -> Any:
            variables = {"params": params, "batch_stats": state}
            (logits, value), new = make(training=True).apply(variables, batch[0], mutable=["batch_stats"])
            return az_loss(logits, value, *batch[1:]), new.get("batch_stats", {})

        (loss, state), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = OPTIMISER.update(gradient, opt_state)
        return (optax.apply_updates(params, updates), state, opt_state), loss

    return (params, state, OPTIMISER.init(params)), infer, train_step, count(params)


def count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def scanned_infer(infer: Callable, length: int, carry: Any, observations: jax.Array) -> jax.Array:
    def body(observations: jax.Array, _: None) -> Any:
        logits, value = infer(carry, observations)
        # The next input depends on the output, so that no step can be hoisted out of the loop.
        return observations + 1e-6 * (value + logits[:, 0])[:, None, None, None], value

    return lax.scan(body, observations, None, length=length)[1]


def scanned_train(train_step: Callable, length: int, carry: Any, batch: Any) -> Any:
    return lax.scan(lambda carry, _: train_step(carry, batch), carry, None, length=length)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(8, 8, 2), metavar=("H", "W", "C"))
    parser.add_argument("--actions", type=int, default=65)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--infer-batch", type=int, default=64)
    parser.add_argument("--train-batch", type=int, default=512)
    parser.add_argument("--norms", nargs="+", default=["none", "layer", "batch"])
    parser.add_argument("--cases", nargs="+", default=["inference", "gradient"])
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each row")
    parser.add_argument("--out", type=Path, help="write the table to this Markdown file")
    arguments = parser.parse_args()

    keys = jax.random.split(jax.random.key(1), 4)
    observations = jax.random.normal(keys[0], (arguments.infer_batch, *arguments.shape))
    batch = (
        jax.random.normal(keys[1], (arguments.train_batch, *arguments.shape)),
        jax.nn.softmax(jax.random.normal(keys[2], (arguments.train_batch, arguments.actions))),
        jax.random.uniform(keys[3], (arguments.train_batch,), minval=-1, maxval=1),
    )
    lines = [
        "# AZResNet against the same network in flax.linen",
        "",
        f"{heading('jax', 'equinox', 'flax')} Observations "
        f"{'x'.join(map(str, arguments.shape))}, {arguments.actions} actions, {arguments.blocks} blocks of "
        f"{arguments.channels} channels, float32. Inference on {arguments.infer_batch} boards, a gradient step (Adam) "
        f"on {arguments.train_batch}. Run alternately; medians of a step. Ratio: flax time over "
        "ours, so ours is faster above 1.",
        "",
        "| norm | what | ours, ms | flax, ms | ratio | ratio of minima | compile ours / flax, s | runs |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    print("\n".join(lines), flush=True)
    for norm in arguments.norms:
        candidates = [ours(arguments, norm), flax(arguments, norm)]
        assert candidates[0][3] == candidates[1][3], "the two networks differ in size"
        for case in arguments.cases:
            data, plain, scanned, length = {
                "inference": (observations, 1, scanned_infer, 16),
                "gradient": (batch, 2, scanned_train, 2),
            }[case]
            inputs = [(candidate[0], data) for candidate in candidates]
            for place, steps in (("alone", 1), (f"in a scan of {length}", length)):
                functions = [candidate[plain] for candidate in candidates]
                if steps > 1:
                    functions = [functools.partial(scanned, function, length) for function in functions]
                times, compiling, _ = compare(functions, inputs, arguments.seconds)
                medians, minima = [statistics.median(record) for record in times], [min(record) for record in times]
                cells = [norm, f"{case} {place}", *(f"{1e3 * median / steps:.2f}" for median in medians)]
                cells += [f"{medians[1] / medians[0]:.2f}", f"{minima[1] / minima[0]:.2f}"]
                cells += ["{:.1f} / {:.1f}".format(*compiling), str(len(times[0]))]
                lines.append("| " + " | ".join(cells) + " |")
                print(lines[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
