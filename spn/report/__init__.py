"""Tables, figures and pictures of a finished experiment.

Nothing is imported here, so that a table in the terminal needs no plotting library.
"""
