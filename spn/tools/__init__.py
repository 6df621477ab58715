"""Verbs for people, one file each with helpers that they share; they need neither params.yaml nor data of slices.

They take a model file; `init` takes a folder of pictures.
"""
