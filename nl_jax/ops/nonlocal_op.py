"""The non-local operation of section 3.1: y_i = 1/C(x) sum_j f(x_i, x_j) g(x_j).

Arrays in, arrays out. One letter per axis: b batch, n positions that ask (queries), m positions that are summed over
(keys), d channels of theta and phi, c channels of g. Gaussian and embedded Gaussian are the same function here: the
first is called with theta = phi = x.

Only the softmax needs the n x m pairwise values, and it is taken over a few queries at a time. The dot product is
linear in its key, so its sum over j can be done first; concatenation is a hinge in one number per position, so a sort
and prefix sums replace the pairs. All forms are exact.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nl_jax.ops.attention import attention
from nl_jax.ops.fusion import materialize
from nl_jax.ops.precision import wide, widen

# The sorted form of concatenation pays a sort and four gathers; below this many keys the pairs are cheaper.
MIN_SORTED_KEYS = 512


def gaussian_rows(
    theta: Float[Array, "b n d"], phi: Float[Array, "b m d"], scale: float = 1.0
) -> Float[Array, "b n m"]:
    """softmax_j(scale theta_i . phi_j), in float32: equation 2 or 3 divided by its C(x)."""
    scores = jnp.einsum("bnd,bmd->bnm", theta, phi, preferred_element_type=wide(theta))
    return jax.nn.softmax(scores * scale, axis=-1)


def dot_product_rows(theta: Float[Array, "b n d"], phi: Float[Array, "b m d"]) -> Float[Array, "b n m"]:
    """theta_i . phi_j / m, in float32: equation 4 divided by its C(x)."""
    return jnp.einsum("bnd,bmd->bnm", theta, phi, preferred_element_type=wide(theta)) / phi.shape[1]


def concatenation_rows(a: Float[Array, "b n"], p: Float[Array, "b m"]) -> Float[Array, "b n m"]:
    """relu(a_i + p_j) / m, in float32: equation 5 divided by its C(x)."""
    a, p = widen(a), widen(p)
    return jax.nn.relu(a[:, :, None] + p[:, None, :]) / p.shape[1]


def gaussian(
    theta: Float[Array, "b n d"],
    phi: Float[Array, "b m d"],
    g: Float[Array, "b m c"],
    scale: float = 1.0,
    form: str | None = None,
) -> Float[Array, "b n c"]:
    """y_i = sum_j softmax_j(scale theta_i . phi_j) g_j (equations 2 and 3).

    Memory is linear in n + m, backward too: see `attention`, which has several forms of this and takes the one that
    suits the platform unless `form` names another. Scores and softmax are float32 whatever the inputs are; the result
    has the type of `g`.

    Args:
      theta: theta(x) of the positions that ask; x itself for the Gaussian.
      phi: phi(x) of the positions that are summed over; x itself for the Gaussian.
      g: g(x) of these.
      scale: 1 in the paper; 1/sqrt(d) in the released code.
      form: one of `nl_jax.ops.attention.FORMS`.

    Raises:
      ValueError: for shapes that do not go together, or m = 0; so do the other two.
    """
    _check_shapes(theta.shape, phi.shape, g.shape)
    return attention(theta, phi, g, scale, form)


def dot_product(
    theta: Float[Array, "b n d"], phi: Float[Array, "b m d"], g: Float[Array, "b m c"]
) -> Float[Array, "b n c"]:
    """y_i = 1/m sum_j (theta_i . phi_j) g_j (equation 4).

    Taken as theta_i (sum_j phi_j g_j^T) / m wherever that is cheaper. Sums are float32 whatever the inputs are; the
    result has the type of `g`.
    """
    _check_shapes(theta.shape, phi.shape, g.shape)
    n, d = theta.shape[1:]
    m, c = g.shape[1:]
    if n * m * (d + c) < d * c * (n + m):
        return _weighted_sum(dot_product_rows(theta, phi), g)
    summed = jnp.einsum("bmd,bmc->bdc", phi, g, preferred_element_type=wide(phi)) / m
    return jnp.einsum("bnd,bdc->bnc", widen(theta), summed).astype(g.dtype)


def concatenation(a: Float[Array, "b n"], p: Float[Array, "b m"], g: Float[Array, "b m c"]) -> Float[Array, "b n c"]:
    """y_i = 1/m sum_j relu(a_i + p_j) g_j (equation 5).

    The two halves of w_f are applied outside: w_f . [theta_i, phi_j] = a_i + p_j. With the keys sorted by p, those with
    a_i + p_j > 0 are a prefix that ends where a_i falls among them, so two prefix sums, of g_j and of p_j g_j, give
    every y_i: cost m log m + n log n. The gradients are sums of the same kind with a and p in each other's place.
    """
    _check_shapes((*a.shape, 1), (*p.shape, 1), g.shape)
    if p.shape[1] < MIN_SORTED_KEYS:
        return _weighted_sum(concatenation_rows(a, p), g)
    y = _hinge(widen(a), widen(p), widen(g))
    return (y / p.shape[1]).astype(g.dtype)


@jax.custom_vjp
def _hinge(a: Float[Array, "b n"], p: Float[Array, "b m"], g: Float[Array, "b m c"]) -> Float[Array, "b n c"]:
    """sum_j relu(a_i + p_j) g_j."""
    return _hinge_forward(a, p, g)[0]


def _hinge_forward(a, p, g):
    # The queries are sorted too: neighbours then read neighbouring sums, and only the result is read in random order.
    by_a, by_p = jnp.argsort(-a, axis=1), jnp.argsort(-p, axis=1)
    a, p, g = _take(a, by_a), _take(p, by_p), _take(g, by_p)
    active, hinge = _hinge_sums(a, p, g)
    return _take(materialize(hinge), jnp.argsort(by_a, axis=1)), (a, p, g, by_a, by_p, active)


def _hinge_backward(residuals, dy):
    a, p, g, by_a, by_p, active = residuals
    dy = _take(dy, by_a)
    active_dy, dg = _hinge_sums(p, a, dy)
    da, dp = jnp.einsum("bnc,bnc->bn", active, dy), jnp.einsum("bmc,bmc->bm", active_dy, g)
    to_a, to_p = jnp.argsort(by_a, axis=1), jnp.argsort(by_p, axis=1)
    return _take(da, to_a), _take(dp, to_p), _take(materialize(dg), to_p)


_hinge.defvjp(_hinge_forward, _hinge_backward)


def _hinge_sums(a: Float[Array, "b n"], p: Float[Array, "b m"], g: Float[Array, "b m c"]):
    """sum_j [a_i + p_j > 0] g_j and sum_j relu(a_i + p_j) g_j, both (b, n, c); p must fall with j.

    a_i sum g_j + sum p_j g_j would be a small difference of large sums wherever a and p are large. Instead, with
    G_k = g_1 + .. + g_k over the keys from the largest p down, the hinge at key k, H_k = sum_{j<k} (p_j - p_k) g_j,
    grows from key to key by a gap times G: H_k = H_{k-1} + (p_{k-1} - p_k) G_{k-1}. Nothing cancels that would not in
    the sum over pairs itself.
    """
    sum_g = jnp.cumsum(g, axis=1)
    gaps = p[:, :-1] - p[:, 1:]
    hinge = jnp.pad(jnp.cumsum(gaps[..., None] * sum_g[:, :-1], axis=1), ((0, 0), (1, 0), (0, 0)))
    # The number of keys with -p_j < a_i, that is a_i + p_j > 0.
    count = jax.vmap(partial(jnp.searchsorted, side="left"))(-p, a)
    last = jnp.maximum(count - 1, 0)
    beyond = jnp.where(count > 0, a + _take(p, last), 0)
    sum_g, hinge = _take(sum_g, last), _take(hinge, last)
    any_key = (count > 0)[..., None]
    return jnp.where(any_key, sum_g, 0), jnp.where(any_key, hinge + beyond[..., None] * sum_g, 0)


def _take(x, order):
    """Rows `order` (b,k) of every x (b,n) or (b,n,c)."""
    order = order.reshape(*order.shape, *(1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, order, axis=1, mode="promise_in_bounds")


def _weighted_sum(rows: Float[Array, "b n m"], g: Float[Array, "b m c"]) -> Float[Array, "b n c"]:
    y = jnp.einsum("bnm,bmc->bnc", rows.astype(g.dtype), g, preferred_element_type=wide(g))
    return y.astype(g.dtype)


def _check_shapes(theta: tuple[int, ...], phi: tuple[int, ...], g: tuple[int, ...]) -> None:
    if theta[0] != phi[0] or theta[2] != phi[2] or phi[:2] != g[:2] or not phi[1]:
        raise ValueError(f"theta {theta}, phi {phi} and g {g} must be (b,n,d), (b,m,d) and (b,m,c) with m > 0")
