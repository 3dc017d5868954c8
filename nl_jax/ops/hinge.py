"""The sum of concatenation, 1/m sum_j relu(a_i + p_j) g_j. Its memory is linear in the number of positions.

The function has three forms, and `hinge_form` chooses between them:

- sorted: sorts the keys by p, largest first. The keys with a_i + p_j > 0 are then a prefix, and a binary search finds
  its end. Two prefix sums, of g_j and of p_j g_j, give every y_i, at a cost of m log m + n log n. The gradients are
  sums of the same kind with a and p exchanged.
- blockwise: takes the pairs of a few queries at a time and computes them again in the backward pass, as two products of
  cost n m c.
- pairs: holds all pairs at once and has derivatives in forward mode. It is used only when `form` asks for it.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nl_jax.ops import devices
from nl_jax.ops.chunks import einsum_wide, join_queries, split_queries
from nl_jax.ops.fusion import materialize
from nl_jax.ops.precision import wide, widen

# The smallest number of keys for the sorted form, by platform. Sorts and gathers take most of the time of the sorted
# form. Products take most of the time of the blockwise form.
# - GPU: 2048 lies between the sizes that were timed (docs/performance.md).
# - TPU: not timed. The sorted form, compiled for a v5e, moved 34 float32 per position and channel (forward, n = 12544,
#   m = 3136). The blockwise form costs 2 m operations per position and channel. With n = m, at the published peaks of a
#   v5e (197 TFLOP/s, 819 GB/s), both forms take the same time at 33,000 keys. If products do not reach their peak, the
#   number of keys is lower.
MIN_SORTED_KEYS = {"cpu": 512, "gpu": 2048, "tpu": 16384}


def hinge_form(platform: str, m: Any) -> str:
    """Returns the form for m keys, a number or a symbol, on "cpu", "gpu" or "tpu"."""
    return "sorted" if devices.known(m) and m >= MIN_SORTED_KEYS[platform] else "blockwise"


def hinge(
    a: Float[Array, "b n"],
    p: Float[Array, "b m"],
    g: Float[Array, "b m c"],
    form: str | None = None,
    valid: Bool[Array, "b m"] | None = None,
) -> Float[Array, "b n c"]:
    """Computes y_i = 1/m sum_j relu(a_i + p_j) g_j. Sums are float32, and the result has the type of `g`.

    Args:
      a: one number for each of n queries.
      p: one number for each of m keys.
      g: values of the keys.
      form: one of FORMS. By default the platform and the number of keys decide.
      valid: the keys over which the sum runs. Their number replaces m. By default all keys are valid. An item of the
        batch without a valid key gives zeros.

    Raises:
      ValueError: `form` is unknown.
    """
    form = form or hinge_form(devices.platform(), p.shape[1])
    if form not in FORMS:
        raise ValueError(f"form={form!r} is unknown; choose one of {', '.join(FORMS)}")
    if valid is None:
        return FORMS[form](a, p, g).astype(g.dtype)
    # A value g_j of zero adds nothing. The key p_j is zeroed too, because it may hold NaN.
    y = FORMS[form](a, jnp.where(valid, p, 0), jnp.where(valid[..., None], g, 0))
    count = jnp.maximum(valid.sum(axis=1, dtype=y.dtype), 1)[:, None, None]
    return (y * (p.shape[1] / count)).astype(g.dtype)


def _sorted(a, p, g):
    return _sum_sorted(widen(a), widen(p), widen(g)) / p.shape[1]


@jax.custom_vjp
def _sum_sorted(a: Float[Array, "b n"], p: Float[Array, "b m"], g: Float[Array, "b m c"]) -> Float[Array, "b n c"]:
    """Returns sum_j relu(a_i + p_j) g_j."""
    return _sorted_forward(a, p, g)[0]


def _sorted_forward(a, p, g):
    # The queries are sorted too: neighbours then read neighbouring sums, and only the result is read in random order.
    by_a, by_p = jnp.argsort(-a, axis=1), jnp.argsort(-p, axis=1)
    a, p, g = _take(a, by_a), _take(p, by_p), _take(g, by_p)
    active, hinge = _prefix_sums(a, p, g)
    return _take(_once(hinge), jnp.argsort(by_a, axis=1)), (a, p, g, by_a, by_p, active)


def _sorted_backward(residuals, dy):
    a, p, g, by_a, by_p, active = residuals
    dy = _take(dy, by_a)
    active_dy, dg = _prefix_sums(p, a, dy)
    da, dp = jnp.einsum("bnc,bnc->bn", active, dy), jnp.einsum("bmc,bmc->bm", active_dy, g)
    to_a, to_p = jnp.argsort(by_a, axis=1), jnp.argsort(by_p, axis=1)
    return _take(da, to_a), _take(dp, to_p), _take(_once(dg), to_p)


_sum_sorted.defvjp(_sorted_forward, _sorted_backward)


def _once(x):
    """Returns x, computed before it is read in random order. XLA:CPU would gather the inputs of x, and this is slow."""
    return materialize(x) if devices.platform() == "cpu" else x


def _prefix_sums(a: Float[Array, "b n"], p: Float[Array, "b m"], g: Float[Array, "b m c"]):
    """Returns sum_j [a_i + p_j > 0] g_j and sum_j relu(a_i + p_j) g_j, both (b,n,c). p must be sorted, largest first.

    The form a_i sum g_j + sum p_j g_j would be a small difference of large sums wherever a and p are large. So this
    function adds up the sum from the key with the largest p on. With G_k = g_1 + .. + g_k, the hinge at key k is H_k =
    sum_{j<k} (p_j - p_k) g_j. It grows from key to key by a gap times G: H_k = H_{k-1} + (p_{k-1} - p_k) G_{k-1}. A
    term cancels here only if it also cancels in the sum over pairs.
    """
    sum_g = jnp.cumsum(g, axis=1)
    gaps = p[:, :-1] - p[:, 1:]
    hinge = jnp.pad(jnp.cumsum(gaps[..., None] * sum_g[:, :-1], axis=1), ((0, 0), (1, 0), (0, 0)))
    # The number of keys with -p_j < a_i, which means a_i + p_j > 0.
    count = jax.vmap(partial(jnp.searchsorted, side="left"))(-p, a)
    last = jnp.maximum(count - 1, 0)
    beyond = jnp.where(count > 0, a + _take(p, last), 0)
    sum_g, hinge = _take(sum_g, last), _take(hinge, last)
    any_key = (count > 0)[..., None]
    return jnp.where(any_key, sum_g, 0), jnp.where(any_key, hinge + beyond[..., None] * sum_g, 0)


def _take(x, order):
    """Returns the rows `order` (b,k) of x (b,n) or (b,n,c), for every item of the batch."""
    order = order.reshape(*order.shape, *(1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, order, axis=1, mode="promise_in_bounds")


@jax.custom_vjp
def _blockwise(a: Float[Array, "b n"], p: Float[Array, "b m"], g: Float[Array, "b m c"]) -> Float[Array, "b n c"]:
    return _blockwise_forward(a, p, g)[0]


def _blockwise_forward(a, p, g):
    m = p.shape[1]

    def one_chunk(queries):
        rows = jax.nn.relu(widen(queries) + widen(p)[:, None]) / m
        return einsum_wide("bqm,bmc->bqc", rows.astype(g.dtype), g)

    y = jax.lax.map(one_chunk, split_queries(a[..., None], m))
    return join_queries(y, a.shape[1]), (a, p, g)


def _blockwise_backward(residuals, dy):
    a, p, g = residuals
    n, m = a.shape[1], p.shape[1]
    dy = dy.astype(g.dtype)

    def one_chunk(sums, chunk):
        dp, dg = sums  # sums over the chunks, in float32
        queries, dy = chunk
        pairs = widen(queries) + widen(p)[:, None]
        dg = dg + einsum_wide("bqm,bqc->bmc", (jax.nn.relu(pairs) / m).astype(dy.dtype), dy)
        dpairs = jnp.where(pairs > 0, einsum_wide("bqc,bmc->bqm", dy, g), 0) / m
        if devices.platform() == "cpu":  # XLA:CPU computes these products faster than a sum over the last axis
            da = einsum_wide("bqm,mo->bqo", dpairs, jnp.ones((m, 1), dpairs.dtype))
        else:  # a product would round to TF32 or bfloat16 first
            da = dpairs.sum(axis=2, keepdims=True)
        return (dp + dpairs.sum(axis=1), dg), da

    sums = jnp.zeros(p.shape, wide(p)), jnp.zeros(g.shape, wide(g))
    (dp, dg), da = jax.lax.scan(one_chunk, sums, (split_queries(a[..., None], m), split_queries(dy, m)))
    return join_queries(da, n)[..., 0].astype(a.dtype), dp.astype(p.dtype), dg.astype(g.dtype)


_blockwise.defvjp(_blockwise_forward, _blockwise_backward)


def _pairs(a, p, g):
    return jax.nn.relu(widen(a)[:, :, None] + widen(p)[:, None]) / p.shape[1] @ widen(g)


FORMS = {"pairs": _pairs, "sorted": _sorted, "blockwise": _blockwise}
