"""What all sections of params.yaml have in common."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*$")]
"""Names become Snakemake wildcards, DVC's dotted keys, MLflow run names and file names."""

Count = Annotated[int, Field(ge=1)]
"""A positive whole number."""


class Section(BaseModel):
    """A frozen mapping that accepts no unknown key and converts no type."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
