"""The classifier: pool, dropout, fully connected layer."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from nl_jax.errors import InputError
from nl_jax.ops.precision import widen


class Classifier(nnx.Module):
    """The classifier of section 4: global average pool, dropout, fc. With `window`, pool and fc slide over the frame.

    With `window` the average runs over all of time and over a window x window patch of space, at stride 1. The softmax
    is then averaged over all places of the window. The released code tests crops larger than the training crops in
    this way. The logits are then the logarithm of this mean, so their softmax is the mean itself.

    Pool, product and softmax are float32, also in a network that computes in bfloat16. In bfloat16 the mean would lose
    its last bits, and different logits would become equal.

    Args:
      channels: channels of the input, c.
      num_classes: number of classes, k.
      dropout: probability that a value after the pool is set to zero.
      window: side of the patch, in positions of res5. None pools all of space.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        dropout: float = 0.5,
        window: int | None = None,
        rngs: nnx.Rngs,
    ):
        self.window = window
        self.dropout = nnx.Dropout(dropout)
        self.fc = nnx.Linear(channels, num_classes, kernel_init=nnx.initializers.normal(0.01), rngs=rngs)

    def __call__(self, x: Float[Array, "b t h w c"], dropout_key: Key[Array, ""] | None = None) -> Float[Array, "b k"]:
        """Returns the logits for x. Training draws its dropout from `dropout_key`.

        Raises:
          InputError: training has a dropout and no `dropout_key`.
        """
        if self.dropout.rate and not self.dropout.deterministic and dropout_key is None:
            raise InputError(
                f"dropout={self.dropout.rate} needs dropout_key, a jax.random.key, in training; call model.eval() to "
                "use the network without dropout"
            )
        x = widen(x)
        if self.window is None or self.window >= max(x.shape[2:4]):
            return self._fc(x.mean(axis=(1, 2, 3)), dropout_key)
        window = (min(self.window, x.shape[2]), min(self.window, x.shape[3]))
        cells = nnx.pool(x.mean(axis=1), 0.0, jax.lax.add, window, (1, 1), "VALID") / math.prod(window)
        log_probabilities = jax.nn.log_softmax(self._fc(cells, dropout_key))
        count = cells.shape[1] * cells.shape[2]
        return jax.nn.logsumexp(log_probabilities, axis=(1, 2)) - jnp.log(count)

    def _fc(self, x: Float[Array, "b *s c"], dropout_key) -> Float[Array, "b *s k"]:
        # The loss and the averages over views are float32.
        return widen(self.fc(self.dropout(x, rngs=dropout_key)))
