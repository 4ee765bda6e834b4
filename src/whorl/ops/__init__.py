"""One public function per effect. The readable implementation in `impl/reference.py` is the oracle."""

from whorl.ops.attention import biased_attention
from whorl.ops.impl.blocked import Visible
from whorl.ops.rotation import Tables, choose, rotate, rotation_tables

__all__ = ["Tables", "Visible", "biased_attention", "choose", "rotate", "rotation_tables"]
