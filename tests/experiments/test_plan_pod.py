"""The plan of a step: facts of a compiled program, and invalid requests.

libtpu is not needed, because the step is compiled for this machine's simulated devices instead of TPU chips.
"""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import quickstart
from experiments.plan_pod import search, show
from experiments.plan_pod.collectives import Collective, collectives
from experiments.plan_pod.plan import STATE, Plan, Pod, find_pod, make_plan
from nl_jax.errors import InputError
from nl_jax.models.summary import summarize
from nl_jax.ops import devices
from nl_jax.tasks.resnet_fields import make_resnet_config
from nl_jax.training import sharding
from nl_jax.training.chips import CHIPS

ROOT = Path(__file__).parents[2]
CLIP = (8, 24, 24)
SIZES = 5, {"video": jax.ShapeDtypeStruct((*CLIP, 3), np.uint8), "label": jax.ShapeDtypeStruct((), np.int32)}


@pytest.fixture(autouse=True)
def optax_promotes():
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def pod():
    return Pod("cpu:8", "cpu", tuple(jax.devices()), CHIPS["v5e"])


@pytest.fixture
def config():
    return quickstart.get_config("nl_c2d").unlock()


HLO = """HloModule jit_step

%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b)
}

%body (p: (s32[], f32[16,8])) -> (s32[], f32[16,8]) {
  %gathered = f32[16,8]{1,0} all-gather(%x), channel_id=3, replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %t = (s32[], f32[16,8]{1,0}) tuple(%i, %gathered)
}

%wrapped (q: bf16[64]) -> bf16[64] {
  ROOT %permuted = bf16[64]{0} collective-permute(%q), source_target_pairs={{0,1},{1,0}}
}

ENTRY %main (p0: f32[4]) -> f32[4] {
  %r = (f32[4]{0:T(128)S(1)}, /*index=1*/f32[2,3]{1,0}) all-reduce(%p0, %q0), replica_groups=[1,8]<=[8], to_apply=%sum
  %s = (f32[2]{0}, f32[16]{0}) all-gather-start(%p1), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
  %d = f32[16]{0} all-gather-done(%s)
  %w = (s32[], f32[16,8]{1,0}) while(%init), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %f = bf16[64]{0} fusion(%z), kind=kCustom, calls=%wrapped
}
"""


def test_collectives_are_read_from_a_program():
    reduce, gather, permute = collectives(HLO, 8)
    assert reduce == Collective("all-reduce", 1, 40, 2 * 7 / 8 * 40)
    assert gather.count == 6 and gather.bytes == 64 + 5 * 512  # five in a loop, and an asynchronous one
    assert gather.sent == 7 / 8 * 64 + 5 * 3 / 4 * 512
    assert permute == Collective("collective-permute", 1, 128, 128)


def test_a_compiled_step(pod, config, capsys, monkeypatch):
    plan = make_plan(config, pod, *SIZES)
    assert plan.mesh["data"] == 8 and plan.batch_per_chip == 4 and plan.fits
    network = summarize(make_resnet_config(config.model, 5), CLIP)
    assert plan.parts["parameters"] == 4 * network.parameters
    assert plan.parts["batch"] == 4 * (3 * math.prod(CLIP) + 4)
    assert plan.operations == 6 * 4 * network.macs
    assert plan.needed > sum(plan.parts[name] for name in STATE)
    # Every device has the gradient of its own clips. The gradients of all parameters that have one are summed.
    (reduce,) = [found for found in plan.collectives if found.kind == "all-reduce"]
    assert 0.9 * plan.parts["parameters"] < reduce.bytes < 2 * plan.parts["parameters"]
    seconds = plan.seconds(CHIPS["v5e"], "float32")
    assert seconds["arithmetic"] == max(plan.operations, plan.compiled_operations) / 197e12
    assert seconds["collectives"] == sum(found.sent for found in plan.collectives) / 200e9
    assert plan.unit == "clip"
    show.details(dataclasses.replace(plan, remat=("res2",), unit="image"), pod, "float32", 0.5)
    printed = capsys.readouterr().out
    assert "fits, with" in printed and "all-reduce" in printed
    assert printed.count("images/s") == 2 and "clip" not in printed
    (flags,) = [line.split()[5:-1] for line in printed.splitlines() if line.startswith("flags to train like this: ")]
    assert flags[0] == "--config.batch_size=32" and flags[2:4] == ["--config.mesh.fsdp=1", "--config.mesh.time=1"]
    assert flags[4] == "'--config.model.remat=('\"'\"'res2'\"'\"',)'"  # quoted for a shell


@pytest.mark.parametrize(
    "message",
    [
        "RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (20.05G) exceeds available HBM (15.75G).",
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.05G of 15.75G hbm. Exceeded by 4.30G.",
    ],
)
def test_what_the_compiler_says_of_a_program_that_is_too_large(pod, config, capsys, monkeypatch, message):
    def refuse(self, *args, **options):
        raise jax.errors.JaxRuntimeError(message)

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    plan = make_plan(config, pod, *SIZES)
    assert plan.fits is False and plan.needed == 20.05 * 2**30 and plan.limit == 15.75 * 2**30
    show.details(plan, pod, "float32", 0.5)
    printed = capsys.readouterr().out
    assert "does not fit: RESOURCE_EXHAUSTED" in printed and "to train like this" not in printed
    show.table([plan], pod, "float32", 0.5)
    assert "20.05" in capsys.readouterr().out


def test_fsdp_gathers_and_splits_the_state(pod, config, monkeypatch):
    monkeypatch.setattr(sharding, "MIN_SHARDED_SIZE", 64)
    whole, split = (make_plan(search.changed(config, pod, search.Setting({"fsdp": n})), pod, *SIZES) for n in (1, 8))
    for part in ("parameters", "optimizer state"):
        assert split.parts[part] < whole.parts[part] / 4
    assert {found.kind for found in split.collectives} > {found.kind for found in whole.collectives}


def test_what_does_not_fit_is_found_between_what_does(pod, config, monkeypatch):
    tried = []

    def plan_of(config, pod, *sizes):
        sharding.check_batch("batch_size", config.batch_size, sharding.make_mesh(**config.mesh, devices=pod.devices))
        clips = config.batch_size // 8
        tried.append(clips)
        parts = dict.fromkeys(STATE, 1.0)
        return Plan({"data": 8}, 8 * clips, clips, (), parts, 1.0, needed=3.0 + clips**1.1, limit=16.0)

    monkeypatch.setattr(search, "make_plan", plan_of)
    for start in (1, 4, 64):
        tried.clear()
        setting = search.Setting(batch=start)
        first = plan_of(search.changed(config, pod, setting), pod)
        plans = [first, *search.largest(config, pod, SIZES, setting, first)]
        assert max(plan.batch_per_chip for plan in plans if plan.fits) == 10  # 10**1.1 < 13 < 11**1.1
        assert min(plan.batch_per_chip for plan in plans if not plan.fits) == 11
        assert len(tried) == len(set(tried)) <= 10
    tried.clear()
    settings = [search.Setting(remat=remat, batch=clips) for remat in ((), ("res2",)) for clips in (8, 16, 32)]
    search.every(config, pod, SIZES, settings)
    assert tried == [8, 16, 8, 16]  # batches above one that does not fit are not tried


@pytest.mark.parametrize("multiple, fitting", [(4, 8), (16, 0)])
def test_numbers_of_clips_that_cannot_be_run_are_passed_over(pod, config, monkeypatch, multiple, fitting):
    def plan_of(config, pod, *sizes):
        clips = config.batch_size // 8
        if clips % multiple:
            raise InputError("such a batch cannot be run")
        return Plan({"data": 8}, 8 * clips, clips, (), dict.fromkeys(STATE, 1.0), 1.0, needed=3.0 + clips, limit=14.0)

    monkeypatch.setattr(search, "make_plan", plan_of)
    setting = search.Setting(batch=16)
    first = plan_of(search.changed(config, pod, setting), pod)
    plans = search.largest(config, pod, SIZES, setting, first)
    assert max((plan.batch_per_chip for plan in plans if plan.fits), default=0) == fitting


def test_operations_choose_for_what_is_compiled_for():
    with devices.compiling_for("tpu", 4):
        assert devices.platform() == "tpu" and devices.partitioned()
        with devices.compiling_for("gpu", 1):
            assert devices.platform() == "gpu" and not devices.partitioned()
    assert devices.platform() == "cpu" and devices.partitioned()  # the eight simulated devices


def program(*arguments):
    command = [sys.executable, "-m", "experiments.plan_pod", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_gpus_are_lowered_for(tmp_path):
    out = tmp_path / "plan.json"
    done = program("--config=configs/quickstart.py", "--topology=h100:4", "--batch_per_chip=2", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert "only the compiler knows it" in done.stdout and "clips/s, limited by" in done.stdout
    (plan,) = json.loads(out.read_text())
    assert plan["mesh"]["data"] == 4 and plan["batch_size"] == 8 and plan["fits"] is None
    # No gradient of the video is computed, and operations besides products are counted too.
    assert 0.7 < plan["compiled_operations"] / plan["operations"] < 1.3


@pytest.mark.parametrize("flag, message", [("", "for h100:4 the compiler needs the GPU"), ("--search", "choose one")])
def test_the_largest_is_not_promised_where_it_cannot_be_known(flag, message):
    done = program("--config=configs/quickstart.py", "--topology=h100:4", "--largest", *filter(None, [flag]))
    assert done.returncode == 2 and message in done.stderr, done.stderr


def test_classes_are_taken_from_a_folder_of_videos(video_folder):
    done = program("--config=configs/folder.py", f"--config.data.train={video_folder}", "--topology=gpu:1")
    assert done.returncode == 0, done.stderr
    assert "batch_size=8" in done.stdout


@pytest.mark.parametrize("topology", ["v5e", "v4:2x2", "v5e:2", "gpu:0", "gpu:2x2", "h100:"])
def test_a_topology_that_does_not_exist(topology):
    with pytest.raises(InputError, match=rf"--topology={topology} is unknown; choose .* v5e:4x4 .* h100:8"):
        find_pod(topology)


def test_a_config_that_does_not_fit_the_pod(pod, config):
    config.batch_size = 12
    with pytest.raises(InputError, match=r"batch_size=12 does not divide .* 8 devices"):
        make_plan(config, pod, *SIZES)
    config.mesh.fsdp = 3
    with pytest.raises(InputError, match=r"mesh\.fsdp=3 does not divide the 8 devices"):
        make_plan(config, pod, *SIZES)
