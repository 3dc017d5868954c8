"""The non-local operation of section 3.1: y_i = 1/C(x) sum_j f(x_i, x_j) g(x_j).

One letter per axis: b batch, n queries (the positions i), m keys (the positions j that are summed over), d channels of
theta and phi, c channels of g. Gaussian and embedded Gaussian are the same function here: theta and phi of the Gaussian
are x.

Only the softmax needs the n x m pairwise values, and it computes them for a few queries at a time. The dot product is
linear in its key, so its sum over j can come first. Concatenation is a hinge in one number per position, so a sort and
prefix sums replace the pairs. All forms are exact.

`valid` (b,m) is true for the keys that are summed over, and None stands for all keys. C(x) counts or sums the valid
keys alone. An item of the batch without a valid key gives zeros. The content of an invalid key changes no value and no
gradient.

All operations have derivatives of any order in reverse mode: `jax.jacrev(jax.grad(f))` is a Hessian. The dot product
also has derivatives in forward mode (`jax.jvp`, `jax.jacfwd`, `jax.hessian`). The other operations have them with
`form="pairs"`, which holds all n x m values. JAX refuses forward mode for the other forms, because their gradients are
written by hand.
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
    """Returns softmax_j(scale theta_i . phi_j) in float32: equation 2 or 3 divided by its C(x). Invalid keys give 0."""
    _check_valid(valid, phi.shape)
    scores = jnp.einsum("bnd,bmd->bnm", theta, _zeroed(phi, valid), preferred_element_type=wide(theta)) * scale
    if valid is None:
        return jax.nn.softmax(scores, axis=-1)
    # The row of an item without a valid key would be a softmax over nothing.
    rows = jax.nn.softmax(scores, axis=-1, where=valid[:, None] | ~valid.any(axis=1)[:, None, None])
    return jnp.where(valid[:, None], rows, 0)


def dot_product_rows(
    theta: Float[Array, "b n d"], phi: Float[Array, "b m d"], valid: Bool[Array, "b m"] | None = None
) -> Float[Array, "b n m"]:
    """Returns theta_i . phi_j / m in float32: equation 4 divided by its C(x). Invalid keys give 0."""
    _check_valid(valid, phi.shape)
    scores = jnp.einsum("bnd,bmd->bnm", theta, _zeroed(phi, valid), preferred_element_type=wide(theta))
    return scores / _count(phi, valid)


def concatenation_rows(
    a: Float[Array, "b n"], p: Float[Array, "b m"], valid: Bool[Array, "b m"] | None = None
) -> Float[Array, "b n m"]:
    """Returns relu(a_i + p_j) / m in float32: equation 5 divided by its C(x). Invalid keys give 0."""
    _check_valid(valid, p.shape)
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
    """Computes y_i = sum_j softmax_j(scale theta_i . phi_j) g_j (equations 2 and 3).

    Memory is linear in n + m, forward and backward. `attention` has several forms of this function and takes the one
    that suits the platform, unless `form` names another. Scores and softmax are float32 for every input type. The
    result has the type of `g`.

    Args:
      theta: theta(x) of the queries. For the Gaussian it is x itself.
      phi: phi(x) of the keys. For the Gaussian it is x itself.
      g: g(x) of the keys.
      scale: 1 in the paper; 1/sqrt(d) in the released code.
      form: one of `nl_jax.ops.attention.FORMS`.
      valid: whether each key is summed over. By default all keys are.

    Raises:
      ValueError: shapes do not fit together, m is 0, or `valid` is not of type bool.
    """
    _check_shapes(theta.shape, phi.shape, g.shape, valid)
    return attention(theta, phi, g, scale, form, valid)


def dot_product(
    theta: Float[Array, "b n d"],
    phi: Float[Array, "b m d"],
    g: Float[Array, "b m c"],
    valid: Bool[Array, "b m"] | None = None,
) -> Float[Array, "b n c"]:
    """Computes y_i = 1/m sum_j (theta_i . phi_j) g_j (equation 4).

    The function computes theta_i (sum_j phi_j g_j^T) / m wherever this is cheaper. Sums are float32 for every input
    type, and the result has the type of `g`. On a GPU with bfloat16 theta, the sum over j is rounded to bfloat16 for
    the second product.

    Args:
      theta: theta(x) of the queries.
      phi: phi(x) of the keys.
      g: g(x) of the keys.
      valid: whether each key is summed over. By default all keys are, and m is their number.

    Raises:
      ValueError: shapes do not fit together, m is 0, or `valid` is not of type bool.
    """
    _check_shapes(theta.shape, phi.shape, g.shape, valid)
    n, d = theta.shape[1:]
    m, c = g.shape[1:]
    g = _zeroed(g, valid)
    if known(n, m) and n * m * (d + c) < d * c * (n + m):
        return _weighted_sum(dot_product_rows(theta, phi, valid), g)
    phi = _zeroed(phi, valid)
    summed = jnp.einsum("bmd,bmc->bdc", phi, g, preferred_element_type=wide(phi)) / _count(phi, valid)
    # A float32 product would read twice as many bytes, and TF32 keeps only 3 bits more than bfloat16. A float16 product
    # is no choice, because the sum may be larger than the largest float16.
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
    """Computes y_i = 1/m sum_j relu(a_i + p_j) g_j (equation 5).

    Memory is linear in n + m, forward and backward. With many keys the cost is linear too, except for sorting (see
    `nl_jax.ops.hinge`).

    Args:
      a: the first half of w_f times theta_i. The caller applies both halves: w_f . [theta_i, phi_j] = a_i + p_j.
      p: the second half of w_f times phi_j.
      g: g(x) of the keys.
      form: one of `nl_jax.ops.hinge.FORMS`. By default the platform and the number of keys decide.
      valid: whether each key is summed over. By default all keys are, and m is their number.

    Raises:
      ValueError: shapes do not fit together, m is 0, or `valid` is not of type bool.
    """
    if a.shape[0] != p.shape[0] or p.shape != g.shape[:2] or not p.shape[1]:
        raise ValueError(f"a {a.shape}, p {p.shape} and g {g.shape} must be (b,n), (b,m) and (b,m,c) with m > 0")
    _check_valid(valid, p.shape)
    return hinge(a, p, g, form, valid)


def _zeroed(x: Float[Array, "b m c"], valid: Bool[Array, "b m"] | None) -> Float[Array, "b m c"]:
    """Returns x with zeros for the invalid keys: they may hold infinity, and zero times infinity is NaN."""
    return x if valid is None else jnp.where(valid[..., None], x, 0)


def _count(keys: Float[Array, "b m *d"], valid: Bool[Array, "b m"] | None) -> Any:
    """Returns C(x) of dot product and concatenation: the number of (valid) keys, and 1 where there are none."""
    if valid is None:
        return keys.shape[1]
    return jnp.maximum(valid.sum(axis=1, dtype=wide(keys)), 1)[:, None, None]


def _weighted_sum(rows: Float[Array, "b n m"], g: Float[Array, "b m c"]) -> Float[Array, "b n c"]:
    if g.dtype == jnp.float16:  # a row of a dot product may exceed 65504, the largest float16
        g, rows = widen(g), widen(rows)
        return jnp.einsum("bnm,bmc->bnc", rows, g).astype(jnp.float16)
    y = jnp.einsum("bnm,bmc->bnc", rows.astype(g.dtype), g, preferred_element_type=wide(g))
    return y.astype(g.dtype)


def _check_shapes(theta: Shape, phi: Shape, g: Shape, valid: Array | None) -> None:
    if theta[0] != phi[0] or theta[2] != phi[2] or phi[:2] != g[:2] or not phi[1]:
        raise ValueError(f"theta {theta}, phi {phi} and g {g} must be (b,n,d), (b,m,d) and (b,m,c) with m > 0")
    _check_valid(valid, phi)


def _check_valid(valid: Array | None, keys: Shape) -> None:
    if valid is None:
        return
    if valid.shape != keys[:2]:
        raise ValueError(f"valid {valid.shape} must be (b,m), here {keys[:2]}: one truth value a key")
    if valid.dtype != bool:  # a mask of 255 would count as 255 keys
        raise ValueError(f"valid is {valid.dtype} and must be bool, such as mask > 0")
