"""Runs an inspection: windows of text and of random tokens through a model, in range and past it, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from whorl import finite
from whorl.attaching import seams_of
from whorl.checking import check_ids, check_numbers, shown
from whorl.data.losses import check_predicts_next
from whorl.encodings.spectrum import wavelength
from whorl.hosts import OpenHost, open_host, tokens_of
from whorl.inspection import analysis, planning
from whorl.inspection.ablation import ablate as run_ablation
from whorl.inspection.ablation import cuts
from whorl.inspection.about import about
from whorl.inspection.keeping import Kept, digest_of
from whorl.inspection.passes import Pass, Sums
from whorl.inspection.planning import Asked, Deadline
from whorl.results.added import Factor
from whorl.results.inspection import (
    Array,
    Divergence,
    Inspection,
    LengthDivergence,
    Summary,
    UShapes,
)
from whorl.results.plan import Plan
from whorl.sources import declared_length
from whorl.watching import Layer, layers_of

Stage = Callable[[str, int], Any]  # opens a stage of so many steps: a context manager that gives `advance(steps)`

SHORTEST = 16  # tokens of a window
NO_PAIRS = "no layer of this model turns pairs of channels ({encoding}), so there is nothing to show by pair"
NO_LOGITS = "{some} weights that are a quotient of features: there are no logits, nor parts of them, to be shown"
NO_WEIGHTS = "{some} weights that may be negative, and sum to no number that is known: nothing is shown of attention"
NOT_SO_LONG = "windows of {length:,} tokens show nothing past the training length, {train_length:,}"

NO_TIME = "there was no time for windows of {length:,} tokens"
NOT_YET = "not read yet: the inspection goes on, or was stopped before"
LATER = ("random", "attention", "out_of_range", "divergence", "ablation")  # what stages after the first one find

WITHIN = "every layer's window lies within the training length, {train_length:,}, and no distance is new to it"


@contextmanager
def silent(name: str, steps: int) -> Iterator[Callable[[int], None]]:
    yield lambda done: None


def inspect(
    model: Any,
    inputs: torch.Tensor,
    *,
    train_length: int | None = None,
    random_windows: int = 16,
    ablate: bool = False,
    attention: bool = True,
    layers: Sequence[int] | None = None,
    minutes: float | None = None,
    plan: Plan | None = None,
    kept: Kept | None = None,
    seed: int = 0,
    stage: Stage = silent,
    finished: Callable[[Inspection], None] = lambda inspection: None,
) -> Inspection:
    """Measures how a decoder uses positions. The model is left as it is.

    model           a Hugging Face causal language model, stock or with an encoding of whorl's
    inputs          token ids [windows, tokens] of text, whole windows without padding
    train_length    the length L that the model was trained at; None takes config.max_position_embeddings
    random_windows  windows of HoPE's protocol: a first token, then tokens drawn evenly from the vocabulary (2410.21216)
    ablate          also stops the slow pairs, cut by cut, and reports the loss
    attention       False leaves out what needs the softmax: attention by distance, entropy, positional heads
    layers          the layers that are measured; None: all of them
    minutes         a budget: what of the inputs' windows fits is planned and read; None or 0 sets no limit
    plan            what is read of the inputs, as `summary.plan` of an earlier inspection says it, in place of both
    kept            where stages that were done are found, and put, for a run that goes on
    stage, finished what is told of stages as they begin, and of the result so far as they end

    Everything by distance is measured in range, on windows cut to L tokens; where the windows are longer, the curves
    are those of the whole windows. What was planned and read, and what there was no time for, is in `summary.plan`. On
    Ctrl-C the windows that were read still make a result, which `finished` is told.

    Raises ValueError for a model that cannot be read (see `layers_of`) and for inputs that do not fit. A model whose
    weights or outputs are not finite is refused too, naming the first of them.
    """
    begun = planning.clock()
    check_numbers(train_length=train_length, random_windows=random_windows, seed=seed, minutes=minutes)
    host = open_host(model)
    check_inputs(inputs, host.model)
    limit = train_length or declared_length(host.model)
    if limit is None:
        raise ValueError(f"{type(host.model).__name__} does not say its training length; give train_length")
    facts = layers_of(host)
    finite.check_weights(host.model)
    if plan is None:
        windows, length = inputs.shape
        asked = asked_for(facts, limit, windows, random_windows, length, ablate=ablate, layers=layers)
        plan = planning.everything(asked)
        if minutes:
            plan = planned(host, facts, asked, attention, minutes, begun)
    seconds = 60 * minutes - (planning.clock() - begun) if minutes else None
    return read(
        host, facts, inputs, limit, plan, attention=attention, seconds=seconds, kept=kept, seed=seed, stage=stage,
        finished=finished,
    )  # fmt: skip


def read(
    host: OpenHost,
    facts: list[Layer],
    inputs: torch.Tensor,
    limit: int,
    plan: Plan,
    *,
    attention: bool = True,
    seconds: float | None = None,
    kept: Kept | None = None,
    seed: int = 0,
    stage: Stage = silent,
    finished: Callable[[Inspection], None] = lambda inspection: None,
) -> Inspection:
    """What `inspect` does once model and inputs are checked, and it is known what is to be read in how many seconds."""
    _check_plan(plan, inputs, host, len(facts))
    summary = replace(about(host, facts, inputs, limit, plan, seed), plan=plan)
    stages = _Stages(
        host, facts, inputs.long(), limit, attention, seed, stage, summary, Deadline(plan, seconds), kept
    )  # fmt: skip
    stages.spectrum()
    stages.without_softmax()
    for run in (stages.in_range, stages.random_tokens, stages.past_range, stages.ablation):
        run()
        finished(stages.result())
        if stages.interrupted:
            raise KeyboardInterrupt
    return stages.result()


def asked_for(
    facts: list[Layer],
    limit: int,
    windows: int,
    random_windows: int,
    length: int | None = None,
    ablate: bool = False,
    layers: Sequence[int] | None = None,
    room: int | None = None,
) -> Asked:
    """What is to be planned of a model with such layers. Raises ValueError for layers that it does not have."""
    chosen = None if layers is None else tuple(sorted({*layers}))
    if chosen is not None and not (chosen and chosen[0] >= 0 and chosen[-1] < len(facts)):
        raise ValueError(f"layers must be some of 0 to {len(facts) - 1}, those that the model has, got {layers}")
    largest = max(facts, key=lambda layer: layer.pairs)
    sweep = 1 + len(cuts(largest, limit)) if ablate and largest.turns else 0
    return Asked(limit, windows, random_windows, length, sweep, chosen, room)


def planned(
    host: OpenHost, facts: list[Layer], asked: Asked, attention: bool, minutes: float, begun: float | None = None
) -> Plan:
    """A plan for so many minutes from `begun` (or now), after some windows were timed."""
    begun = planning.clock() if begun is None else begun
    cost = planning.measured(host, attention, asked, 60 * minutes)
    return planning.planned(asked, cost, minutes, 60 * minutes - (planning.clock() - begun), facts)


def _check_plan(plan: Plan, inputs: torch.Tensor, host: OpenHost, layers: int) -> None:
    """Raises ValueError for a plan of another model's layers, of longer windows than there are, and of an ablation,
    which is measured by the loss, of a model that gives none."""
    if plan.stage("ablation") is not None:
        check_predicts_next(host)
    if plan.layers is not None and not set(plan.layers) <= set(range(layers)):
        raise ValueError(f"the plan is of the layers {list(plan.layers)}, and this model has 0 to {layers - 1}")
    if (length := planning.windows_of(plan)[0]) > inputs.shape[1]:
        raise ValueError(f"the plan is of windows of {length:,} tokens, and these have {inputs.shape[1]:,}")


def check_inputs(inputs: Any, model: Any) -> None:
    """Raises ValueError for what are no windows of token ids of this model."""
    if not isinstance(inputs, torch.Tensor):
        hint = "tokenizer(text, return_tensors='pt').input_ids"
        if isinstance(inputs, str):
            hint += ", or `whorl inspect MODEL --text FILE`"
        elif isinstance(inputs, list | tuple):
            hint = "torch.tensor(ids)"
        raise ValueError(f"inputs must be a tensor of token ids [windows, tokens], got {shown(inputs)}; try {hint}")
    if inputs.dim() != 2 or inputs.dtype not in (torch.int32, torch.int64) or not len(inputs):
        hint = "; try inputs[None]" if inputs.dim() == 1 else ""
        raise ValueError(
            "inputs must be token ids [windows, tokens], int64 or int32, of a window or more, got "
            f"{tuple(inputs.shape)} {str(inputs.dtype).removeprefix('torch.')}{hint}"
        )
    if inputs.shape[1] < SHORTEST:
        raise ValueError(f"windows of {inputs.shape[1]} tokens are too short to see distances in; give {SHORTEST}")
    check_ids("inputs", inputs, tokens_of(model))


@dataclass
class _Stages:
    """The stages of an inspection; each adds to the result."""

    host: OpenHost
    facts: list[Layer]
    inputs: torch.Tensor
    limit: int
    attention: bool
    seed: int
    stage: Stage
    summary: Summary
    deadline: Deadline
    kept: Kept | None = None
    arrays: dict[str, Array] = field(default_factory=dict)
    interrupted: bool = False

    def __post_init__(self) -> None:
        self.length = self.inputs.shape[1]
        self.inside_length = min(self.limit, self.length)
        self.inside = _cut(self.inputs, self.inside_length)[: self._planned("text")]
        chosen = self.deadline.plan.layers
        self.only = None if chosen is None else frozenset(chosen)
        self.tell(**dict.fromkeys(LATER, NOT_YET))
        heads = self.host.model.config.get_text_config().num_attention_heads
        self.count = analysis.sample_count(self.facts, heads)

    def _planned(self, stage: str) -> int:
        """Windows of a stage."""
        found = self.deadline.plan.stage(stage)
        return 0 if found is None else found.windows

    def result(self) -> Inspection:
        """What has been found so far."""
        return Inspection(self.summary, dict(self.arrays))

    def add(self, **sections: Any) -> None:
        self.summary = replace(self.summary, **sections)

    def tell(self, **reasons: str) -> None:
        """Why sections are absent."""
        self.add(absent=self.summary.absent | reasons)

    def come_to(self, *sections: str) -> None:
        """These are not absent any more for not having been come to."""
        self.add(absent={key: why for key, why in self.summary.absent.items() if key not in sections})

    @contextmanager
    def _stage(self, key: str, name: str, steps: int) -> Iterator[Callable[[int], None]]:
        start = time.perf_counter()
        with torch.no_grad(), self.stage(name, steps) as advance:
            yield advance
        self.add(seconds=self.summary.seconds | {key: round(time.perf_counter() - start, 2)})

    def _pass(self, key: str, windows: torch.Tensor, logits: str, seed: int, advance: Any, **how: Any) -> Pass:
        """The windows of a stage, or those that were read until the time was up, or Ctrl-C."""
        found = Pass(
            self.host, windows, logits, attention=self.attention, seed=seed, advance=advance, only=self.only,
            enough=lambda read: self.deadline.enough(key, read), **how,
        )  # fmt: skip
        if self.kept is not None:
            found.layers = self.kept.sums(key, self.facts, windows)
            advance(found.read)
        already = found.read
        try:
            found.run()
        except KeyboardInterrupt:
            if not found.read:
                raise
            self.interrupted = True
        if self.kept is not None and found.read > already:
            self.kept.keep(key, found.layers, windows)
        self._note(key, found.read, len(windows))
        return found

    def _note(self, key: str, read: int, of: int) -> None:
        """How many windows of a stage were read, in the plan."""
        plan = self.summary.plan
        assert plan is not None
        stages = tuple(replace(stage, read=read) if stage.stage == key else stage for stage in plan.stages)
        why = "it was interrupted" if self.interrupted else "the time was up"
        short = (f"{of - read} of the {of} windows of the stage {planning.STAGES[key]!r}: {why}",) if read < of else ()
        self.add(plan=replace(plan, stages=stages, left_out=plan.left_out + short))

    def spectrum(self) -> None:
        if not any(layer.turns for layer in self.facts):
            self.tell(pairs=NO_PAIRS.format(encoding=self.summary.model.encoding))
            return
        rows = [np.array([wavelength(f) for f in layer.frequencies]) for layer in self.facts]
        self._put("wavelength", [row if len(row) else None for row in rows])

    def without_softmax(self) -> None:
        """Says of which layers logits or weights cannot be shown."""
        for key, why, has in (("logit", NO_LOGITS, "has_logits"), ("weights", NO_WEIGHTS, "distribution")):
            without = [layer.index for layer in self.facts if not getattr(layer, has)]
            if without:
                some = "all layers have" if len(without) == len(self.facts) else f"the layers {without} have"
                self.tell(**{key: why.format(some=some)})

    def in_range(self) -> None:
        ranges = dict.fromkeys(("reference", "again"), (1, self.inside_length - 1))
        with self._stage("text", "text, in range", len(self.inside)) as advance:
            how: dict[str, Any] = {"norms": True, "regions_over": self.inside_length, "samples": self.count}
            how["sampled"] = ranges if self.length > self.limit else {}
            self.text = self._pass("text", self.inside, "raw", self.seed, advance, **how)
        per_window = max(1, self.length // self.inside_length)
        self.inside = self.inside[: self.text.read]
        settings = replace(self.summary.settings, windows=-(-self.text.read // per_window))
        self.add(settings=settings)
        self.add(u_shape=UShapes(analysis.u_shape(self.text, self.limit)))
        for name in ("q", "k", "v"):
            self._put(f"norm_{name}", self.text.norm(name))
        self._curves(self.text)
        self.add(added=analysis.added(self.text), gates=analysis.gates(self.text), factors=self._factors(None))

    def _factors(self, beyond: Pass | None) -> tuple[Factor, ...] | None:
        return analysis.factors(
            [() if seam is None else seam.scales for seam in seams_of(self.host)], self.text, beyond
        )

    def random_tokens(self) -> None:
        found = None
        self.come_to("random", "attention")
        if windows := self._planned("random"):
            ids = random_tokens(self.host.model, windows, self.inside_length, self.seed)
            with self._stage("random", "random tokens", windows) as advance:
                how = {"regions_over": self.inside_length}
                found = self._pass("random", ids, "standardised", self.seed, advance, **how)
            self.add(settings=replace(self.summary.settings, random_windows=found.read))
            self.add(u_shape=replace(self.summary.u_shape, random=analysis.u_shape(found, self.limit)))
            self._put("random_logit", found.of_layers(found.mean_logit))
            means = found.of_layers(found.mean_by_pair)
            self._put("random_logit_by_pair", [None if x is None else x.mean(0) for x in means])
            self._put("random_attention", found.of_layers(found.mean_attention))
        else:
            self.tell(random="no random windows were asked for, or there was no time for them")
        if "weights" in self.summary.absent and not any(layer.distribution for layer in self.facts):
            self.tell(attention=self.summary.absent["weights"])
        elif self.attention:
            self.add(heads=analysis.positional_heads(self.text, found))
            self.add(first_token=analysis.first_token(self.text, found))
        else:
            self.tell(attention="not asked for")

    def past_range(self) -> None:
        self.come_to("out_of_range", "divergence")
        if not (windows := self._planned("long")) and self.length > self.limit:
            self.tell(out_of_range=NO_TIME.format(length=self.length))
            return
        if self.length <= self.limit:
            self.tell(out_of_range=NOT_SO_LONG.format(length=self.length, train_length=self.limit))
            return
        ranges = analysis.sampled_ranges(self.inside_length, self.length)
        with self._stage("long", f"text of {self.length:,} tokens", windows) as advance:
            seed = self.seed + 1
            found = self._pass("long", self.inputs[:windows], "raw", seed, advance, sampled=ranges, samples=self.count)
        self._curves(found)
        self._widen()
        self.add(factors=self._factors(found))
        if not any(layer.has_logits for layer in self.facts):
            self.tell(out_of_range=self.summary.absent["logit"])
        elif all(layer.window is not None and layer.window <= self.inside_length for layer in self.facts):
            self.tell(out_of_range=WITHIN.format(train_length=self.limit))
        elif ranges:
            section, whole, by_pair = analysis.out_of_range(self.text, found)
            self.add(out_of_range=section)
            self._put("departure", whole)
            self._put("departure_by_pair", by_pair)
        if self.attention:
            keys = [self._each(p.of_layers(last_keys)) for p in (self.text, found)]
            layers = analysis.divergences(*keys)
            self.add(divergence=Divergence(LengthDivergence(self.inside_length, self.length, layers)))

    def ablation(self) -> None:
        self.come_to("ablation")
        windows = self._planned("ablation")
        if "pairs" in self.summary.absent:
            self.tell(ablation=self.summary.absent["pairs"])
            return
        if not windows:
            self.tell(ablation="not asked for (--ablate)")
            return
        steps = 1 + len(cuts(max(self.facts, key=lambda layer: layer.pairs), self.limit))
        past = self.inputs[:windows] if self._planned("long") else None
        inside = self.inside[: windows * (self.length // self.inside_length)]
        with self._stage("ablation", "ablation", steps) as advance:
            how = [digest_of(ids) for ids in (inside, past) if ids is not None]
            found = None if self.kept is None else self.kept.ablation(how)
            if found is None:
                found = run_ablation(self.host, inside, past, self.limit, lambda: advance(1))
            if self.kept is not None:
                self.kept.keep_ablation(how, found)
        self.add(ablation=found)
        self._note("ablation", windows, windows)

    def _put(self, name: str, rows: list[Array | None]) -> None:
        found = stacked(self._each(rows))
        if found is not None:
            self.arrays[name] = found

    def _each(self, rows: list[Array | None]) -> list[Array | None]:
        """A row for every layer: None for the last ones, where they were not read."""
        return rows + [None] * (len(self.facts) - len(rows))

    def _curves(self, found: Pass) -> None:
        """The arrays by distance and by position of a pass, in the place of a shorter one's."""
        arrays = self.arrays
        arrays["distance_from"], arrays["distance_to"] = found.distances.start, found.distances.stop
        arrays["coarse_from"], arrays["coarse_to"] = found.coarse.start, found.coarse.stop
        arrays["position_from"], arrays["position_to"] = found.positions.start, found.positions.stop
        self._put("logit", found.of_layers(found.mean_logit))
        self._put("logit_by_pair", found.of_layers(found.mean_by_pair))
        self._put("added", found.of_layers(found.mean_added))
        self._put("added_share", found.of_layers(found.added_share))
        self._put("attention", found.of_layers(found.mean_attention))
        self._put("entropy", found.of_layers(lambda sums: found.by_position(sums.entropy, sums.windows)))
        self._put("first_token", found.of_layers(lambda sums: found.by_position(sums.first, sums.windows)))
        self._put("key_distribution", found.of_layers(last_keys))

    def _widen(self) -> None:
        """Random tokens are seen in range alone; on the bins of longer windows there is NaN past it."""
        bins = {"random_logit": "distance", "random_attention": "distance", "random_logit_by_pair": "coarse"}
        for name, axis in bins.items():
            if name in self.arrays:
                array = self.arrays[name]
                missing = len(self.arrays[f"{axis}_from"]) - array.shape[-1]
                space = [(0, 0)] * (array.ndim - 1) + [(0, missing)]
                self.arrays[name] = np.pad(array, space, constant_values=np.nan)


def random_tokens(model: Any, windows: int, length: int, seed: int) -> torch.Tensor:
    """[windows, length]: the first token of a text, then tokens drawn evenly from the vocabulary."""
    config = model.config.get_text_config()
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(config.vocab_size, (windows, length), generator=generator)
    special = (getattr(config, name, None) for name in ("bos_token_id", "eos_token_id"))  # Qwen3-VL's text has none
    first = next((id_ for id_ in special if id_ is not None), None)
    if isinstance(first, Sequence):
        first = first[0]
    if first is not None and 0 <= first < config.vocab_size:
        ids[:, 0] = first
    return ids


def beside(a: Inspection, b: Inspection) -> Inspection:
    """The first, with how far the attention of the two models is apart, layer by layer."""
    if "key_distribution" not in a.arrays or "key_distribution" not in b.arrays:
        return a
    keys = [[None if np.isnan(layer).all() else layer for layer in m.key_distribution] for m in (a, b)]
    apart = analysis.divergences(*keys)
    divergence = replace(a.summary.divergence or Divergence(), models=apart)
    return replace(a, summary=replace(a.summary, divergence=divergence))


def stacked(layers: list[Array | None]) -> Array | None:
    """Per-layer arrays as one, padded with NaN where layers differ in heads or pairs; None where there are none."""
    found = [x for x in layers if x is not None]
    if not found:
        return None
    shape = tuple(max(x.shape[i] for x in found) for i in range(found[0].ndim))
    out = np.full((len(layers), *shape), np.nan, dtype=np.float32)
    for i, x in enumerate(layers):
        if x is not None:
            out[i][tuple(slice(n) for n in x.shape)] = x
    return out


def _cut(inputs: torch.Tensor, length: int) -> torch.Tensor:
    """The same tokens in windows of `length`, what is over left out."""
    per_window = inputs.shape[1] // length
    return inputs[:, : per_window * length].reshape(-1, length)


def last_keys(sums: Sums) -> Array | None:
    return None if sums.last_keys is None else sums.last_keys / sums.windows
