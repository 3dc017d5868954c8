"""Which module of the package imports which: no circles, one direction, and little before it is needed."""

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nl_jax"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def imported(module: str) -> set[str]:
    """The modules of the package that a module imports, inside of functions too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:  # a module of a package, or a name in a module
                name = f"{node.module}.{alias.name}"
                found.add(name if name in MODULES else node.module)
    return found & MODULES.keys()


IMPORTS = {module: imported(module) for module in MODULES}


def reached_from(module: str) -> set[str]:
    found, waiting = set(), [module]
    while waiting:
        new = IMPORTS[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def test_there_are_no_circles():
    assert "nl_jax.training.run" in IMPORTS["nl_jax.training.loop"]
    assert not [module for module in MODULES if module in reached_from(module)]


def test_rooms_import_in_one_direction():
    order = (
        "errors",
        "places",
        "ops",
        "models",
        "weights",
        "data",
        "figures",
        "evaluation",
        "training",
        "tasks",
        "zoo",
        "runs",
        "nl_jax",
    )
    for module, others in IMPORTS.items():
        own = order.index(_room(module))
        above = [other for other in others if order.index(_room(other)) > own]
        assert not above, f"{module} imports {above}"


def _room(module: str) -> str:
    parts = module.split(".")
    is_room = len(parts) > 1 and ((PACKAGE / parts[1]).is_dir() or parts[1] in ("errors", "places"))
    return parts[1] if is_room else "nl_jax"


def test_the_loop_knows_no_task():
    reached = reached_from("nl_jax.training.loop")
    assert "nl_jax.training.task" in reached
    assert not {name for name in reached if name.startswith(("nl_jax.tasks", "nl_jax.evaluation"))}
    for name in ("loop", "run", "evaluator", "step", "setup"):
        text = MODULES[f"nl_jax.training.{name}"].read_text()
        words = re.findall(r"clip|top1|crop|video", re.sub("max_bad_videos|clip_norm", "", text))  # fields of all runs
        assert not words, f"{name}.py has {words}"


def test_data_never_imports_jax():
    for module, path in MODULES.items():
        if module.startswith("nl_jax.data"):
            assert not re.search(r"^\s*(import|from) (jax|flax)\b", path.read_text(), re.MULTILINE), module


def test_functions_of_the_loop_and_of_tasks_are_short():
    for module, path in MODULES.items():
        if module.startswith(("nl_jax.training", "nl_jax.tasks")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef):
                    assert node.end_lineno - node.lineno < 80, f"{module}.{node.name} is long"
                    assert not any(isinstance(inner, ast.Nonlocal) for inner in ast.walk(node)), f"{module}.{node.name}"


def test_the_package_loads_little_and_gives_what_it_names():
    program = (
        "import sys, nl_jax; assert not {'jax', 'numpy', 'flax'} & set(sys.modules);"
        "assert nl_jax.__version__;"
        "names = {getattr(nl_jax, name).__name__.removeprefix('nl_jax.') for name in nl_jax.__all__};"
        "assert names == set(nl_jax.__all__);"
        "from nl_jax import Predictor, load_config, train_chain;"
        "assert 'Predictor' in dir(nl_jax) and not hasattr(nl_jax, 'Nothing')"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
