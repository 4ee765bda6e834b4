"""The hosts of timm: image transformers, whose layers are handed what an encoding needs in the place of a mask.

Nothing here imports timm: a model that is given has brought it.
"""
