"""A record: all hyperparameters of a run by path, each with where it comes from."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pellucid.drawn import Drawn
from pellucid.run.plain import plain, without_secrets

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pellucid.run.compare import Comparison

__all__ = ["FORMAT", "PROVENANCES", "Entry", "Findings", "Missing", "Record", "Values"]

FORMAT = 1
SCHEMA = Path(__file__).with_name("record.schema.json")
Provenance = Literal["observed", "declared", "default", "unknown"]
PROVENANCES: dict[str, str] = {
    "observed": "read from the object",
    "declared": "given by the user",
    "default": "what the constructor has where nothing else is given",
    "unknown": "there, but where it comes from cannot be told",
}


@dataclass(frozen=True)
class Entry:
    """A value, as JSON data, and where it comes from."""

    value: Any
    provenance: Provenance
    source: str = ""  # what was read: "Linear.in_features", "an argument of collect"


@dataclass(frozen=True)
class Missing:
    """What could not be captured."""

    path: str
    why: str


class Values(Drawn, Mapping[str, Any]):
    """Nested values; a key that is a name is also an attribute: ``values.optimizer.groups``."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content = dict(content)

    def __getitem__(self, key: str) -> Any:
        found: Any = self
        for part in _parts(key, self._content):
            found = found._content[part] if isinstance(found, Values) else found[part]
        return found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._content[name]
        except KeyError:
            known = ", ".join(map(str, self._content)) or "nothing"
            raise AttributeError(f"there is no {name!r}; there is {known}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(key for key in self._content if key.isidentifier())]

    def to_dict(self) -> dict[str, Any]:
        """All as plain dicts."""
        return {
            key: one.to_dict() if isinstance(one, Values) else one
            for key, one in self._content.items()
        }

    def _draw(self, width: int, ascii_only: bool) -> RenderableType:
        from pellucid.run.shown import tree_of_values

        return tree_of_values(self)._draw(width, ascii_only)

    def _repr_html_(self) -> str:
        from pellucid.run.shown import tree_of_values

        return tree_of_values(self)._repr_html_()


def _parts(key: str, content: Mapping[str, Any]) -> list[str]:
    return [key] if key in content or "/" not in key else key.split("/")


class Findings:
    """What is found on the way to a record; ``at`` gives the same under a path."""

    def __init__(self, prefix: str = "", root: Findings | None = None) -> None:
        self.prefix = prefix
        self.entries: dict[str, Entry] = {} if root is None else root.entries
        self.lost: dict[Missing, None] = {} if root is None else root.lost
        self.recipes: dict[str, Any] = {} if root is None else root.recipes

    def at(self, path: str) -> Findings:
        """The findings under a path."""
        return Findings(self._path(path), self)

    def _path(self, path: str) -> str:
        return "/".join(part for part in (self.prefix, path) if part)

    def add(
        self, path: str, value: Any, provenance: Provenance = "observed", source: str = ""
    ) -> None:
        """Keep a value; anything, as `plain` has it. A path that is taken keeps what it has."""
        name = path.rpartition("/")[2]
        self.entries.setdefault(self._path(path), Entry(plain(value, name), provenance, source))

    def miss(self, path: str, why: str) -> None:
        """Say that something could not be captured."""
        self.lost[Missing(self._path(path), without_secrets(why))] = None

    @property
    def missing(self) -> list[Missing]:
        """What could not be captured, each once."""
        return [*self.lost]

    def recipe(self, name: str, how: Mapping[str, Any]) -> None:
        """Keep how something is built again."""
        self.recipes[name] = how

    def record(self, created: str = "") -> Record:
        """All that was found."""
        return Record(self.entries, tuple(self.lost), self.recipes, created)


class Record(Drawn, Mapping[str, Any]):
    """All hyperparameters of a run, by path; what was not captured is listed in ``missing``.

    ``record["optimizer/groups/0/learning_rate"]`` is a value, ``record["optimizer"]`` all below,
    nested; ``record.entry(path)`` tells also where it comes from; ``record.tree.optimizer`` is
    the same by attributes.
    """

    def __init__(
        self,
        entries: Mapping[str, Entry],
        missing: tuple[Missing, ...] = (),
        recipes: Mapping[str, Any] | None = None,
        created: str = "",
    ) -> None:
        self.entries, self.missing, self.created = dict(entries), tuple(missing), created
        self.recipes = dict(recipes or {})

    # -- reading ---------------------------------------------------------------------------

    def __getitem__(self, path: str) -> Any:
        if path in self.entries:
            return self.entries[path].value
        below = {key: one for key, one in self.entries.items() if key.startswith(f"{path}/")}
        if not below:
            raise KeyError(self._unknown(path))
        return nested({key[len(path) + 1 :]: one.value for key, one in below.items()})

    def _unknown(self, path: str) -> str:
        import difflib

        lost = [one for one in self.missing if one.path == path or one.path.startswith(f"{path}/")]
        if lost:
            return f"{path!r} was not captured: {lost[0].why}"
        near = difflib.get_close_matches(path, self.entries, n=1, cutoff=0.7)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        sections = ", ".join(dict.fromkeys(key.partition("/")[0] for key in self.entries))
        return f"the record has no {path!r}{hint} (sections: {sections})"

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def entry(self, path: str) -> Entry:
        """A value with its provenance.

        Raises:
            KeyError: there is no such value; says why, if it could not be captured.
        """
        if path not in self.entries:
            raise KeyError(self._unknown(path))
        return self.entries[path]

    @property
    def tree(self) -> Values:
        """All values, nested."""
        return nested({key: one.value for key, one in self.entries.items()})

    # -- what it describes -----------------------------------------------------------------

    def optimizer(self, model: Any) -> Any:
        """The optimizer again, with the values of the record and no state.

        Args:
            model: what has the parameters: a torch or Keras model, or the parameters by name.

        Raises:
            ValueError: the record has no optimizer, or the parameters differ; says what is
                missing.
        """
        from pellucid.run.recreate import optimizer_of

        return optimizer_of(self, model)

    def model(self) -> Any:
        """The model again, with new weights.

        Raises:
            ValueError: its class cannot be imported, or arguments are missing: lists them.
        """
        from pellucid.run.recreate import model_of

        return model_of(self)

    # -- files -----------------------------------------------------------------------------

    @staticmethod
    def schema() -> dict[str, Any]:
        """The JSON schema of the files."""
        found: dict[str, Any] = json.loads(SCHEMA.read_text(encoding="utf-8"))
        return found

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON data, by the published schema."""
        return {
            "format": FORMAT,
            "created": self.created,
            "entries": {
                path: {"value": one.value, "provenance": one.provenance, "source": one.source}
                for path, one in self.entries.items()
            },
            "missing": [{"path": one.path, "why": one.why} for one in self.missing],
            "recipes": self.recipes,
        }

    @classmethod
    def from_dict(cls, data: Any) -> Record:
        """What `to_dict` gave.

        Raises:
            ValueError: it is no record, or one of a later format.
        """
        if not isinstance(data, Mapping) or "entries" not in data or "format" not in data:
            raise ValueError("this is no record: a record has 'format' and 'entries'")
        if data["format"] != FORMAT:
            raise ValueError(
                f"the record's format is {data['format']!r}; this version of Pellucid reads "
                f"{FORMAT}: use the one that wrote it"
            )
        try:
            entries = {
                path: Entry(one["value"], one["provenance"], one.get("source", ""))
                for path, one in data["entries"].items()
            }
            missing = tuple(Missing(one["path"], one["why"]) for one in data.get("missing", ()))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the record is damaged: {error!r}") from error
        return cls(entries, missing, data.get("recipes", {}), data.get("created", ""))

    def to_json(self, indent: int | None = 1) -> str:
        """The record as a JSON text."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record; a file that was there stays until the new one is whole.

        Folders that are missing are made.
        """
        write_whole(path, self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Record:
        """Read a record.

        Raises:
            ValueError: the file is no record.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{os.fspath(path)} is no record: it is no JSON ({error})") from error
        try:
            return cls.from_dict(data)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error

    # -- printing, comparing ---------------------------------------------------------------

    def diff(self, other: Record) -> Comparison:
        """What differs between this record and another, by section."""
        from pellucid.run.compare import compare

        return compare(self, other)

    def _draw(self, width: int, ascii_only: bool) -> RenderableType:
        from pellucid.run.shown import tree_of_record

        return tree_of_record(self)._draw(width, ascii_only)

    def _repr_html_(self) -> str:
        from pellucid.run.shown import tree_of_record

        return tree_of_record(self)._repr_html_()


def nested(flat: Mapping[str, Any]) -> Values:
    """Values by path as nested values; one at the path of a branch is its entry ``""``."""
    root: dict[str, Any] = {}
    for path, value in flat.items():
        *above, last = path.split("/")
        place = root
        for part in above:
            inner = place.get(part)
            if not isinstance(inner, dict) or not isinstance(inner, _Branch):
                inner = place[part] = _Branch({} if part not in place else {"": inner})
            place = inner
        if isinstance(place.get(last), _Branch):
            place[last][""] = value
        else:
            place[last] = value
    return _sealed(root)


class _Branch(dict):  # type: ignore[type-arg]
    """A level of paths, to be told from values that are dicts."""


def _sealed(branch: Mapping[str, Any]) -> Values:
    return Values({
        key: _sealed(one) if isinstance(one, _Branch) else one for key, one in branch.items()
    })


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file whole or not at all: what was there stays if anything fails."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
