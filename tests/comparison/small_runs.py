"""The settings of comparisons that take a second or two."""

STEPS, BATCH, LENGTH = 12, 4, 32
SMALL = {
    "train_length": LENGTH,
    "lengths": ("1x", "2x"),
    "tokens": STEPS * BATCH * LENGTH,
    "batch_size": BATCH,
    "tail": 8,
    "windows": 4,
    "precision": "fp32",
    "quiet": True,
}
