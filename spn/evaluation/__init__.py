"""Exact likelihoods over a whole split, and checks of causality and normalisation."""
