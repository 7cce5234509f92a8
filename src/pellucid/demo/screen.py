"""What demos show: the rule, a progress bar, the table, a change, a comparison, the result."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.rule import Rule as Line
from rich.syntax import Syntax
from rich.text import Text

from pellucid.access import View, view
from pellucid.compose import Composed, flatten
from pellucid.declare import HyperparameterError
from pellucid.rule import Stage

__all__ = ["Report", "Screen", "rate_of"]

Report = Callable[[float, float], None]


class Screen:
    """Prints the steps of a demo under numbered headings."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._headings = 0

    def heading(self, title: str) -> None:
        """A line with the number and title of what follows."""
        self._headings += 1
        self.console.print()
        self.console.print(Line(Text(f"{self._headings}. {title}", "bold"), align="left"))

    def say(self, text: str, style: str = "") -> None:
        """Plain text: brackets in it mean nothing."""
        self.console.print(Text(text, style))

    def rule(self, stage: Composed) -> None:
        """The rule's own source, as it stands in its file."""
        self.heading(f"The rule: {stage!r}")
        for one in flatten(stage):
            if isinstance(one, Stage) and one.kind == "rule":
                try:
                    source = inspect.getsource(type(one))
                except (OSError, TypeError):
                    source = f"# the source of {type(one).__qualname__} is not kept"
                self.console.print(_colored(source))

    @contextmanager
    def progress(self, epochs: int) -> Iterator[Report]:
        """A bar over epochs; the report takes the loss and the accuracy after each epoch."""
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs  {task.fields[shown]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console) as bar:
            task = bar.add_task("", total=epochs, shown="loss ...")

            def report(loss: float, accuracy: float) -> None:
                bar.update(task, advance=1, shown=f"loss {loss:.3f}  accuracy {accuracy:.2%}")

            yield report

    def table(self, optimizer: Any) -> View:
        """Every hyperparameter of an optimizer; the view it is read from."""
        self.heading("Every hyperparameter: print(pellucid.view(optimizer))")
        table = view(optimizer)
        self.console.print(table)
        return table

    def change(self, table: View, reason: str) -> None:
        """Divide the learning rate by ten; show the journal's line."""
        self.heading("A change by name, on record")
        found = rate_of(table)
        if found is None:
            self.say("this rule has no one number to change for all weights")
            return
        name, value = found
        self.say(f'view.set("{name}", {value / 10:g}, reason="{reason}")', "bold")
        try:
            table.set(name, value / 10, reason=reason)
        except HyperparameterError as error:
            self.say(f"refused: {error}")
        else:
            self.say(f"journal: {table.journal[-1]}")

    def difference(self, steps: int, size: int, largest: float, bound: float) -> bool:
        """How far apart the same rule in two frameworks ends; whether it is within the bound."""
        close = largest < bound
        self.say(
            f"{steps} updates of {size:,} weights from the same start, on the same gradients: the "
            f"largest difference is {largest:.1g}",
            "bold green" if close else "bold red",
        )
        return close

    def result(self, accuracy: float, target: float, images: int, seconds: float) -> bool:
        """The accuracy beside what it should be; whether it is above."""
        reached = accuracy > target
        self.heading("Result")
        self.say(
            f"{accuracy:.2%} of {images} held-out digits are right, {seconds:.1f} s in all "
            f"(the demo asks for more than {target:.0%})",
            "bold green" if reached else "bold red",
        )
        return reached


def rate_of(table: View) -> tuple[str, float] | None:
    """The learning rate, or the first number that holds for all weights: its name and value."""
    names = ["learning_rate", *(path.rpartition("/")[2] for path in table)]
    name = next((one for one in names if one in table), "")
    value = table[name] if name else None
    return (name, value) if isinstance(value, float) else None


def _colored(source: str) -> Syntax:
    return Syntax(source.rstrip(), "python", theme="ansi_dark", word_wrap=True)
