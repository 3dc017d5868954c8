"""Attention softmax(scale theta phi^T) g. The memory is linear in the number of positions, forward and backward.

One letter per axis: b batch, n queries, m keys, d channels of theta and phi, c channels of g. The function has five
forms, and `attention_form` chooses between the first four:

- chunked: works on any platform and for any shape. It takes the queries in chunks. The forward pass keeps only the
  log-sum-exp of every query, and the backward pass computes the scores of a chunk again (the scheme of FlashAttention,
  Dao et al. 2022).
- cudnn: JAX's fused kernel for NVIDIA GPUs. It takes bfloat16 or float16 and channels in multiples of 8, up to 256 on
  Hopper and newer GPUs and up to 128 on older ones.
- mixed: uses cudnn for a result without a gradient, and chunked for a result and its gradient.
- pallas: JAX's flash attention kernel for TPUs. Zeros fill the last block of positions, and a mask leaves them out.
- pairs: holds all n x m values at once and has derivatives in forward mode. It is used only when `form` asks for it.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import flash_attention
from jaxtyping import Array, Bool, Float

from nl_jax.ops import devices
from nl_jax.ops.chunks import einsum_wide, join_queries, split_queries
from nl_jax.ops.precision import wide, widen

# Positions in one block of the Pallas kernel.
BLOCK = 512
# With at most FEW_PAIRS scores a clip, chunks are faster than cuDNN for forward and backward together, but not for
# forward alone. On an H200 with 256 channels, chunks took 0.83 of cuDNN's time for 3136 x 784 scores, and 1.2 times
# cuDNN's time for 12544 x 3136 (docs/performance.md).
FEW_PAIRS = 2**22


def attention_form(target: devices.Target, partitioned: bool, n: int, m: int, d: int, c: int, dtype) -> str:
    """Returns the form of FORMS for theta (b,n,d), phi (b,m,d) and g (b,m,c).

    Both kernels need d = c (JAX checks this for cuDNN). The kernel for TPUs takes whole lanes of 128 channels, and its
    blocks are fast only with many positions. In a Gaussian block theta is x, and g has half as many channels by
    default. So this block runs in chunks. On a GPU the products of the chunks use the tensor cores.

    Args:
      target: devices that the program is traced for.
      partitioned: whether the compiler may split the computation over devices. It cannot split a Pallas kernel.
      n: number of queries.
      m: number of keys.
      d: channels of theta and phi.
      c: channels of g.
      dtype: type of g.
    """
    if target.platform == "gpu" and target.capability and dtype in (jnp.bfloat16, jnp.float16):
        if d == c <= (256 if target.capability >= (9, 0) else 128) and d % 8 == 0 and target.capability >= (8, 0):
            return "mixed" if n * m <= FEW_PAIRS else "cudnn"
    if target.platform == "tpu" and not partitioned and d == c and d % 128 == 0 and min(n, m) >= BLOCK:
        return "pallas"
    return "chunked"


def attention(
    theta: Float[Array, "b n d"],
    phi: Float[Array, "b m d"],
    g: Float[Array, "b m c"],
    scale: float = 1.0,
    form: str | None = None,
    valid: Bool[Array, "b m"] | None = None,
) -> Float[Array, "b n c"]:
    """Computes y_i = sum_j softmax_j(scale theta_i . phi_j) g_j.

    Scores and softmax are float32, and the result has the type of `g`.

    Args:
      theta: queries.
      phi: keys.
      g: values.
      scale: factor of every score theta_i . phi_j.
      form: one of FORMS. By default the platform and the shapes decide. `devices.compiling_for` names another
        platform. JAX traces the cuDNN kernel only on a machine with an NVIDIA GPU, so chunks replace the kernel on
        other machines.
      valid: the keys over which the softmax and the sum run. By default all keys are valid. An item of the batch
        without a valid key gives zeros.

    Raises:
      ValueError: `form` is unknown.
    """
    if form is None and not devices.known(theta.shape[0], theta.shape[1], phi.shape[1]):
        form = "chunked"  # a kernel needs sizes that are known
    if form is None:
        shapes = (theta.shape[1], *phi.shape[1:], g.shape[2], g.dtype)
        form = attention_form(devices.target(), devices.partitioned(), *shapes)
        if form in ("cudnn", "mixed") and not devices.knows_cudnn():
            form = "chunked"
    if form not in FORMS:
        raise ValueError(f"form={form!r} is unknown; choose one of {', '.join(FORMS)}")
    if valid is None:
        return FORMS[form](theta, phi, g, None, scale)
    # An invalid key may hold infinity, and zero times infinity is NaN, in the gradient too.
    phi, g = (jnp.where(valid[..., None], x, 0) for x in (phi, g))
    y = FORMS[form](theta, phi, g, valid, scale)
    return jnp.where(valid.any(axis=1)[:, None, None], y, 0)


def _cudnn(theta, phi, g, valid, scale):
    n, m, lengths = theta.shape[1], phi.shape[1], None
    if valid is not None:
        # The order of the keys does not change a sum over them. So the valid keys come first, and the kernel gets their
        # number. A bias would be a whole n x m matrix.
        order = jnp.argsort(~valid, axis=1, stable=True)[..., None]
        phi, g = (jnp.take_along_axis(x, order, axis=1) for x in (phi, g))
        lengths = jnp.maximum(valid.sum(axis=1, dtype=jnp.int32), 1)
    elif m % 2:
        lengths = jnp.full(phi.shape[0], m, jnp.int32)
    # JAX has no gradient for an odd number of queries or keys. A query or key of zeros makes the number even, and the
    # lengths leave it out.
    theta, phi, g = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0))) for x in (theta, phi, g))
    theta, phi, g = (x[:, :, None] for x in (theta, phi, g))  # one head
    return jax.nn.dot_product_attention(
        theta, phi, g, scale=scale, key_value_seq_lengths=lengths, implementation="cudnn"
    )[:, :n, 0]


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _chunked(theta, phi, g, valid, scale):
    return _forward(theta, phi, g, valid, scale)[0]


def _scores(queries: Float[Array, "b q d"], phi: Float[Array, "b m d"], valid, scale) -> Float[Array, "b q m"]:
    scores = scale * einsum_wide("bqd,bmd->bqm", queries, phi)
    # A finite number, so that an item without a valid key does not compute infinity minus infinity.
    return scores if valid is None else jnp.where(valid[:, None], scores, jnp.finfo(scores.dtype).min / 2)


def _forward(theta, phi, g, valid, scale):
    def one_chunk(queries: Float[Array, "b q d"]):
        scores = _scores(queries, phi, valid, scale)
        largest = scores.max(axis=-1, keepdims=True)
        weights = jnp.exp(scores - largest)
        total = weights.sum(axis=-1, keepdims=True)
        # Dividing after the product touches c values a query instead of m.
        y = einsum_wide("bqm,bmc->bqc", weights.astype(g.dtype), g) / total
        return y.astype(g.dtype), largest + jnp.log(total)

    n = theta.shape[1]
    y, lse = jax.lax.map(one_chunk, split_queries(theta, phi.shape[1]))
    y, lse = join_queries(y, n), join_queries(lse, n)
    return y, (theta, phi, g, valid, y, lse)


def _backward(scale, residuals, dy):
    theta, phi, g, valid, y, lse = residuals
    n, m = theta.shape[1], phi.shape[1]
    # The derivative of the softmax subtracts sum_j softmax_j times the gradient of softmax_j. This sum is y . dy.
    inner = jnp.sum(widen(y) * widen(dy), axis=-1, keepdims=True)

    def one_chunk(sums, chunk):
        dphi, dg = sums  # sums over the chunks, in float32
        queries, dy, lse, inner = chunk
        weights = jnp.exp(_scores(queries, phi, valid, scale) - lse)
        dg = dg + einsum_wide("bqm,bqc->bmc", weights.astype(dy.dtype), dy)
        dscores = (scale * weights * (einsum_wide("bqc,bmc->bqm", dy, g) - inner)).astype(theta.dtype)
        dphi = dphi + einsum_wide("bqm,bqd->bmd", dscores, queries)
        return (dphi, dg), einsum_wide("bqm,bmd->bqd", dscores, phi).astype(theta.dtype)

    sums = jnp.zeros(phi.shape, wide(phi)), jnp.zeros(g.shape, wide(g))
    chunks = tuple(split_queries(x, m) for x in (theta, dy, lse, inner))
    (dphi, dg), dtheta = jax.lax.scan(one_chunk, sums, chunks)
    return join_queries(dtheta, n), dphi.astype(phi.dtype), dg.astype(g.dtype), None


_chunked.defvjp(_forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _mixed(theta, phi, g, valid, scale):
    return _cudnn(theta, phi, g, valid, scale)


_mixed.defvjp(_forward, _backward)


def _pallas(theta, phi, g, valid, scale):
    (b, n), m = theta.shape[:2], phi.shape[1]
    theta, phi, g = (jnp.pad(x, ((0, 0), (0, -x.shape[1] % BLOCK), (0, 0))) for x in (theta, phi, g))
    # Only positions with the same id see each other. Positions that exist and are valid have the id 1.
    exist = jnp.ones((b, n), jnp.int32), jnp.ones((b, m), jnp.int32) if valid is None else valid.astype(jnp.int32)
    ids = (jnp.pad(e, ((0, 0), (0, x.shape[1] - e.shape[1]))) for e, x in zip(exist, (theta, phi), strict=True))
    ids = flash_attention.SegmentIds(*ids)
    blocks = {field.name: BLOCK for field in dataclasses.fields(flash_attention.BlockSizes)} | {"block_b": 1}
    theta, phi, g = (x[:, None] for x in (theta, phi, g))  # one head
    y = flash_attention.flash_attention(
        theta, phi, g, segment_ids=ids, sm_scale=scale, block_sizes=flash_attention.BlockSizes(**blocks)
    )
    return y[:, 0, :n]


def _pairs(theta, phi, g, valid, scale):
    weights = jax.nn.softmax(_scores(theta, phi, valid, scale), axis=-1)
    return einsum_wide("bnm,bmc->bnc", weights.astype(g.dtype), g).astype(g.dtype)


FORMS = {"pairs": _pairs, "chunked": _chunked, "cudnn": _cudnn, "mixed": _mixed, "pallas": _pallas}
