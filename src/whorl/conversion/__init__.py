"""Changes a checkpoint.

extending.py    a longer context: scalings of a checkpoint's spectrum
converting.py   a checkpoint from one encoding to another
recipes.py      what papers say of such conversions, by name
stages.py       how far they are
resuming.py     what a killed convert or extend --tune goes on from
folders.py      both, from names to a folder
"""
