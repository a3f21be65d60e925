"""What the value head is trained towards: returns of an episode, also of one that is not over yet.

The return of a step is an affine function of what follows the steps seen so far, and affine functions compose. So an
episode may arrive in chunks: each stored step keeps two numbers, whatever the length of the episode.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Affine(eqx.Module):
    """The function `x -> offset + coefficient * x` of a value `x`, or an array of such functions.

    **Fields:**

    - `offset`, `coefficient`: of one shape, usually `[T]`, one function for each step.
    """

    offset: Float[Array, "*T"]
    coefficient: Float[Array, "*T"]


def compose(outer: Affine, inner: Affine) -> Affine:
    """The function `x -> outer(inner(x))`, elementwise, with broadcasting; associative.

    **Arguments:**

    - `outer`: the function applied last.
    - `inner`: the function applied first; its shape must broadcast to that of `outer`.

    **Returns:** their composition, in the shape of `outer`.
    """
    # A constant stays as it is, also where the argument is NaN: one bad chunk must not spoil what is settled.
    is_constant = outer.coefficient == 0
    offset = jnp.where(is_constant, outer.offset, outer.offset + outer.coefficient * inner.offset)
    return Affine(offset, jnp.where(is_constant, 0.0, outer.coefficient * inner.coefficient))


def change_of_side(player: Int[Array, "*T"], next_player: Int[Array, "*T"]) -> Affine:
    """Turns a value for `next_player` into the same value for `player`: unchanged if they are one, else negated.

    **Arguments:**

    - `player`: whose view is wanted.
    - `next_player`: whose view the value has. Same shape as `player`.

    **Returns:** the function, in the shape of `player`.
    """
    sign = jnp.where(player == next_player, jnp.float32(1), jnp.float32(-1))
    return Affine(jnp.zeros_like(sign), sign)


def lambda_returns(
    reward: Float[Array, " T"],
    value: Float[Array, " T"],
    action_value: Float[Array, " T"],
    player: Int[Array, " T"],
    terminated: Bool[Array, " T"],
    truncated: Bool[Array, " T"],
    *,
    discount: float | Float[Array, ""],
    lambda_: float | Float[Array, ""] = 1.0,
) -> tuple[Affine, Affine]:
    """The λ-return of each of `T` consecutive steps, in the view of its mover, as far as it is known.

    `G_t` is `reward_t` where the episode terminated, `action_value_t` where it was truncated, and otherwise
    `reward_t + discount * M_{t+1}`, turned to the view of `player_t`, with
    `M_t = (1 - lambda_) * value_t + lambda_ * G_t`. At `lambda_` 1 that is the return itself (Monte Carlo), at 0 it
    looks one step ahead. What comes after step `T - 1` is the argument of the functions returned.

    **Arguments:**

    - `reward`: what the mover of each step received for it.
    - `value`: the search's value of the position, for the mover.
    - `action_value`: the search's estimate of the return from the move played, its reward included, for the mover.
    - `player`: the mover of each step.
    - `terminated`: the step ended its episode.
    - `truncated`: the episode was cut off after the step. Never together with `terminated`.
    - `discount`, `lambda_`: from 0 to 1.

    **Returns:** the `[T]` functions `G_t` of `M_T`, the latter in the view of the mover of step `T - 1`; where the
    episode of step `t` closed, `coefficient` is 0 and `offset` is `G_t`. And the function `M_0` of the same.

    Sutton and Barto, *Reinforcement Learning* (2018), chapter 12.
    """
    closed, lambda_ = terminated | truncated, jnp.float32(lambda_)
    reward, value, action_value = (x.astype(jnp.float32) for x in (reward, value, action_value))
    step = Affine(jnp.where(truncated, action_value, reward), jnp.where(closed, 0.0, jnp.float32(discount)))
    mix = Affine((1 - lambda_) * value, jnp.full_like(value, lambda_))
    first, rest = (jax.tree.map(lambda leaf, part=part: leaf[part], mix) for part in (0, slice(1, None)))
    earlier = jax.tree.map(lambda leaf: leaf[:-1], step)
    inner = compose(compose(earlier, change_of_side(player[:-1], player[1:])), rest)
    last = jax.tree.map(lambda leaf: leaf[-1], step)

    def back(later, earlier):
        earlier = compose(earlier, later)
        return earlier, earlier

    start, returns = jax.lax.scan(back, last, inner, reverse=True)
    return jax.tree.map(lambda leaf, end: jnp.append(leaf, end), returns, last), compose(first, start)
