"""Verbs for people, one file each: they take a model file and need neither params.yaml nor data."""
