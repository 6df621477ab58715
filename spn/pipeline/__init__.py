"""One file per verb of the workflow, with one public function of the same name, which notebooks can call too.

A function takes the parameters and paths, writes the rule's outputs, and returns what it made. The command line only
parses and calls. A function that writes results loads all of its code first (`load_verb`), so that the digest in its
results is that of the code that ran.
"""
