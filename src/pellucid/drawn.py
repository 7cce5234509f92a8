"""What draws itself: in a terminal as wide as it is, as text, in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

__all__ = ["Drawn"]


class Drawn:
    """Shown by `print`, at a prompt and by Rich: a subclass says what Rich prints."""

    def _draw(self, width: int, ascii_only: bool) -> RenderableType:
        """What Rich prints, for a width, and for a terminal that has only ASCII or more."""
        raise NotImplementedError

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._draw(options.max_width, options.ascii_only)

    def __str__(self) -> str:
        """As wide as the terminal, in colour there; plain text anywhere else."""
        from pellucid.access.render import for_stdout

        return for_stdout(self._draw)

    def __repr__(self) -> str:
        from pellucid.access.render import text

        return text(self._draw)
