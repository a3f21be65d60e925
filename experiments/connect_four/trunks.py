"""Networks with other blocks between the stem and the heads of `tz.AZResNet`, for `ideas.py`."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

import tz
from tz.nn.layers import ConvNorm


class OtherTrunk(eqx.Module):
    """A network with the stem and the heads of `base`. Its blocks are functions of a board `[H, W, C]`."""

    base: tz.AZResNet
    blocks: tuple[eqx.Module, ...]

    def __call__(self, observation: Array) -> tuple[Array, ...]:
        base = self.base
        x = jax.nn.relu(base.stem(observation.astype(base.stem.weight.dtype), None)[0])
        for block in self.blocks:
            x = block(x)
        policy, value = base.policy_conv(x, None)[0], base.value_conv(x, None)[0]
        logits = base.policy_linear(jax.nn.relu(policy).ravel())
        value = base.value_linear(jax.nn.relu(base.value_hidden(jax.nn.relu(value).ravel())))
        if base.planes_conv is None:
            return logits, base.value_head(value)
        return logits, base.value_head(value), base.planes_conv(x, None)[0]


def _with_blocks(base: tz.AZResNet, blocks: list[eqx.Module]) -> OtherTrunk:
    return OtherTrunk(eqx.tree_at(lambda base: base.blocks, base, ()), tuple(blocks))


def with_another_plane(base: tz.AZResNet, key: PRNGKeyArray) -> tz.AZResNet:
    """Returns the same network with one more plane beside policy and value, from the same key."""
    return tz.AZResNet(**base.settings | {"num_planes": base.settings["num_planes"] + 1}, key=key)


class Pooled(eqx.Module):
    """A residual block that also sees the whole board: the means and the maxima of its channels.

    As in KataGo (`docs/KataGoMethods.md` in its repository), a linear map of them is added to the channels between the
    two convolutions.
    """

    first: eqx.Module
    second: eqx.Module
    pool: eqx.nn.Linear

    def __call__(self, x: Array) -> Array:
        branch = self.first(x, None)[0]
        summary = jnp.concatenate([jnp.mean(branch, (0, 1)), jnp.max(branch, (0, 1))])
        return jax.nn.relu(x + self.second(jax.nn.relu(branch + self.pool(summary)), None)[0])


def pooled(base: tz.AZResNet, key: PRNGKeyArray) -> OtherTrunk:
    """Gives each block of a network a view of the whole board."""
    channels, keys = base.stem.weight.shape[-1], jax.random.split(key, len(base.blocks))
    pools = [eqx.nn.Linear(2 * channels, channels, key=key) for key in keys]
    return _with_blocks(base, [Pooled(*block, pool) for block, pool in zip(base.blocks, pools, strict=True)])


class Bottleneck(eqx.Module):
    """Halves the channels, computes a residual block with these, and adds the result to all channels.

    It is the nested bottleneck of KataGo's newer networks with one inner block.
    """

    narrow: ConvNorm
    first: ConvNorm
    second: ConvNorm
    widen: ConvNorm

    def __call__(self, x: Array) -> Array:
        inner = jax.nn.relu(self.narrow(x, None)[0])
        branch = self.second(jax.nn.relu(self.first(inner, None)[0]), None)[0]
        return jax.nn.relu(x + self.widen(jax.nn.relu(inner + branch), None)[0])


def bottlenecks(base: tz.AZResNet, key: PRNGKeyArray) -> OtherTrunk:
    """Replaces each block by a bottleneck."""
    channels = base.stem.weight.shape[-1]

    def block(key: PRNGKeyArray) -> Bottleneck:
        keys, half = jax.random.split(key, 4), channels // 2
        return Bottleneck(
            ConvNorm(1, channels, half, "none", key=keys[0]),
            ConvNorm(3, half, half, "none", key=keys[1]),
            ConvNorm(3, half, half, "none", scale=0.0, key=keys[2]),
            ConvNorm(1, half, channels, "none", scale=0.0, key=keys[3]),
        )

    return _with_blocks(base, [block(key) for key in jax.random.split(key, len(base.blocks))])


class Places(eqx.Module):
    """Adds a learned vector to each cell, so that attention can tell cells apart."""

    vectors: Float[Array, "H W C"]

    def __call__(self, x: Array) -> Array:
        return x + self.vectors


class Attention(eqx.Module):
    """A transformer block over the cells of the board, with normalisation before each of its two parts."""

    norms: tuple[eqx.nn.LayerNorm, eqx.nn.LayerNorm]
    attention: eqx.nn.MultiheadAttention
    wide: eqx.nn.Linear
    back: eqx.nn.Linear

    def __call__(self, x: Array) -> Array:
        cells = x.reshape(-1, x.shape[-1])
        normal = jax.vmap(self.norms[0])(cells)
        cells = cells + self.attention(normal, normal, normal)
        wide = jax.nn.gelu(jax.vmap(self.wide)(jax.vmap(self.norms[1])(cells)))
        return (cells + jax.vmap(self.back)(wide)).reshape(x.shape)


def transformer(base: tz.AZResNet, key: PRNGKeyArray) -> OtherTrunk:
    """Replaces the blocks by as many transformer blocks with four heads and hidden layers of twice the channels."""
    channels = base.stem.weight.shape[-1]

    def block(key: PRNGKeyArray) -> Attention:
        keys, norm = jax.random.split(key, 3), eqx.nn.LayerNorm(channels)
        attention = eqx.nn.MultiheadAttention(4, channels, key=keys[0])
        wide = eqx.nn.Linear(channels, 2 * channels, key=keys[1])
        return Attention((norm, norm), attention, wide, eqx.nn.Linear(2 * channels, channels, key=keys[2]))

    places, *keys = jax.random.split(key, len(base.blocks) + 1)
    vectors = 0.1 * jax.random.normal(places, (*base.observation_shape[:2], channels))
    return _with_blocks(base, [Places(vectors), *map(block, keys)])
