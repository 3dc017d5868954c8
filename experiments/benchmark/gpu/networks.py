"""Compares I3D-NL R50 with five blocks with the PyTorch peer: forward pass and training step, in turns."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.gpu import ours, profiling, theirs
from experiments.benchmark.gpu.record import Record, alternate
from nl_jax.models import ResNetConfig
from nl_jax.models.summary import summarize
from nl_jax.ops import devices

BLOCKS = {"res3": (1, 3), "res4": (1, 3, 5)}
# Frames in a batch; half of this number if a network and its peer together do not fit in the memory of the GPU.
FRAMES_IN_BATCH = 1024
LARGE_MEMORY = 100e9  # bytes for JAX from which both networks fit
FRAMES = (8, 32)  # frames of a clip
# The order of the measurements. Training in bfloat16 is the most important.
ORDER = [
    (dtype, train) for dtype, train in (("bfloat16", True), ("bfloat16", False), ("float32", True), ("float32", False))
]
COMPILE_SECONDS = 100  # maximum time of torch.compile for one network
EAGER_SECONDS = 200  # PyTorch without its compiler is measured only if this many seconds are left


def clips_in_batch(memory: dict[str, int] | None) -> dict[int, int]:
    """Returns {frames of a clip: clips in a batch} for the memory statistics of a device."""
    large = memory is not None and memory["bytes_limit"] >= LARGE_MEMORY
    return {frames: FRAMES_IN_BATCH // frames // (1 if large else 2) for frames in FRAMES}


class Networks:
    """The compiled programs, which the smoke test and the measurement share.

    `products` holds the FLOP/s of matrix products on the chip, by type.
    """

    def __init__(self, record: Record, small: bool, products: dict[str, float]):
        self.record, self.small, self.products = record, small, products
        self.side, self.width = (32, 4) if small else (224, 64)
        self.batch = {8: 2} if small else clips_in_batch(jax.devices()[0].memory_stats())
        self.stages = (1, 2, 2) if small else None
        self.blocks = {"res3": (1,)} if small else BLOCKS
        self._programs = {}

    def smoke(self) -> None:
        """Compiles and runs one step in bfloat16 with 8 frames, and checks that its loss is finite.

        The program is kept for the measurement. If the step fails with cuDNN's attention, this step and all later ones
        run without cuDNN's attention.
        """
        what = "one training step in bfloat16, 8 frames"
        try:
            run, fields = self._ours(8, "bfloat16", True)
            loss = run(1)
        except Exception as error:
            if not devices.knows_cudnn():
                raise
            self.record.add(f"FAIL {what}: {type(error).__name__}: {str(error)[:300]}; again without cuDNN", ok=False)
            self.record.failures += 1
            self._programs.clear()
            devices.knows_cudnn = lambda: False
            run, fields = self._ours(8, "bfloat16", True)
            loss = run(1)
        ok = bool(np.isfinite(loss))
        self.record.failures += not ok
        text = f"{'ok  ' if ok else 'FAIL'} {what}: loss {loss:.4f}, compiled in {fields['compile_seconds']:.0f} s"
        self.record.add(text, what=what, ok=ok, loss=float(loss), **fields)

    def measure(self) -> None:
        """Times every network and records it, with PyTorch's time over ours."""
        theirs.prepare(self.small)
        for dtype, train in ORDER:
            for frames in self.batch:
                what = f"{'training step' if train else 'forward pass'}, {frames} frames, {dtype}"
                if self.record.left() < 40:
                    self.record.note(f"{what}: skipped, {self.record.left():.0f} s are left")
                    continue
                with self.record.attempt(what):
                    self._compare(what, frames, dtype, train)
                self._programs.pop((frames, dtype, train), None)  # frees the memory of its state
                theirs.free()

    def _compare(self, what, frames, dtype, train):
        run, fields = self._ours(frames, dtype, train)
        programs = {"ours": run}
        alone = alternate(programs, rounds=1 if self.small else 3, seconds=0.2)["ours"]
        clips = self.batch[frames]
        operations = 2 * clips * fields["macs"] * (3 if train else 1)
        rate = operations / alone
        share = rate / self.products[dtype]
        self.record.add(
            f"{what}, {clips} clips: {1e3 * alone:.2f} ms, {clips / alone:,.0f} clips/s, {rate / 1e12:.0f} TFLOP/s, "
            f"{share:.0%} of the matrix product, {fields['bytes'] / 1e9:.1f} GB",
            **{"what": what, "alone": alone, "share": share, **fields},
        )
        video, label = self._clips(frames)
        network = {"nonlocal_blocks": self.blocks, "width": self.width, "blocks_per_stage": self.stages}
        memory = {}
        for name, wrap in (("torch", lambda model: model), ("torch compiled", theirs.compiled)):
            if name == "torch" and self.record.left() < EAGER_SECONDS and not self.small:
                continue
            try:
                with theirs.within(min(COMPILE_SECONDS, self.record.left() - 10)):
                    call = theirs.network(video, label, dtype, train, wrap, **network)
                    call()  # cuDNN's search, and compilation
                    memory[name] = theirs.peak_bytes(call)
                    programs[name] = theirs.looped(call)
            except Exception as error:
                self.record.note(f"{what}, {name}: {type(error).__name__}: {str(error)[:200]}")
            self.record.note(f"{what}, {name}: ready")
        seconds = alternate(programs, rounds=1 if self.small else 5, seconds=0.2)
        ratios = {name: value / seconds["ours"] for name, value in seconds.items() if name != "ours"}
        text = ", ".join(f"{name} {1e3 * seconds[name]:.2f} ms ({ratio:.2f}x)" for name, ratio in ratios.items())
        share = operations / seconds["ours"] / self.products[dtype]
        self.record.add(
            f"{what}, {clips} clips: ours {1e3 * seconds['ours']:.2f} ms, {share:.0%} of the matrix product; {text}",
            **{"what": what, "seconds": seconds, "ratios": ratios, "share": share, "torch_bytes": memory},
        )

    def _clips(self, frames):
        rng = np.random.default_rng(0)
        shape = (self.batch[frames], frames, self.side, self.side, 3)
        return rng.normal(size=shape).astype(np.float32), rng.integers(0, 400, shape[0]).astype(np.int32)

    def profile(self) -> None:
        """Profiles the kernels of a training step in bfloat16 with 8 frames."""
        run, _ = self._ours(8, "bfloat16", True)
        _, _, step = self._programs[8, "bfloat16", True]
        profiling.profile(self.record, f"training step of {self.batch[8]} clips", run, step.as_text())

    def _compile(self, frames, dtype, train):
        """Compiles a program, and keeps a function run(count) -> last output, the facts of the program, the program."""
        config = ResNetConfig(
            blocks_per_stage=self.stages,
            width=self.width,
            inflate="3x1x1",
            geometry="slowfast",
            nonlocal_blocks=self.blocks,
            group_size=max(self.batch.values()),  # the statistics of batch norm are of the whole batch, as in PyTorch
            dtype=dtype,
        )
        graphdef, params, batch_stats = ours.arrays(config)
        video, label = map(jnp.asarray, self._clips(frames))
        start = self.record.left()
        if train:
            optimizer = ours.sgd()
            state = (params, batch_stats, optimizer.init(params))
            arguments = (video, label, jax.random.key(0))
            step = ours.training_step(graphdef, optimizer).lower(state, *arguments).compile()

            def run(count: int):
                nonlocal state
                for _ in range(count):
                    state, loss = step(state, *arguments)
                return loss.block_until_ready()
        else:
            step = ours.forward_pass(graphdef).lower(params, batch_stats, video).compile()

            def run(count: int):
                for _ in range(count):
                    found = step(params, batch_stats, video)
                return found.block_until_ready()

        seconds = start - self.record.left()
        memory = step.memory_analysis()
        fields = {
            "compile_seconds": seconds,
            "bytes": memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes,
            "macs": summarize(config, (frames, self.side, self.side)).macs,
        }
        self._programs[frames, dtype, train] = run, fields, step

    def _ours(self, frames, dtype, train):
        """Returns the function and the facts of `_compile`. They are kept until the program has been measured."""
        if (frames, dtype, train) not in self._programs:
            self._compile(frames, dtype, train)
        return self._programs[frames, dtype, train][:2]
