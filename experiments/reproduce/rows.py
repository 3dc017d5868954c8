"""Plans the runs that a table needs: one for each row and seed, with the chain of runs that it starts from.

Two rows with the same network and the same recipe have the same hash and are one run, even in different tables.
"""

import ast
import dataclasses
import hashlib
import importlib
import json
from collections.abc import Iterable, Sequence
from operator import attrgetter
from types import ModuleType

from ml_collections import ConfigDict

from experiments.command_line import check_field
from nl_jax.errors import InputError
from nl_jax.models import ResNetConfig
from nl_jax.models.summary import Summary
from nl_jax.runs.config_files import load_config
from nl_jax.runs.stages import stage_of
from nl_jax.tasks import task_of
from nl_jax.tasks.resnet_fields import make_resnet_config
from nl_jax.training.workdir import ADDED, FREE_FIELDS, flatten

TABLES = {name: f"table{name}" for name in ("2a", "2b", "2c", "2d", "2e", "2f", "2g", "3", "4", "5", "6")}
TABLES |= {name: name for name in ("controls", "controls_after", "recipes", "something", "scenes", "crowns", "nuclei")}
DEFAULTS = {"pairwise": "embedded_gaussian", "axes": "spacetime"}  # of NonLocalBlock; a row may also give them


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One training run.

    Attributes:
      spec: FILE.py:ROW of its config.
      overrides: flags for the fields in which its config differs from FILE.py:ROW, except the start.
      config: its config.
      key: hash of the fields of the config that change the result, without the seed.
      start: the run that it starts from, or None.
    """

    spec: str
    overrides: tuple[str, ...]
    config: ConfigDict
    key: str
    start: "PlannedRun | None"

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def name(self) -> str:
        return f"{self.key}_{self.seed}"


def table_module(table: str) -> ModuleType:
    """Returns the config module of a table. Raises InputError if there is no such table."""
    if table not in TABLES:
        raise InputError(f"there is no table {table!r}; choose from {', '.join(TABLES)}")
    return importlib.import_module(f"configs.{TABLES[table]}")


def choose_rows(table: str, names: Iterable[str] | None) -> list[str]:
    """Returns the rows of a table, or its rows among `names`; each of `names` must be a row of some table."""
    rows = list(table_module(table).ROWS)
    return rows if names is None else [row for row in rows if row in names]


def baseline_of(table: str, row: str) -> str | None:
    """Returns the baseline that the table names, or else its first row of the same depth.

    Returns None for table 3, whose baselines are networks of other tables.
    """
    if named := getattr(table_module(table), "BASELINE", None):
        return named
    rows = table_module(table).ROWS
    depth = rows[row].get("model.depth", 50)
    first = next(name for name, changes in rows.items() if changes.get("model.depth", 50) == depth)
    return None if table == "3" else first


def make_run(table: str, row: str, seed: int, *, laptop: bool, changes: Sequence[str] = ()) -> PlannedRun:
    """Returns the run of a row. `changes` are flags --config.FIELD=VALUE. Raises InputError for an invalid change."""
    spec = f"configs/{TABLES[table]}.py:{row}{',laptop' if laptop else ''}"
    config = load_config(spec)
    for change in changes:
        _override(config, change)
    config.seed = seed
    return _run(spec, config)


def chain(run: PlannedRun) -> list[PlannedRun]:
    """Returns the runs that a run starts from, in their order, and the run itself at the end."""
    return [*(chain(run.start) if run.start else ()), run]


def summary_of(config: ConfigDict) -> Summary:
    """Returns the summary of the network, with its cost for one training clip."""
    task = task_of(config)
    return task.summary(_num_classes(config), task.example_shapes())


def _run(spec: str, config: ConfigDict) -> PlannedRun:
    start = _run(config.start.stage, stage_of(config)) if config.start.stage and not config.start.workdir else None
    flat = flatten(config.to_dict())
    given = flatten(load_config(spec).to_dict())
    overrides = tuple(f"--config.{name}={value}" for name, value in flat.items() if value != given.get(name))
    what = {
        name: value
        for name, value in flat.items()
        if not {name, name.split(".")[0]} & {*FREE_FIELDS, "model", "seed", "eval_every", "start"}
    }
    if not config.get("detector", {}).get("keypoints"):  # results of rows without keypoints are older than these fields
        what = {name: value for name, value in what.items() if not name.startswith("detector.keypoint")}
    what = {name: value for name, value in what.items() if name not in ADDED or value != ADDED[name]}
    what |= {"model": _network(config), "start": start.key if start else config.start.workdir}
    what["start.planes"] = config.start.planes if config.model.inflate else ""
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:10]
    return PlannedRun(spec, overrides, config, key, start)


# Fields of a network that are newer than the results of most rows.
SINCE = ("groups", "width_per_group", "stride_on_1x1", "norm_epsilon", "freeze_at")


def _network(config: ConfigDict) -> str:
    """Returns the network as text. The text is the same for every way to describe the same network in a config."""
    resnet = make_resnet_config(config.model, _num_classes(config))
    fields = dataclasses.asdict(resnet) | {"blocks_per_stage": tuple(resnet.stages().values())}
    fields.pop("depth")
    for name in SINCE:  # a row keeps its key and results if a newer field has its default
        if fields[name] == getattr(ResNetConfig, name):
            fields.pop(name)
    if resnet.nonlocal_blocks:
        fields["nonlocal_options"] = DEFAULTS | dict(resnet.nonlocal_options)
    return json.dumps(fields, sort_keys=True)


def _num_classes(config: ConfigDict) -> int:
    return config.num_classes or len(task_of(config).open_split("train").classes)


def _override(config: ConfigDict, change: str) -> None:
    field, equals, text = change.removeprefix("--config.").partition("=")
    if not equals:
        raise InputError(f"{change!r} has no value; give --config.FIELD=VALUE")
    check_field(config, f"--config.{field}")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    try:
        config.update_from_flattened_dict({field: value})
    except (KeyError, TypeError, AttributeError) as error:
        found = attrgetter(field)(config)
        raise InputError(f"{change}: valid is a value of type {type(found).__name__}") from error
