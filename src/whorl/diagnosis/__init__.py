"""whorl doctor: loud answers to silent failures.

meaning.py    the frequencies that a config's rope settings mean, in float64, from the papers' formulas
reading.py    what a rotary module does, held against what its config means: one cause per difference
angles.py     what reaches the layers, as the model runs it, on both sides of every border
settings.py   checks of settings and modules: nothing runs but the rotary module
knowing.py    whether the seams that were found are the model's own, and its weights numbers
unread.py     settings that nobody reads, or that say two things
agreement.py  checks that run the model: cache, batch, padding, packing, shifts, which layers turn
texts.py      checks by the loss on a text: layout, proportional against partial
fits.py       which base, layout and scaling reads a text best
files.py      what a directory holds: JSON and safetensors, never a pickle, never its code
images.py     the checks of image models, and what they ask
subject.py    what is examined, and what is worked out once for several checks
checks.py     the table of checks, and doctor()
answers.py    what a check gives
"""

from whorl.diagnosis.checks import CHECKS, doctor
from whorl.diagnosis.images import IMAGE_CHECKS
from whorl.results.diagnosis import Diagnosis, Finding

__all__ = ["CHECKS", "IMAGE_CHECKS", "Diagnosis", "Finding", "doctor"]
