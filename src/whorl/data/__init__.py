"""Texts and tokens: where they come from (`corpus`), windows of them, and what a model loses on them (`losses`)."""
