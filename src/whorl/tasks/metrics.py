"""The numbers that tasks measure. A new one adds a line here; tasks list theirs in `Task.metrics`."""

from whorl.results.over_seeds import Metric

TAIL = Metric("tail", "tail perplexity", "ratio", lower_is_better=True, has_stderr=True)
MEAN = Metric("mean", "mean perplexity", "ratio", lower_is_better=True)
TOKEN_ACCURACY = Metric("token_accuracy", "token accuracy", "share", learnt=0.95, has_stderr=True)
MASKED = Metric("masked", "masked-token perplexity", "ratio", lower_is_better=True, has_stderr=True)
MASKED_ACCURACY = Metric("masked_accuracy", "masked-token accuracy", "share")
WORD_ORDER = Metric("word_order", "word order", "share", chance=0.5)
EXACT_MATCH = Metric("exact_match", "exact match", "share", of="answers")
