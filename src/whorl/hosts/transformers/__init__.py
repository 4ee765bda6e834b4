"""The hosts of transformers: families as data, how they are opened, and what their configs say of rotary settings."""
