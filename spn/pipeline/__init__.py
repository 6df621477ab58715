"""What the workflow does: a file for each rule, with one public function of its name, which notebooks can call too.

A function takes the parameters and paths, does its work, writes what the rule writes, and returns what it made. The
command line only parses and calls. Every function loads all of its code first (`load_verb`), so that the digest in its
results is of the code that ran.
"""
