"""The same examples in every run; `HYPOTHESIS_PROFILE=soak` draws others, and twenty times as many."""

from __future__ import annotations

from fuzz_amount import PROFILE
from hypothesis import settings

settings.register_profile("suite", derandomize=True, database=None, print_blob=True)
settings.register_profile("soak", database=None, print_blob=True)
settings.load_profile(PROFILE)
