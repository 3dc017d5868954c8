"""The launchers are valid shell and YAML, start existing programs and obey exit code 75."""

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from experiments.command_line import PREEMPTED
from nl_jax.runs.config_files import load_config

LAUNCH = Path(__file__).parents[2] / "experiments" / "launch"
SCRIPTS = sorted(path for path in LAUNCH.iterdir() if path.suffix in (".sh", ".sbatch"))


def fake(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash(script):
    assert subprocess.run(["bash", "-n", script], capture_output=True, text=True).stderr == ""
    assert f"PREEMPTED={PREEMPTED}" in script.read_text()


def test_gke_names_what_exists():
    jobset = yaml.safe_load((LAUNCH / "gke.yaml").read_text())
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert container["command"][1:] == ["-m", "experiments.train"]
    (bad_input,) = job["podFailurePolicy"]["rules"]
    assert (bad_input["action"], bad_input["onExitCodes"]["values"]) == ("FailJob", [2])
    (not_again,) = jobset["spec"]["failurePolicy"]["rules"]  # without a rule a JobSet restarts every failed job
    assert not_again == {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    name, workdir, *fields = (argument.removeprefix("--") for argument in container["args"])
    config = load_config(name.removeprefix("config="))
    assert workdir.startswith("workdir=")
    for field in fields:
        path, _, value = field.removeprefix("config.").partition("=")
        node = config
        for part in path.split("."):
            node = node[part]
        assert type(node) is type(int(value) if value.isdigit() else value), field
    topology = job["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = eval(topology.replace("x", "*"))
    assert job["parallelism"] * container["resources"]["limits"]["google.com/tpu"] == chips
    assert config.batch_size % chips == 0
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in job["template"]["spec"]["volumes"]
    }


def test_slurm_starts_a_process_for_every_gpu():
    """Under Slurm JAX shows each process only the GPU with the number of the process on its machine."""
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\d+)$", (LAUNCH / "slurm.sbatch").read_text(), re.M))
    assert options["ntasks-per-node"] == options["gpus-per-node"]


def test_slurm_queues_a_preempted_run_again(tmp_path):
    fake(tmp_path, "srun", f'echo "$@" >> {tmp_path}/calls; exit $(cat {tmp_path}/code)')
    fake(tmp_path, "scontrol", f'echo "$@" >> {tmp_path}/calls')
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "12"}
    command = ["bash", LAUNCH / "slurm.sbatch", "--config=a.py:row", "--workdir=with space"]
    for code, calls in ((75, ["requeue 12"]), (1, []), (0, [])):
        (tmp_path / "code").write_text(str(code))
        (tmp_path / "calls").write_text("")
        done = subprocess.run(command, env=environment)
        started, *others = (tmp_path / "calls").read_text().splitlines()
        assert "--kill-on-bad-exit=0" in started  # otherwise Slurm kills all processes when the first ends with 75
        assert started.endswith("python3 -m experiments.train --config=a.py:row --workdir=with space")
        assert others == calls and done.returncode == (0 if code == 75 else code)


@pytest.mark.parametrize("codes, result", [("75 75 0", 0), ("75 1", 1), ("2", 1)])
def test_a_tpu_slice_is_started_again_until_it_is_finished(tmp_path, codes, result):
    """The arguments pass through the shell of the hosts unchanged."""
    (tmp_path / "here").mkdir()
    (tmp_path / "codes").write_text("\n".join(codes.split()) + "\n")
    fake(
        tmp_path,
        "gcloud",  # two hosts
        """[[ $4 == describe ]] && { echo READY; exit; }
for argument; do [[ $argument == --command=* ]] && command=${argument#--command=}; done
for host in 0 1; do bash -c "$command"; done
sed -i 1d codes""",
    )
    fake(tmp_path, "python3", "printf '<%s>' \"$@\" >> ../calls; echo >> ../calls; exit $(head -1 ../codes)")
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TPU": "slice", "ZONE": "zone", "DIRECTORY": "here"}
    arguments = ["--config=a.py", "--config.model.remat=('res2',)", "--workdir=with space"]
    done = subprocess.run(
        [LAUNCH / "tpu_vm.sh", *arguments],
        **{"cwd": tmp_path, "env": os.environ | path, "timeout": 60, "capture_output": True, "text": True},
    )
    assert done.returncode == result, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 2 * len(codes.split())
    assert all(re.findall("<(.*?)>", call)[-3:] == arguments for call in calls)


def test_a_tpu_slice_that_does_not_exist_is_not_waited_for(tmp_path):
    fake(tmp_path, "gcloud", "echo ERROR: not found >&2; exit 1")
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TPU": "slcie", "ZONE": "zone"}
    done = subprocess.run(
        [LAUNCH / "tpu_vm.sh", "--config=a.py"], env=os.environ | path, timeout=60, capture_output=True, text=True
    )
    assert done.returncode == 2 and "there is no slice TPU=slcie in ZONE=zone" in done.stderr
