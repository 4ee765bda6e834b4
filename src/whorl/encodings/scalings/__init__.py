"""Scalings: pure functions from spectrum to spectrum that stretch a rotary encoding past its trained length.

theta_i   frequency of pair i, radians per token;  lambda_i = 2 pi / theta_i, its wavelength in tokens
d         the width of the spectrum: twice its number of pairs. Exponents (2i/d) run over it, so a partial rotary's d is
          its own width, and a pair that does not rotate (HoPE, p-RoPE) counts too
factor s  how many times longer the context becomes;  original L: the length before, in tokens

A new scaling adds one file and one line here. Where transformers does otherwise than the paper, the class says so.
"""

from whorl.encodings.scalings.base import Scaling

__all__ = ["SCALINGS", "Scaling"]

# What may follow an encoding and a `~`.
SCALINGS = {
    "linear": "whorl.encodings.scalings.linear:Linear",
    "ntk": "whorl.encodings.scalings.ntk:NTK",
    "dynamic-ntk": "whorl.encodings.scalings.ntk:DynamicNTK",
    "ntk-by-parts": "whorl.encodings.scalings.yarn:NTKByParts",
    "yarn": "whorl.encodings.scalings.yarn:YaRN",
    "longrope": "whorl.encodings.scalings.longrope:LongRoPE",
    "llama3": "whorl.encodings.scalings.llama3:Llama3",
    "base-change": "whorl.encodings.scalings.base_change:BaseChange",
    "clip": "whorl.encodings.scalings.clip:Clip",
    "soft-clip": "whorl.encodings.scalings.clip:SoftClip",
}
