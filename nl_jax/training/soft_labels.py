"""Labels that are no longer one class: smoothed labels, and labels of mixed examples."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


def smooth(label: Float[Array, "b k"], amount: float, *, multi_label: bool) -> Float[Array, "b k"]:
    """Returns (1 - e) y + e / k: the share e = `amount` is spread over the k classes (Szegedy et al. 2016, section 7).

    With `multi_label` each class has two answers, yes and no, and the label is (1 - e) y + e / 2.
    """
    return (1 - amount) * label + amount / 2 if multi_label else optax.smooth_labels(label, amount)


def mixed(x: Float[Array, "b *d"], shares: Float[Array, "b"], *, apart: int = 1) -> Float[Array, "b *d"]:
    """Returns s_i x_i + (1 - s_i) x_(i-r): each example of a batch, or its label, mixed with another (mixup).

    A batch is shuffled, so example i - r is a random other example. The first r examples are mixed with the last r
    (Zhang et al. 2018, arXiv 1710.09412).

    Args:
      shares: s, of 0 to 1; mixup draws them from Beta(alpha, alpha).
      apart: r, places in the batch from an example to the other.
    """
    shares = shares.reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype)
    return shares * x + (1 - shares) * jnp.roll(x, apart, axis=0)
