"""Exact likelihoods over a whole split, and the checks that they can be trusted."""
