"""Digests of code and sources, recipes of results, and the audit that compares the results on disk with their recipes.

Imports neither torch nor numpy, because the Snakefile imports it.
"""

from spn.provenance.code import git_commit
from spn.provenance.recipes import (
    AS_CONFIGURED,
    Recipe,
    SamplingOptions,
    codes_recipe,
    differing_keys,
    evaluation_recipe,
    export_recipe,
    first_stage_recipe,
    inpainting_recipe,
    load_verb,
    recipe_digest,
    record_recipe,
    report_recipe,
    sampled_label,
    sampling_recipe,
    slices_recipe,
    stage_recipe,
    summary_recipe,
    training_recipe,
    training_verb,
    trial_recipe,
)
from spn.provenance.results import (
    Audit,
    ask,
    asked_results,
    audit,
    check_recipe,
    is_clone,
    read_path,
    results_of,
)
from spn.provenance.sources import source_state

__all__ = [
    "AS_CONFIGURED",
    "Audit",
    "Recipe",
    "SamplingOptions",
    "ask",
    "asked_results",
    "audit",
    "check_recipe",
    "codes_recipe",
    "differing_keys",
    "evaluation_recipe",
    "export_recipe",
    "first_stage_recipe",
    "git_commit",
    "inpainting_recipe",
    "is_clone",
    "load_verb",
    "read_path",
    "recipe_digest",
    "record_recipe",
    "report_recipe",
    "results_of",
    "sampled_label",
    "sampling_recipe",
    "slices_recipe",
    "source_state",
    "stage_recipe",
    "summary_recipe",
    "training_recipe",
    "training_verb",
    "trial_recipe",
]
