"""Tables, figures and pictures of a finished experiment.

Nothing is imported here, so that a table for the terminal waits for no plotting library, and the code digest of samples
covers the pictures alone.
"""
