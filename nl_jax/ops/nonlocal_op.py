"""The non-local operation of section 3.1: y_i = 1/C(x) sum_j f(x_i, x_j) g(x_j).

Arrays in, arrays out. One letter per axis: b batch, n positions that ask (queries), m positions that are summed over
(keys), d channels of theta and phi, c channels of g. Gaussian and embedded Gaussian are the same function here: the
first is called with theta = phi = x.

Only the softmax needs the n x m pairwise values, and it is taken over a few queries at a time. The dot product is
linear in its key, so its sum over j can be done first; concatenation is a hinge in one number per position, so a sort
and prefix sums replace the pairs. All forms are exact.

`valid` (b,m) says which keys are summed over, all of them where it is None: C(x) then counts or sums the valid keys
alone, and an item without a valid key gives zeros. What an invalid key holds has no part in values or gradients.

All have derivatives of any order in reverse mode: `jax.jacrev(jax.grad(f))` is a Hessian. Forward mode (`jax.jvp`,
`jax.jacfwd`, `jax.hessian`) is there for the dot product, and for the others with `form="pairs"`, which holds all n x m
values; JAX refuses it for the other forms, whose gradients are written by hand.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nl_jax.ops.attention import attention
from nl_jax.ops.devices import Shape, known, platform
from nl_jax.ops.hinge import hinge
from nl_jax.ops.precision import wide, widen


def gaussian_rows(
    theta: Float[Array, "b n d"],
    phi: Float[Array, "b m d"],
    scale: float = 1.0,
    valid: Bool[Array, "b m"] | None = None,
) -> Float[Array, "b n m"]:
    """softmax_j(scale theta_i . phi_j), in float32: equation 2 or 3 divided by its C(x). 0 at invalid keys."""
    scores = jnp.einsum("bnd,bmd->bnm", theta, _zeroed(phi, valid), preferred_element_type=wide(theta)) * scale
    if valid is None:
        return jax.nn.softmax(scores, axis=-1)
    # The row of an item without a valid key would be the softmax of nothing.
    rows = jax.nn.softmax(scores, axis=-1, where=valid[:, None] | ~valid.any(axis=1)[:, None, None])
    return jnp.where(valid[:, None], rows, 0)


def dot_product_rows(
    theta: Float[Array, "b n d"], phi: Float[Array, "b m d"], valid: Bool[Array, "b m"] | None = None
) -> Float[Array, "b n m"]:
    """theta_i . phi_j / m, in float32: equation 4 divided by its C(x). 0 at invalid keys."""
    scores = jnp.einsum("bnd,bmd->bnm", theta, _zeroed(phi, valid), preferred_element_type=wide(theta))
    return scores / _count(phi, valid)


def concatenation_rows(
    a: Float[Array, "b n"], p: Float[Array, "b m"], valid: Bool[Array, "b m"] | None = None
) -> Float[Array, "b n m"]:
    """relu(a_i + p_j) / m, in float32: equation 5 divided by its C(x). 0 at invalid keys."""
    a, p = widen(a), widen(p)
    rows = jax.nn.relu(a[:, :, None] + p[:, None, :]) / _count(p, valid)
    return rows if valid is None else jnp.where(valid[:, None], rows, 0)


def gaussian(
    theta: Float[Array, "b n d"],
    phi: Float[Array, "b m d"],
    g: Float[Array, "b m c"],
    scale: float = 1.0,
    form: str | None = None,
    valid: Bool[Array, "b m"] | None = None,
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
      valid: the keys that are summed over.

    Raises:
      ValueError: for shapes that do not go together, or m = 0; so do the other two.
    """
    _check_shapes(theta.shape, phi.shape, g.shape, valid)
    return attention(theta, phi, g, scale, form, valid)


def dot_product(
    theta: Float[Array, "b n d"],
    phi: Float[Array, "b m d"],
    g: Float[Array, "b m c"],
    valid: Bool[Array, "b m"] | None = None,
) -> Float[Array, "b n c"]:
    """y_i = 1/m sum_j (theta_i . phi_j) g_j (equation 4).

    Taken as theta_i (sum_j phi_j g_j^T) / m wherever that is cheaper. Sums are float32 whatever the inputs are; the
    result has the type of `g`. On a GPU the sum over j is rounded for the second product where theta is bfloat16.
    """
    _check_shapes(theta.shape, phi.shape, g.shape, valid)
    n, d = theta.shape[1:]
    m, c = g.shape[1:]
    g = _zeroed(g, valid)
    if known(n, m) and n * m * (d + c) < d * c * (n + m):
        return _weighted_sum(dot_product_rows(theta, phi, valid), g)
    phi = _zeroed(phi, valid)
    summed = jnp.einsum("bmd,bmc->bdc", phi, g, preferred_element_type=wide(phi)) / _count(phi, valid)
    # A product of float32 would read every number twice as wide, for 3 bits more. (In float16 the sum may not fit.)
    if platform() == "gpu" and theta.dtype == jnp.bfloat16:
        return jnp.einsum("bnd,bdc->bnc", theta, summed.astype(theta.dtype)).astype(g.dtype)
    return jnp.einsum("bnd,bdc->bnc", widen(theta), summed).astype(g.dtype)


def concatenation(
    a: Float[Array, "b n"],
    p: Float[Array, "b m"],
    g: Float[Array, "b m c"],
    form: str | None = None,
    valid: Bool[Array, "b m"] | None = None,
) -> Float[Array, "b n c"]:
    """y_i = 1/m sum_j relu(a_i + p_j) g_j (equation 5).

    The two halves of w_f are applied outside: w_f . [theta_i, phi_j] = a_i + p_j. Memory is linear in n + m, backward
    too, and on a CPU so is the cost, but for sorting: see `hinge`, which takes the form that suits the platform unless
    `form` names another.
    """
    _check_shapes((*a.shape, 1), (*p.shape, 1), g.shape, valid)
    return hinge(a, p, g, form, valid)


def _zeroed(x: Float[Array, "b m c"], valid: Bool[Array, "b m"] | None) -> Float[Array, "b m c"]:
    """x with zeros for the keys that are not valid: they may hold anything, and zero times infinity is not a number."""
    return x if valid is None else jnp.where(valid[..., None], x, 0)


def _count(keys: Float[Array, "b m *d"], valid: Bool[Array, "b m"] | None) -> Any:
    """C(x) of dot product and concatenation: the number of keys, or of valid ones, and 1 where there are none."""
    if valid is None:
        return keys.shape[1]
    return jnp.maximum(valid.sum(axis=1, dtype=wide(keys)), 1)[:, None, None]


def _weighted_sum(rows: Float[Array, "b n m"], g: Float[Array, "b m c"]) -> Float[Array, "b n c"]:
    if g.dtype == jnp.float16:  # the rows of a dot product may be larger than its largest number, 65504
        g, rows = widen(g), widen(rows)
        return jnp.einsum("bnm,bmc->bnc", rows, g).astype(jnp.float16)
    y = jnp.einsum("bnm,bmc->bnc", rows.astype(g.dtype), g, preferred_element_type=wide(g))
    return y.astype(g.dtype)


def _check_shapes(theta: Shape, phi: Shape, g: Shape, valid: Array | None) -> None:
    if theta[0] != phi[0] or theta[2] != phi[2] or phi[:2] != g[:2] or not phi[1]:
        raise ValueError(f"theta {theta}, phi {phi} and g {g} must be (b,n,d), (b,m,d) and (b,m,c) with m > 0")
    if valid is not None and valid.shape != phi[:2]:
        raise ValueError(f"valid {valid.shape} must be (b,m), here {phi[:2]}: one truth value a key")
