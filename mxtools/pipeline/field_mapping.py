"""Results and metrics that can be read by attribute and as mappings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any


class FieldMapping(Mapping[str, Any]):
    """The fields of a dataclass or of a pydantic model as a mapping: `in`, `[]`, `keys()`, `items()`, `dict()`.

    The keys are the names that the fields have in JSON reports, in the order of the class.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Cost(FieldMapping):
    ...     seconds: float
    >>> cost = Cost(1.5)
    >>> "seconds" in cost, cost["seconds"], dict(cost)
    (True, 1.5, {'seconds': 1.5})
    """

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401 - fields are of any type
        """Return the value of a field; KeyError if there is none of that name."""
        return getattr(self, _attributes(type(self))[key])

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the fields."""
        return iter(_attributes(type(self)))

    def __len__(self) -> int:
        """Return the number of fields."""
        return len(_attributes(type(self)))


@cache
def _attributes(cls: type[Any]) -> dict[str, str]:
    """Return the attribute of each key: a field of a pydantic model can have another name in JSON, its alias."""
    if dataclasses.is_dataclass(cls):
        return {field.name: field.name for field in dataclasses.fields(cls)}
    return {field.alias or name: name for name, field in cls.model_fields.items()}
