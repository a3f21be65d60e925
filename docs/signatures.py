"""Corrects the signatures in the reference, where griffe shows them differently from the source."""

from collections.abc import Iterator
from typing import Any

import griffe

QUOTES = "' \""


class Signatures(griffe.Extension):
    """Gives Equinox modules the signature of their fields, as dataclasses have; writes shapes as `"A"`, not `' A'`."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Changes the package when it has been read, before griffe looks for dataclasses."""
        for module in classes(pkg):
            if "__init__" not in module.members and is_equinox(module):
                self_ = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
                init = griffe.Function("__init__", parameters=griffe.Parameters(self_, *fields(module)))
                module.set_member("__init__", init)
            list_fields(module)

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Tidies the shapes of arguments and results."""
        for annotation in (func.returns, *(parameter.annotation for parameter in func.parameters)):
            tidy_shapes(annotation)

    def on_attribute(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Tidies the shapes of fields and type aliases."""
        tidy_shapes(attr.annotation)
        tidy_shapes(attr.value)


def classes(scope: griffe.Module | griffe.Class) -> Iterator[griffe.Class]:
    """Yields all classes of a module, including the classes inside its modules and classes."""
    for member in scope.members.values():
        if isinstance(member, griffe.Class):
            yield member
        if isinstance(member, griffe.Class | griffe.Module):
            yield from classes(member)


def is_equinox(module: griffe.Class) -> bool:
    """Returns True if a class inherits from `eqx.Module`, directly or through classes of this package."""
    bases = [base for parent in (module, *module.mro()) for base in parent.bases]
    return any(isinstance(base, griffe.Expr) and base.canonical_path == "equinox.Module" for base in bases)


def fields(module: griffe.Class) -> Iterator[griffe.Parameter]:
    """Yields the parameters of the `__init__` that Equinox generates. No module of tz inherits fields."""
    for field in module.members.values():
        if isinstance(field, griffe.Attribute) and field.annotation is not None and "property" not in field.labels:
            kind = griffe.ParameterKind.positional_or_keyword
            yield griffe.Parameter(field.name, annotation=field.annotation, kind=kind, default=default(field.value))


def list_fields(module: griffe.Class) -> None:
    """Moves the docstrings of fields into the docstring of the class, where most classes describe their fields."""
    documented = [field for field in module.attributes.values() if field.docstring and "property" not in field.labels]
    if documented and module.docstring:
        lines = [f"- `{field.name}`: {field.docstring.value}" for field in documented]
        module.docstring.value = "\n".join([module.docstring.value, "", "**Fields:**", "", *lines])
        for field in documented:
            field.docstring = None


def default(value: str | griffe.Expr | None) -> str | griffe.Expr | None:
    """Returns the default of a field, which may be inside `eqx.field`."""
    if isinstance(value, griffe.ExprCall) and value.canonical_path == "equinox.field":
        options = {part.name: part.value for part in value.arguments if isinstance(part, griffe.ExprKeyword)}
        return options.get("default")
    return value


def tidy_shapes(annotation: str | griffe.Expr | None) -> None:
    """Removes the space in `" A"`, which linters need, and writes all shapes in double quotes."""
    if not isinstance(annotation, griffe.Expr):
        return
    if (
        isinstance(annotation, griffe.ExprSubscript)
        and annotation.canonical_path.startswith("jaxtyping.")
        and isinstance(annotation.slice, griffe.ExprTuple)  # a PyTree has no shape
    ):
        kind, shape = annotation.slice.elements
        annotation.slice.elements = [kind, f'"{str(shape).strip(QUOTES)}"']
        return
    for part in annotation:
        if part is not annotation:
            tidy_shapes(part)
