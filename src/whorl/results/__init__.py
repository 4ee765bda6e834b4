"""What the verbs hand on: frozen dataclasses with a schema, one file per kind, written as JSON, read by attribute."""
