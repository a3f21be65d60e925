"""Value targets: the returns of an episode, including an episode that has not ended yet.

The return of a move depends on moves that may not have been played yet. It is an affine function of the value `x` that
follows the newest move: `offset + coefficient * x`. When more moves arrive, `x` becomes an affine function of the value
that follows those moves, and affine functions compose. So an episode may arrive in chunks, and each stored move needs
only two numbers, however long the episode is. The return is known once the coefficient is 0.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Affine(eqx.Module):
    """Represents the function `x -> offset + coefficient * x` of a value `x`, or an array of such functions.

    **Fields:**

    - `offset`: the value of the function at 0. Its shape is usually `[T]`, one function for each move.
    - `coefficient`: the slope, in the same shape; 0 for a constant.
    """

    offset: Float[Array, "*T"]
    coefficient: Float[Array, "*T"]


def compose(outer: Affine, inner: Affine) -> Affine:
    """Composes two functions elementwise into `x -> outer(inner(x))`. The operation is associative.

    **Arguments:**

    - `outer`: the function applied last.
    - `inner`: the function applied first; its shape must broadcast to the shape of `outer`.

    **Returns:** the composition, in the shape of `outer`.
    """
    # A constant must not change even if the argument is NaN (0 * NaN is NaN), or a bad chunk would spoil known targets.
    is_constant = outer.coefficient == 0
    offset = jnp.where(is_constant, outer.offset, outer.offset + outer.coefficient * inner.offset)
    return Affine(offset, jnp.where(is_constant, 0.0, outer.coefficient * inner.coefficient))


def change_of_side(player: Int[Array, "*T"], next_player: Int[Array, "*T"]) -> Affine:
    """Returns the function that turns a value from the perspective of `next_player` to the perspective of `player`.

    It negates the value where the two differ, since games are zero-sum.

    **Arguments:**

    - `player`: the player whose perspective is wanted.
    - `next_player`: the player whose perspective the value has, in the same shape.

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
    r"""Computes the λ-return of each of `T` consecutive moves, from the perspective of the player who made it.

    The return $G_t$ of move $t$ is

    $$G_t = r_t + \gamma \, M_{t+1} \qquad \text{with} \qquad M_t = (1 - \lambda) \, v_t + \lambda \, G_t$$

    where $r_t$ is the reward, $\gamma$ the discount, and $v_t$ the value of the position before move $t$. $M_{t+1}$ is
    negated if the other player is to move there. There are two exceptions: if move $t$ terminated the episode, $G_t$ is
    $r_t$; if the episode was truncated after it, $G_t$ is the move's `action_value`. With $\lambda = 1$, $G_t$ is the
    return itself (Monte Carlo); with $\lambda = 0$, it looks one move ahead. The value $M_T$ after the last move is not
    known yet, so the results are functions of it.

    **Arguments:**

    - `reward`: the reward of each move, for the player who made it.
    - `value`: the search's value of the position before the move, from the perspective of the player to move.
    - `action_value`: the search's estimate of the return of the move played, including its reward, from the same
        perspective.
    - `player`: the player who made each move.
    - `terminated`: True where the move ended the episode.
    - `truncated`: True where the episode was cut off after the move; never together with `terminated`.
    - `discount`: the discount of the return, from 0 to 1.
    - `lambda_`: the λ of the return, from 0 to 1.

    **Returns:** two results, both functions of $M_T$, which is taken from the perspective of `player[T - 1]`. The first
    is `[T]`, the returns $G_t$: if the episode of move $t$ has ended, `coefficient` is 0 and `offset` is $G_t$. The
    second is $M_0$, from the perspective of `player[0]`, on which the returns of earlier moves depend.

    The λ-return is from Sutton and Barto, *Reinforcement Learning* (2018), chapter 12.
    """
    closed, lambda_ = terminated | truncated, jnp.float32(lambda_)
    reward, value, action_value = (x.astype(jnp.float32) for x in (reward, value, action_value))
    # `step` is G_t as a function of M_{t+1} from the perspective of move t's player; `mix` is M_t as a function of G_t.
    step = Affine(jnp.where(truncated, action_value, reward), jnp.where(closed, 0.0, jnp.float32(discount)))
    mix = Affine((1 - lambda_) * value, jnp.full_like(value, lambda_))
    first, rest = (jax.tree.map(lambda leaf, part=part: leaf[part], mix) for part in (0, slice(1, None)))
    earlier = jax.tree.map(lambda leaf: leaf[:-1], step)
    # `inner` is G_t as a function of G_{t+1}. The scan composes these from the last move to the first, which makes
    # every G_t a function of M_T.
    inner = compose(compose(earlier, change_of_side(player[:-1], player[1:])), rest)
    last = jax.tree.map(lambda leaf: leaf[-1], step)

    def back(later, earlier):
        earlier = compose(earlier, later)
        return earlier, earlier

    start, returns = jax.lax.scan(back, last, inner, reverse=True)
    return jax.tree.map(lambda leaf, end: jnp.append(leaf, end), returns, last), compose(first, start)
