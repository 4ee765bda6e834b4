"""The numbers that tasks measure. A new one adds a line here; tasks list theirs in `Task.metrics`."""

from whorl.results.over_seeds import Metric

TAIL = Metric("tail", "tail perplexity", "ratio", lower_is_better=True, has_stderr=True)
MEAN = Metric("mean", "mean perplexity", "ratio", lower_is_better=True)
TOKEN_ACCURACY = Metric("token_accuracy", "token accuracy", "share", learnt=0.95, has_stderr=True)
MASKED = Metric("masked", "masked-token perplexity", "ratio", lower_is_better=True, has_stderr=True)
MASKED_ACCURACY = Metric("masked_accuracy", "masked-token accuracy", "share")
WORD_ORDER = Metric("word_order", "word order", "share", chance=0.5)
EXACT_MATCH = Metric("exact_match", "exact match", "share", of="answers")
CLOUDS = Metric("accuracy", "accuracy", "share", chance=1 / 12, learnt=0.75, has_stderr=True, of="clouds")
UPRIGHT = Metric("upright", "upright", "share", chance=1 / 12, of="clouds")
ABOUT_Z = Metric("about_z", "turned about z", "share", chance=1 / 12, of="clouds")
ALL_TURNS = Metric("all_turns", "turned anyhow", "share", chance=1 / 12, of="clouds")
MOVED = Metric("moved", "moved", "share", chance=1 / 12, of="clouds")
IMAGES = Metric("accuracy", "accuracy", "share", learnt=0.5, has_stderr=True, of="images")
IN_WIDE_FRAMES = Metric("wide", "in a wide frame", "share", of="images")
FRAMED = Metric("framed", "in a larger frame", "share", of="images")
SHIFTED = Metric("moved", "moved", "share", of="images")
HANDS_TOLD = Metric("hands", "hands", "share", chance=0.5, of="clouds")
