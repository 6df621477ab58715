"""The contract of stages and models, as checks that the tests apply to sound code and to code with planted bugs."""

from contract.model_checks import (
    MASS_CHECKS,
    MODEL_CHECKS,
    chain_probabilities,
    check_cached_walk,
    check_causality,
    check_no_blind_spot,
    check_walk,
)
from contract.problem import (
    SMALL,
    Chain,
    Check,
    Part,
    Problem,
    build_problem,
    chains,
    ordered_chains,
    resolve,
    scales,
    three_way,
)
from contract.sample_checks import SAMPLE_CHECKS, check_frequencies, labels_in_turn, sample
from contract.stage_checks import STAGE_CHECKS, check_contexts, check_later_bits_are_hidden, check_round_trip

__all__ = [
    "MASS_CHECKS",
    "MODEL_CHECKS",
    "SAMPLE_CHECKS",
    "SMALL",
    "STAGE_CHECKS",
    "Chain",
    "Check",
    "Part",
    "Problem",
    "build_problem",
    "chain_probabilities",
    "chains",
    "check_cached_walk",
    "check_causality",
    "check_contexts",
    "check_frequencies",
    "check_later_bits_are_hidden",
    "check_no_blind_spot",
    "check_round_trip",
    "check_walk",
    "labels_in_turn",
    "ordered_chains",
    "resolve",
    "sample",
    "scales",
    "three_way",
]
