"""Every default of `whorl compare`, in one dataclass, and what a run's settings mean once the machine is known."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from whorl.checking import check_keywords, check_lengths, check_list, check_numbers, check_path, shown
from whorl.encodings.config import choices
from whorl.training.recipe import PRECISIONS, SCHEDULES, Recipe, check_examples, resolved_precision

if TYPE_CHECKING:
    from whorl.encodings import Known
    from whorl.tasks.base import Task, TaskSettings


@dataclass(frozen=True)
class ModelPreset:
    """A stock Llama by its sizes (for tasks of encoders a ModernBERT), with a budget that suits it.

    vocab_size  of the tokenizer that is trained for it
    """

    width: int
    layers: int
    heads: int
    intermediate: int
    vocab_size: int
    tokens: int
    learning_rate: float


MODELS = {
    "tiny": ModelPreset(128, 4, 2, 256, 1024, 3_686_400, 2e-3),
    "small": ModelPreset(320, 8, 5, 768, 4096, 50_000_000, 1e-3),
    "base": ModelPreset(768, 12, 12, 2560, 32768, 2_500_000_000, 6e-4),
}

NUMBERS = ("train_length", "tail", "windows", "batch_size", "tokens", "learning_rate", "warmup", "weight_decay")
PATHS = {
    "text": "stdlib, a path or hf:DATASET",
    "tokenizer": "a path or a hub name, or None",
    "model": f"{', '.join(MODELS)}, or the path of a config or a model",
}


@dataclass(frozen=True)
class Settings:
    """What a comparison is run with. Two runs with equal settings, encoding and seed are the same trial.

    task            of `whorl.tasks.TASKS`: its name, or with arguments as encodings have them (parity:scratchpad=full);
                    text and tokenizer are of tasks that read them
    mix             tasks that are mixed into language training, each with its share of the sequences ("mqar=0.1")
    text            stdlib, a text, JSONL or Parquet file, a folder, or hf:DATASET
    tokenizer       a directory or hub name; None trains a byte-level BPE on the training split
    model           tiny, small, base (decoders, and encoders of the same sizes for mlm, smaller ones for points and
                    images), or a Hugging Face config or model directory
    train_length    of the longest training sequence, in the task's unit (128 tokens, 20 items); None: the task's own
    lengths         evaluation lengths, in that unit or as multiples of the training length ("4x"); None: the task's own
    tokens          training tokens per trial; None takes the preset's
    tail            target tokens at the end of each evaluation window
    windows         evaluation windows (sequences, for generated tasks) per length
    precision       bf16 (autocast), fp32, or auto: bf16 where the hardware multiplies it
    compile         torch.compile for training; off, because at the default budget tracing costs more than it saves
                    (experiments/0001-language/LOG.md)
    """

    task: str = "language"
    text: str = "stdlib"
    tokenizer: str | None = None
    model: str = "tiny"
    train_length: int | None = None
    lengths: tuple[str, ...] | None = None
    tokens: int | None = None
    tail: int = 64
    windows: int = 96
    batch_size: int = 32
    learning_rate: float | None = None
    schedule: str = "cosine"
    warmup: float = 0.05
    weight_decay: float = 0.1
    precision: str = "auto"
    compile: bool = False
    mix: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, wanted in PATHS.items():
            value = getattr(self, name)
            if value is not None or name != "tokenizer":
                object.__setattr__(self, name, check_path(name, value, wanted))
        if self.lengths is not None:
            object.__setattr__(self, "lengths", tuple(check_list("lengths", self.lengths, '["1x", "4x"]')))
        object.__setattr__(self, "mix", tuple(check_list("mix", self.mix, '["mqar=0.1"]')))
        if not isinstance(self.compile, bool):
            raise ValueError(f"compile must be True or False, got {shown(self.compile)}")
        for name in NUMBERS:
            check_numbers(**{name: getattr(self, name)})
        choices("schedule", self.schedule, SCHEDULES)
        choices("precision", self.precision, PRECISIONS)
        if self.lengths == ():
            raise ValueError("lengths is empty; try 1x,2x,4x")
        if self.lengths:
            self.evaluation_lengths()

    def evaluation_lengths(self) -> tuple[int, ...]:
        """The evaluation lengths in the task's unit, ascending. Raises ValueError for what is neither such a length nor
        a multiple."""
        task, arguments = self._task()
        trained = self.train_length or task.default_length(arguments)
        return check_lengths(self.lengths or task.default_lengths(arguments, trained), trained, task.unit)

    @property
    def preset(self) -> ModelPreset | None:
        return MODELS.get(self.model)

    def _task(self) -> tuple[type[Task], dict[str, Any]]:
        from whorl.tasks import parse

        return parse(self.task)

    @property
    def task_class(self) -> type[Task]:
        """Raises ValueError for a task that there is none of."""
        return self._task()[0]

    def task_settings(self) -> TaskSettings:
        """What the task is made with."""
        from whorl.tasks.base import TaskSettings

        task, arguments = self._task()
        return TaskSettings(
            train_length=self.train_length or task.default_length(arguments),
            lengths=self.evaluation_lengths(),
            tail=self.tail,
            windows=self.windows,
            text=self.text,
            tokenizer=self.tokenizer,
            arguments=arguments,
            **({"vocab_size": self.preset.vocab_size} if self.preset else {}),
        )

    def check_task(self) -> None:
        """Raises ValueError, before any work, for data that cannot be made."""
        self.task_class.check(self.task_settings())
        if self.mix:
            from whorl.tasks.mixed import check_mix

            check_mix(self.task_class, self.mix, self.task_settings())

    def make_task(self) -> Task:
        """The task, with what is mixed into it."""
        if not self.mix:
            return self.task_class(self.task_settings())
        from whorl.tasks.mixed import Mixed, shares

        return Mixed(self.task_settings(), shares(self.mix))

    @cached_property
    def train_tokens(self) -> int:
        """Tokens of a training sequence; the task is made to say it."""
        return self.task_class.example_tokens(self.task_settings())

    @property
    def known(self) -> Known:
        """What fills the arguments that an encoding leaves unset, where a model is trained from scratch."""
        return self.task_class.known(self.task_settings())

    def resolve(self) -> Settings:
        """The same with nothing left open: the task as it is written shortest, its lengths, the preset's budget for it,
        this machine's precision."""
        from whorl.tasks import written

        mix = self.mix
        if mix:
            from whorl.tasks.mixed import shares

            mix = tuple(map(str, shares(mix)))
        tokens, rate = self.tokens, self.learning_rate
        if self.preset is not None:
            needs = self.task_class.needs
            tokens = tokens or self.preset.tokens * needs.tokens
            rate = rate or self.preset.learning_rate * needs.learning_rate
        check_examples(tokens or 0, self.train_tokens)
        return dataclasses.replace(
            self,
            task=written(self.task),
            train_length=self.task_settings().train_length,
            tokens=tokens or 50_000_000,
            learning_rate=rate or 3e-4,
            lengths=tuple(map(str, self.evaluation_lengths())),
            precision=resolved_precision(self.precision),
            mix=mix,
        )

    def recipe(self, seed: int) -> Recipe:
        """How a trial of this seed is trained; the settings must be resolved."""
        assert self.tokens is not None
        assert self.learning_rate is not None
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(Recipe) if field.name != "seed"}
        return Recipe(**own | {"train_length": self.train_tokens, "seed": seed})

    def to_dict(self) -> dict[str, Any]:
        """As JSON. What came later than the first trials is left out at its default: they are known by the rest."""
        told = {**dataclasses.asdict(self), "lengths": self.lengths and list(self.lengths), "mix": list(self.mix)}
        return told if self.mix else {key: value for key, value in told.items() if key != "mix"}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Settings:
        """What `to_dict` gave. Raises ValueError for a setting that there is none of."""
        check_keywords("Settings", value, [field.name for field in dataclasses.fields(cls)])
        return cls(**value)
