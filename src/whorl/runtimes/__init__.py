"""HAND ON: a model and its encoding for runtimes that do not know whorl."""
