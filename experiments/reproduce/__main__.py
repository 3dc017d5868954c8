"""Trains rows of the paper's tables, and shows our figures beside the paper's.

Each row is trained once for each seed. A run that has a result already is not trained again.

python -m experiments.reproduce 2a --laptop --seeds=1
python -m experiments.reproduce 2a 2b 2c 2d 2e 2f 2g controls --laptop --seeds=3
python -m experiments.reproduce 2f --rows=c2d_r50,nl5_i3d_r50 --config.data.train=TRAIN --config.images.train=IMAGES ..
python -m experiments.reproduce 2a 2b --plan
"""

import argparse
import signal
import sys
from pathlib import Path

from experiments import command_line
from experiments.command_line import local_path
from experiments.reproduce import dip, distance, execute, results, tables
from experiments.reproduce.cost import describe_costs
from experiments.reproduce.rows import (
    TABLES,
    PlannedRun,
    baseline_of,
    choose_rows,
    make_run,
    summary_of,
    table_module,
)
from nl_jax.errors import InputError, Preempted


def main(argv: list[str] | None = None) -> None:
    arguments, rest = parser().parse_known_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM acts as Ctrl-C
    try:
        if unknown := [argument for argument in rest if not argument.startswith("--config.")]:
            raise InputError(f"unexpected argument {unknown[0]!r}; {parser().format_usage()}")
        code = reproduce(arguments, rest)
    except InputError as error:
        command_line.fail(error, 2)
    except (Preempted, KeyboardInterrupt):
        print("interrupted: the same command continues from there")
        sys.exit(command_line.PREEMPTED)
    sys.exit(code)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m experiments.reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="--config.FIELD=VALUE changes this field of the config in every row.",
    )
    result.add_argument("tables", nargs="+", metavar="TABLE", help=f"tables to run, from {', '.join(TABLES)}")
    result.add_argument(
        "--rows",
        type=lambda text: text.split(","),
        help="names of the rows to run, separated by commas; by default all rows of the tables",
    )
    result.add_argument("--baseline", metavar="ROW", help="row to compare with; by default the baseline of the table")
    result.add_argument(
        "--laptop", action="store_true", help="run the small counterpart of each row, on the embedded task"
    )
    result.add_argument(
        "--seeds", type=int, default=5, help="number of runs of each row, with seeds 0, 1, ..; by default %(default)s"
    )
    result.add_argument(
        "--jobs", type=int, help="number of runs at the same time; by default 1, or with --laptop one for each core"
    )
    result.add_argument(
        "--workdirs",
        type=local_path("--workdirs"),
        default=Path("runs/reproduce"),
        help="folder for the workdirs of the runs; by default %(default)s",
    )
    result.add_argument(
        "--results",
        type=local_path("--results"),
        default=Path("results"),
        help="folder for the results: one file a table, one line a run; by default %(default)s",
    )
    result.add_argument(
        "--out",
        type=local_path("--out"),
        default=Path("runs/reproduce/tables"),
        help="folder for the tables; by default %(default)s",
    )
    result.add_argument("--show", action="store_true", help="train nothing, and show the results that exist")
    result.add_argument(
        "--distance", action="store_true", help="also show the accuracy by distance of the two places; needs --laptop"
    )
    result.add_argument(
        "--dip", action="store_true", help="also show how far the training loss rises above the loss of the baseline"
    )
    result.add_argument("--plan", action="store_true", help="train nothing, and show the cost of the runs")
    return result


def reproduce(arguments: argparse.Namespace, changes: list[str]) -> int:
    """Runs the rows and writes the tables. Returns the exit code: 0, or 1 if a run failed."""
    if arguments.seeds < 1 or (arguments.jobs is not None and arguments.jobs < 1):
        raise InputError(f"--seeds={arguments.seeds}, --jobs={arguments.jobs}: give integers from 1")
    if arguments.plan and not arguments.laptop:  # the cost does not depend on the folder of the images
        changes = ["--config.images.train=IMAGES", *changes]
    runs = _runs(arguments, changes)
    if arguments.plan:
        print(describe_costs([of_row[0] for rows in runs.values() for of_row in rows.values()]))
        return 0
    failed = []
    if not arguments.show:
        execute.check_workdirs(arguments.workdirs)
        jobs = arguments.jobs or execute.default_jobs(arguments.laptop)
        executor = execute.Executor(jobs, arguments.results, arguments.workdirs.resolve())
        in_order = [of_row[k] for k in range(arguments.seeds) for rows in runs.values() for of_row in rows.values()]
        executor(in_order)
        failed = executor.failed
    written = _write(arguments, runs)
    if arguments.dip:
        _write_dips(arguments, written)
    if arguments.distance:
        _write_distance(arguments, runs)
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failed else 0


def _runs(arguments: argparse.Namespace, changes: list[str]) -> dict[str, dict[str, list[PlannedRun]]]:
    """Returns {table: {row: runs}}, with one run per seed."""
    runs = {
        table: {
            row: [
                make_run(table, row, seed, laptop=arguments.laptop, changes=changes) for seed in range(arguments.seeds)
            ]
            for row in choose_rows(table, arguments.rows)
        }
        for table in arguments.tables
    }
    asked = {*(arguments.rows or ()), *([arguments.baseline] if arguments.baseline else ())}
    if unknown := asked - {row for rows in runs.values() for row in rows}:
        valid = "; ".join(f"{table}: {', '.join(table_module(table).ROWS)}" for table in runs)
        raise InputError(f"--rows or --baseline: there is no row {sorted(unknown)[0]!r}; valid rows: {valid}")
    return runs


def _write(arguments: argparse.Namespace, runs: dict[str, dict[str, list[PlannedRun]]]) -> dict[str, list[tables.Row]]:
    """Writes the tables and the page. Returns {table: rows}."""
    sections, written = [], {}
    for table, of_table in runs.items():
        rows = written[table] = [_row(table, row, of_row, arguments) for row, of_row in of_table.items()]
        heading = table_module(table).__doc__.partition("\n")[0]
        if arguments.laptop:  # the small rows have other data
            heading = heading.replace(" on Kinetics", " on the embedded task")
        picture = f"{table}.png"
        tables.plot(f"Table {table}" if table[0].isdigit() else table, rows, arguments.out / picture)
        text = f"**{heading}**\n\n{tables.markdown(rows)}"
        (arguments.out / f"{table}.md").write_text(text)
        print(f"\n{text}")
        sections.append((heading, rows, picture))
    page = arguments.out / "tables.html"
    page.write_text(tables.html_page("The tables of the paper", sections))
    print(f"wrote {page}, and the same tables as Markdown and as pictures in its folder")
    return written


def _write_dips(arguments: argparse.Namespace, written: dict[str, list[tables.Row]]) -> None:
    """Writes the dips of each table of the paper: of the rows with losses, if their baseline has losses too."""
    for table, rows in written.items():
        if found := dip.dips(rows):
            (arguments.out / f"{table}_dip.md").write_text(dip.markdown(found))
            print(f"\nTable {table}, training loss above the baseline's\n\n{dip.markdown(found)}")


def _write_distance(arguments: argparse.Namespace, runs: dict[str, dict[str, list[PlannedRun]]]) -> None:
    """Writes the accuracy by distance of each table of the paper, for the rows that have results."""
    for table, of_table in runs.items():
        curves = [distance.curves(row, of_row, arguments.results) for row, of_row in of_table.items()]
        curves = [curve for curve in curves if curve]
        if curves:
            text = distance.markdown(curves)
            (arguments.out / f"{table}_distance.md").write_text(text)
            distance.plot(curves, arguments.out / f"{table}_distance.png")
            print(f"\nTable {table}, accuracy by distance\n\n{text}")


def _row(table: str, row: str, runs: list[PlannedRun], arguments: argparse.Namespace) -> tables.Row:
    found = [result for run in runs if (result := results.load(run, arguments.results))]
    network = found[0] if found else summary_of(runs[0].config)  # both have `parameters` and `macs`
    paper = table_module(table).ROWS[row].get("paper")
    return tables.Row(
        name=row,
        baseline=arguments.baseline or baseline_of(table, row),
        paper=paper[0] if paper else None,
        paper_ratios=getattr(table_module(table), "PAPER_RATIOS", {}).get(row),
        results=tuple(found),
        wanted=arguments.seeds,
        parameters=network.parameters,
        macs=network.macs,
        figure=getattr(table_module(table), "FIGURE", "top-1"),
        others=getattr(table_module(table), "OTHER_FIGURES", {}),
    )


if __name__ == "__main__":
    main()
