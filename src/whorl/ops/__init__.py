"""One public function per effect. The readable implementation in `impl/reference.py` is the oracle. Positions may have
axes: see `axes`."""

from whorl.ops.attention import biased_attention
from whorl.ops.rotation import Tables, choose, rotate, rotation_tables
from whorl.ops.visible import Runs, Visible

__all__ = ["Runs", "Tables", "Visible", "biased_attention", "choose", "rotate", "rotation_tables"]
