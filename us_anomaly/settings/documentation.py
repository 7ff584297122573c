"""What every key means, read from the attribute docstrings of the settings classes: `usad help KEY`."""

import ast
import dataclasses
import inspect
import textwrap
import typing
from dataclasses import dataclass
from enum import Enum
from typing import Any


@dataclass(frozen=True, slots=True)
class KeyHelp:
    """One key and what it means."""

    key: str
    meaning: str
    choices: tuple[str, ...] = ()
    """The values it may take, where they are names."""


def explain(settings_class: type[Any], *, prefix: str = "", groups: dict[str, tuple[type[Any], ...]]) -> list[KeyHelp]:
    """Return every key below a settings class with its meaning, in the order of the fields.

    Args:
        settings_class: A settings dataclass.
        prefix: Dotted key of the class itself.
        groups: For a field that may hold one of several classes, such as `data`, these classes.
    """
    found: dict[str, KeyHelp] = {}
    meanings = attribute_docstrings(settings_class)
    for field in dataclasses.fields(settings_class):
        key = f"{prefix}{field.name}"
        classes = groups.get(key, (field.type,))
        if all(dataclasses.is_dataclass(candidate) for candidate in classes):
            for candidate in classes:
                assert isinstance(candidate, type)
                for entry in explain(candidate, prefix=f"{key}.", groups={}):
                    found.setdefault(entry.key, entry)
        else:
            found[key] = KeyHelp(key, meanings.get(field.name, ""), _choices(field.type))
    return list(found.values())


def _choices(kind: Any) -> tuple[str, ...]:
    """Return the names that a type allows, alone or beside None."""
    kinds = [candidate for candidate in (kind, *typing.get_args(kind)) if inspect.isclass(candidate)]
    return tuple(member.name for candidate in kinds if issubclass(candidate, Enum) for member in candidate)


def attribute_docstrings(settings_class: type[Any]) -> dict[str, str]:
    """Return the docstring that follows each field of a dataclass and of the classes it extends."""
    meanings: dict[str, str] = {}
    for cls in reversed(settings_class.__mro__):
        if not dataclasses.is_dataclass(cls):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(meaning))):
                    meanings[name] = " ".join(meaning.split())
    return meanings
