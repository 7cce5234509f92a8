"""The command line: ``pellucid demo | rules | explain | show | diff | bench``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["app", "main"]

app = typer.Typer(
    name="pellucid",
    help="Write an optimizer's update rule once; see and change everything in any optimizer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RULE_HELP = 'a name of the catalogue, "SGD(momentum=0.9)", or file.py:Class'
_tracebacks = False


@app.callback()
def options(
    traceback: Annotated[bool, typer.Option(help="Show where an error comes from.")] = False,
) -> None:
    global _tracebacks
    _tracebacks = traceback


@contextmanager
def _clear_errors() -> Iterator[None]:
    """An error is one line: exit code 2 for what the library refuses, 1 for anything else."""
    try:
        yield
    except Exception as error:
        if _tracebacks:
            raise
        refused = isinstance(error, (ValueError, TypeError, LookupError, OSError, ImportError))
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        kind = "" if refused else f"{type(error).__name__}: "
        typer.echo(f"pellucid: error: {kind}{text}", err=True)
        if not refused:
            typer.echo("`pellucid --traceback ...` shows where", err=True)
        raise typer.Exit(2 if refused else 1) from None


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


@app.command()
def demo(
    framework: Annotated[str, typer.Option(help="numpy, torch or keras")] = "numpy",
    rule: Annotated[str | None, typer.Option(help=f"your own rule: {RULE_HELP}")] = None,
    epochs: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Train a small network on handwritten digits by a rule of ten lines, in view all the way."""
    with _clear_errors():
        from pellucid.demo import run
        from pellucid.stage_text import rule_from_text

        stage = None if rule is None else rule_from_text(rule)
        reached = run(_console(), framework, stage, epochs)
    if not reached:
        raise typer.Exit(1)


@app.command()
def rules() -> None:
    """List all rules, with their hyperparameters and sources."""
    from pellucid.rules import CATALOGUE
    from pellucid.stage_text import transform_names

    for rule in CATALOGUE.values():
        typer.echo(_entry(rule))
    typer.echo("Stages that stand around a rule, as in `pellucid explain Adam --stages ...`:")
    typer.echo(f"    {', '.join(transform_names())}")


def _entry(rule: Any) -> str:
    """A rule's name, first sentence, arguments, and what its docstring says of its source."""
    from textwrap import indent

    from pellucid.ops import is_number

    first, *parts = rule.__doc__.partition("\n\nArguments:\n")[0].split("\n\n")
    hypers = [
        f"{name}={one.default:g}" if is_number(one.default) else f"{name}={one.default!r}"
        for name, one in rule.declared.hypers.items()
    ]
    choices = [f"{name}={one.default!r}" for name, one in rule.declared.options.items()]
    file = rule.__module__.replace(".", "/") + ".py"
    lines = [first, *(part for part in parts if not part.startswith(" ")), file]
    lines.insert(1, f"{', '.join(hypers)}; {', '.join(choices)}")
    return f"{rule.__name__}\n{indent(chr(10).join(lines), '    ')}\n"


@app.command()
def explain(
    rule: Annotated[str, typer.Argument(help=RULE_HELP, metavar="RULE")],
    stages: Annotated[
        str, typer.Option(help='such as "clip_by_global_norm(1.0), decay_weights(0.01)"')
    ] = "",
    dtype: Annotated[
        str, typer.Option(help="of parameters: float32, float64, bfloat16 or float16")
    ] = "float32",
    rounding: Annotated[str, typer.Option(help="nearest, stochastic or kahan")] = "nearest",
    state_dtype: Annotated[str, typer.Option(help="float32, bfloat16 or param")] = "float32",
) -> None:
    """Show formula, graph, passes, bytes moved, generated source, and what is not fused."""
    with _clear_errors():
        from pellucid.explanation import explain as explained
        from pellucid.stage_text import rule_from_text, stages_from_text

        made = explained(
            stages_from_text(stages, rule_from_text(rule)),
            dtype=dtype,
            rounding=rounding,
            state_dtype=state_dtype,
        )
    _print(made)


RECORD_HELP = "a file that Record.save wrote, or a folder with record.json"


def _record(place: Path) -> Any:
    """The record of a run: a file, or ``record.json`` in a folder."""
    from pellucid.run.record import Record

    file = place / "record.json" if place.is_dir() else place
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no {file}; allowed is {RECORD_HELP}: record.save({str(file)!r}) writes one"
        )
    return Record.load(file)


def _print(made: Any) -> None:
    console = _console()
    if console.is_terminal:
        console.print(made)
    else:
        typer.echo(str(made))


@app.command()
def show(
    record: Annotated[Path, typer.Argument(help=RECORD_HELP)],
    path: Annotated[str, typer.Argument(help='such as "optimizer/groups"')] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show all hyperparameters of a run, or those below a path."""
    import json

    with _clear_errors():
        found = _record(record)
        shown = found[path] if path else found
    if as_json:
        data = shown.to_dict() if hasattr(shown, "to_dict") else shown
        typer.echo(json.dumps(data, indent=1, ensure_ascii=False))
    elif hasattr(shown, "to_dict"):
        _print(shown)
    else:
        entry = found.entry(path)
        typer.echo(f"{entry.value}  ({entry.provenance}{entry.source and ': ' + entry.source})")


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(help=RECORD_HELP)],
    second: Annotated[Path, typer.Argument(help=RECORD_HELP)],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show in what two runs differ; exit with 1 if they do."""
    import json

    with _clear_errors():
        from pellucid.run.compare import compare

        found = compare(_record(first), _record(second), (str(first), str(second)))
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=1, ensure_ascii=False))
    else:
        _print(found)
    raise typer.Exit(1 if found else 0)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(context: typer.Context) -> None:
    """Run benchmarks/run.py of a checkout; further arguments are passed on to it."""
    import subprocess
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "run.py"
    with _clear_errors():
        if not script.is_file():
            raise FileNotFoundError(
                f"there is no {script}: bench runs from a checkout that has benchmarks/, "
                "installed by `pip install -e .`"
            )
    done = subprocess.run([sys.executable, str(script), *context.args], check=False)
    raise typer.Exit(done.returncode)


def main() -> None:
    """The command ``pellucid``."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without → shows a question mark
    app()


if __name__ == "__main__":
    main()
