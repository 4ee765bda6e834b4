"""A model of lm-eval that is opened as whorl opens it: any folder, GGUF file, hub name or trial, with any encoding.

Whatever lm-eval's own Hugging Face model (HFLM) does with a model stays as it is: batches, padding, log-likelihoods,
generation. Config, tokenizer and weights come from whorl.
"""

from __future__ import annotations

import logging
from typing import Any

from lm_eval.models.huggingface import HFLM

from whorl.checking import check_keywords
from whorl.encodings import parse
from whorl.evaluation.opening import opened
from whorl.sources import source

log = logging.getLogger(__name__)

OF_HFLM = (
    "tokenizer", "truncation", "logits_cache", "max_length", "device", "dtype", "softmax_dtype",
    "mixed_precision_dtype", "batch_size", "max_batch_size", "add_bos_token", "prefix_token_id", "think_end_token",
    "enable_thinking", "chat_template_args",
)  # fmt: skip
"""The arguments of HFLM that mean here what they mean there; the others are of its own way to load."""


class WhorlLM(HFLM):
    """pretrained    what whorl loads: a directory, a .gguf file, a hub name, or a trial of a comparison
    encoding      one to attach in the place of its own, in whorl's notation; unset arguments are filled from the config
    train_length  tokens that it was trained at; None takes the trial's or the config's
    options       those of `OF_HFLM`. max_length is the context in tokens, the config's where it is not given: prompts
                  that are longer lose their beginning
    """

    def __init__(
        self, pretrained: str, encoding: str | None = None, train_length: int | None = None, **options: Any
    ) -> None:
        known = ("pretrained", "encoding", "train_length", *OF_HFLM)
        try:
            check_keywords("lm-eval's model whorl", options, known)
        except ValueError as error:
            hint = "an encoding with commas stands in quotes, as encoding='hope:cut=2,base=500'"
            raise ValueError(f"{error}; {hint}") from None
        self._found = source(str(pretrained), device="cpu")  # and to lm-eval's device in the end
        self._asked = None if encoding is None else parse(encoding), train_length
        super().__init__(str(pretrained), **options)

    def _get_config(self, pretrained: str, **_: Any) -> None:
        """The model is opened here, since only it has the config of a trial or a GGUF file."""
        self._opened = opened(self._found, *self._asked)
        if self._opened.filled:
            log.info("%s", self._opened.filled)
        self._model = self._opened.host.model
        self._config = self._model.config

    def _create_tokenizer(self, pretrained: Any, tokenizer: Any, **how: Any) -> None:
        if tokenizer:
            super()._create_tokenizer(pretrained, tokenizer, **how)
        else:
            self.tokenizer = self._found.tokenizer()

    def _create_model(self, pretrained: str, dtype: Any = "auto", **_: Any) -> None:
        from lm_eval.models.utils_hf import get_dtype

        wanted = get_dtype(dtype)
        self._model.to(self.device, **({} if wanted in (None, "auto") else {"dtype": wanted}))

    def get_model_info(self) -> dict[str, Any]:
        """With the encoding that it was read with, and the one that it was trained with where that is another."""
        own = {"encoding": self._opened.encoding, "train_length": self._opened.train_length}
        before = self._opened.trained_with
        return {**super().get_model_info(), **own, **({} if before is None else {"trained_with": before})}
