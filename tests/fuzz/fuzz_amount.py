"""How much is tried."""

import os

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "suite")
TIMES = 20 if PROFILE == "soak" else 1
