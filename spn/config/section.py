"""The base class of all sections of params.yaml, and types of their values."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MOST = 1_000_000_000
"""Largest whole number that any key accepts; larger ones make sense for none."""


def _whole(value: Any) -> Any:
    """Turn a whole float into an integer: 1e3 and 1000.0 are whole numbers, as in JSON Schema."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = BeforeValidator(_whole)
"""Marks a whole number, which may be written 1e3."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*$", max_length=100)]
"""A name, which must suit Snakemake wildcards, DVC's dotted keys, MLflow run names and file names of 255 bytes."""

Count = Annotated[int, Whole, Field(ge=1, le=MOST)]
"""A positive whole number."""

CountOrZero = Annotated[int, Whole, Field(ge=0, le=MOST)]
"""A whole number of at least 0."""

Seed = Annotated[int, Whole, Field(ge=0, lt=1 << 32)]
"""A seed that every random number generator accepts."""


class Section(BaseModel):
    """A frozen section that accepts no unknown key and converts no type."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
