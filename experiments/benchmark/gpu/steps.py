"""Compares five training steps of a small network on the GPU and on the CPU, from the same weights and clips."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.gpu import ours
from experiments.benchmark.gpu.record import Record
from nl_jax.models import ResNetConfig

STEPS, RATE = 5, 2e-4  # with a higher rate, rounding errors alone change the fifth loss
# Maximum error of a loss over the first loss, by the type of the network and the precision of its products.
TOLERANCE = {("float32", "highest"): 1e-3, ("float32", None): 1e-2, ("bfloat16", None): 5e-2}


def check(record: Record, small: bool) -> None:
    """Records the errors of the losses, and whether a second run gives the same bits."""
    gpu, cpu = jax.devices()[0], jax.devices("cpu")[0]
    expected, _ = _losses(cpu, "float32", "highest")
    record.note(f"losses on the CPU: {', '.join(f'{loss:.5f}' for loss in expected)}")
    for (dtype, precision), tolerance in list(TOLERANCE.items())[: 1 if small else None]:
        what = f"{STEPS} steps in {dtype}{', float32 products' if precision else ''}"
        with record.attempt(what):
            found, runs = _losses(gpu, dtype, precision, runs=2)
            errors = {str(i): abs(a - b) / expected[0] for i, (a, b) in enumerate(zip(found, expected, strict=True), 1)}
            record.check(f"{what}: losses of the steps against the CPU's", errors, tolerance)
            same = all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, runs), strict=True))
            record.add(f"{what}: a second run has {'the same' if same else 'OTHER'} bits", what=what, same_bits=same)


def _losses(device, dtype, precision, runs=1):
    """Returns the losses of the first run, and the last state of each run."""
    config = ResNetConfig(
        blocks_per_stage=(1, 2),
        width=16,
        inflate="3x1x1",
        geometry="slowfast",
        num_classes=10,
        nonlocal_blocks={"res2": (0,), "res3": (0, 1)},
        nonlocal_options={"res2": {"pairwise": "concatenation"}},
        dropout=0.0,
        dtype=dtype,
    )
    rng = np.random.default_rng(0)
    video, label = rng.normal(size=(4, 8, 64, 64, 3)).astype(np.float32), rng.integers(0, 10, 4).astype(np.int32)
    with jax.default_device(device), jax.default_matmul_precision(precision):
        graphdef, params, batch_stats = ours.arrays(config)
        optimizer = ours.sgd(RATE)
        step = ours.training_step(graphdef, optimizer)
        video, label, key = jnp.asarray(video), jnp.asarray(label), jax.random.key(0)
        losses, ends = [], []
        for run in range(runs):
            state = jax.tree.map(jnp.copy, (params, batch_stats, optimizer.init(params)))
            for _ in range(STEPS):
                state, loss = step(state, video, label, key)
                if run == 0:
                    losses.append(float(loss))
            ends.append(jax.device_get(state[:2]))
    return losses, ends
