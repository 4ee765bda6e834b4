"""Plans an inspection for a budget of time: what a window costs here, and which windows, layers and stages fit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from whorl.hosts import OpenHost
from whorl.inspection.passes import Pass
from whorl.results.plan import Plan, Reading
from whorl.watching import Layer

REACH = 4  # times the training length: as far as is looked, where nothing is said
SHORTEST = 512  # tokens: no length that is chosen here falls below, but where the training length does
WARMING, PROBED = 32, 256  # tokens of a first window, and of the first that is timed
NEARBY = 4  # times a window that was timed: what a longer one takes is not told by it
PROBE = 0.02  # of the budget: windows are doubled until one takes so much
RUNGS = ((8, 16), (8, 8), (4, 8), (4, 4), (2, 4), (2, 2))  # windows of text, of random tokens: fewer and fewer
FEW_IN_RANGE, FEW_PAST = (4, 4), (2, 4)  # with fewer than these, a shorter length is chosen
FOR_STAGES = 0.9  # of the time that is left when the plan is made; the rest is for the report
REPORT = 10  # seconds of a processor that the last report takes, of models of 18 and 30 layers
ENOUGH = 2  # windows, without which no stage ends early
STAGES = {"text": "text, in range", "random": "random tokens", "long": "text past the training length",
          "ablation": "ablation"}  # fmt: skip

clock = time.perf_counter
processor = time.thread_time


class Pace:
    """How much longer than its processor time work takes here, where others want the processor too."""

    def __init__(self) -> None:
        self.begun, self.used = clock(), processor()

    def __call__(self) -> float:
        """Seconds that went by for one of this thread's since this was made: 1, or more."""
        used = processor() - self.used
        return max(1.0, (clock() - self.begun) / used) if used > 0 else 1.0


def for_stages(seconds: float, pace: float) -> float:
    """Of the `seconds` that are left, those for the stages. The report has the others: a tenth, or what it takes longer
    at this pace, a third at the most (a thread that waits for a disk or a device seems slower than its report will be).
    """
    return seconds - min(max((1 - FOR_STAGES) * seconds, REPORT * (pace - 1)), seconds / 3)


@dataclass(frozen=True)
class Cost:
    """Seconds of a window: what grows with its tokens, and what grows with their square. bare: the part that is the
    model's own forward, which layers that are not measured take too; head: a forward's time with the losses over its
    time without them, for the windows of an ablation; pace: see `Pace`."""

    per_token: float
    per_square: float
    bare: float = 0.7
    head: float = 1.0
    pace: float = 1.0

    def of(self, tokens: int, share: float = 1.0) -> float:
        """share: of the layers, those that are measured."""
        whole = tokens * (self.per_token + tokens * self.per_square)
        return whole * (self.bare + (1 - self.bare) * share)


@dataclass(frozen=True)
class Asked:
    """What an inspection was asked for. length: None leaves it to the plan; cuts: forwards per window of an ablation;
    layers: those to measure, None for all; room: the longest window that the model takes, None for any."""

    train_length: int
    windows: int
    random_windows: int
    length: int | None = None
    cuts: int = 0
    layers: tuple[int, ...] | None = None
    room: int | None = None

    def lengths(self) -> list[int]:
        """Those to choose from, longest first: past the training length, that length itself, and halves of it."""
        if self.length is not None:
            return [self.length]
        limit = self.train_length
        found = [REACH * limit, 2 * limit, limit]
        while found[-1] // 2 >= SHORTEST:
            found.append(found[-1] // 2)
        return [n for n in found if self.room is None or n <= self.room] or [self.room or limit]


def measured(host: OpenHost, attention: bool, asked: Asked, seconds: float, seed: int = 0) -> Cost:
    """Times single windows of random tokens, each twice as long as the one before, until one takes a fiftieth of the
    `seconds` that there are, or is the longest that is asked for. Only one, where that says that all of it fits."""
    longest = asked.lengths()[0]
    config = host.model.config.get_text_config()
    generator = torch.Generator().manual_seed(seed)
    pace = Pace()

    def timed(tokens: int, only: frozenset[int] | None = None) -> float:
        ids = torch.randint(config.vocab_size, (1, tokens), generator=generator)
        start = clock()
        with torch.no_grad():
            Pass(host, ids, norms=True, attention=attention, regions_over=tokens, only=only).run()
        return clock() - start

    tokens = min(PROBED, longest // 2)
    timed(min(WARMING, tokens))  # what only a first forward does
    short = timed(tokens)
    head, body = config.vocab_size * config.hidden_size, sum(p.numel() for p in host.base.parameters())
    with_losses = 1 + head / max(body - head, head)
    at_most = Cost(0.0, short / tokens**2, 1.0, with_losses)  # if all of it grew with the square
    if longest <= NEARBY * tokens and taken(everything(asked, at_most)) <= for_stages(seconds, pace()):
        return Cost(short / tokens, 0.0, head=with_losses, pace=pace())
    bare = min(1.0, timed(tokens, frozenset()) / short)
    while (long := timed(2 * tokens)) <= PROBE * seconds and 4 * tokens <= longest:
        tokens, short = 2 * tokens, long
    tokens *= 2
    square = max(0.0, (long - 2 * short) / (tokens * tokens / 2))
    return Cost(max(0.0, long / tokens - square * tokens), square, bare, with_losses, pace())


def everything(asked: Asked, cost: Cost = Cost(0, 0)) -> Plan:
    """All that was asked for, whatever it takes."""
    return _Planner(asked, cost, ()).plan(asked.lengths()[0], asked.windows, asked.random_windows, asked.layers)


def taken(plan: Plan) -> float:
    """The seconds that a plan is expected to take."""
    return sum(stage.seconds for stage in plan.stages)


def planned(asked: Asked, cost: Cost, minutes: float, seconds: float, facts: Sequence[Layer]) -> Plan:
    """The plan that is preferred of those that take no longer than `seconds`; if none does, the least, which says so.

    minutes: the budget as it was given; seconds: what is left of it; facts: the model's layers.
    """
    planner = _Planner(asked, cost, facts)
    for plan in planner.options():
        takes = taken(plan)
        if takes <= for_stages(seconds, cost.pace):
            break
    said = planner.left_out(plan)
    if takes > for_stages(seconds, cost.pace):
        said.append(f"nothing else can be, and what is left takes about {told(takes)}, longer than there is")
    return replace(plan, minutes=minutes, left_out=tuple(said))


@dataclass(frozen=True)
class _Planner:
    asked: Asked
    cost: Cost
    facts: Sequence[Layer]

    def options(self) -> Iterator[Plan]:
        """Plans, the preferred first: as long as can be with a few windows, and then as many of those as can be. At the
        last length, which may be one that was asked for, windows are given up first, then what lies past the training
        length, layers, and random tokens."""
        asked, layers = self.asked, self.asked.layers
        wanted = asked.windows, asked.random_windows
        rungs = list(dict.fromkeys([wanted, *((min(w, wanted[0]), min(r, wanted[1])) for w, r in RUNGS)]))
        *longer, last = asked.lengths()
        for length in longer:
            few = FEW_PAST if length > asked.train_length else FEW_IN_RANGE
            for w, r in rungs:
                if w >= min(few[0], wanted[0]) and r >= min(few[1], wanted[1]):
                    yield self.plan(length, w, r, layers)
        for w, r in rungs:
            yield self.plan(last, w, r, layers)
        w, r = rungs[-1]
        inside = min(last, asked.train_length)
        yield self.plan(inside, w, r, layers)
        for every in (2, 4) if layers is None else ():
            yield self.plan(inside, w, r, spread(self.facts, every))
        layers = spread(self.facts, 4) if layers is None else layers
        yield self.plan(inside, w, 0, layers)
        yield self.plan(inside, 1, 0, layers)

    def plan(self, length: int, windows: int, random: int, layers: tuple[int, ...] | None) -> Plan:
        """All stages of so many windows; what lies past the training length is read of windows that are longer."""
        asked, cost = self.asked, self.cost
        inside = min(length, asked.train_length)
        share = 1.0 if layers is None else len(layers) / max(len(self.facts), len(layers), 1)

        def stage(name: str, windows: int, length: int, each: float) -> Reading:
            return Reading(name, windows, length, round(windows * each, 2))

        found = [stage("text", windows * (length // inside), inside, cost.of(inside, share))]
        if random:
            found.append(stage("random", random, inside, cost.of(inside, share)))
        forward = cost.of(inside, 0) * (length // inside)
        if length > inside:
            found.append(stage("long", windows, length, cost.of(length, share)))
            forward += cost.of(length, 0)
        if asked.cuts:
            found.append(stage("ablation", windows, length, asked.cuts * cost.head * forward))
        return Plan(None, tuple(found), layers)

    def left_out(self, plan: Plan) -> list[str]:
        """What of all that was asked for is not in the plan."""
        asked, said = self.asked, []
        whole = everything(asked)
        for name in ("long", "text"):
            full, found = whole.stage(name), plan.stage(name)
            if full is None or (found is not None and found.length == full.length):
                continue
            takes = f"one of {full.length:,} takes about {told(self.cost.of(full.length))}"
            if found is None:
                said.append(f"windows past the training length: {takes}")
            else:
                trained = ", the training length," if full.length == asked.train_length else ""
                takes = takes.replace(" takes", f"{trained} takes")
                said.append(f"windows of more than {found.length:,} tokens: {takes}")
        windows = (plan.stage("long") or plan.stages[0]).windows
        if windows < asked.windows:
            said.append(f"{asked.windows - windows} of the {asked.windows} windows of text")
        random = plan.stage("random")
        if (read := 0 if random is None else random.windows) < asked.random_windows:
            said.append(f"{asked.random_windows - read} of the {asked.random_windows} windows of random tokens")
        if plan.layers is not None and asked.layers is None:
            said.append(
                f"{len(self.facts) - len(plan.layers)} of the {len(self.facts)} layers; measured are, evenly of each "
                f"kind, {', '.join(map(str, plan.layers))}"
            )
        return said


def windows_of(plan: Plan) -> tuple[int, int]:
    """The tokens of the windows of text that a plan needs, and how many of them."""
    longest = plan.stage("long") or plan.stages[0]
    inside = plan.stages[0]
    return longest.length, max(longest.windows, -(-inside.windows // (longest.length // inside.length)))


def spread(facts: Sequence[Layer], every: int) -> tuple[int, ...]:
    """One layer in `every` of each kind (of one window and one spectrum), the last of each in any case."""
    kinds: dict[object, list[int]] = {}
    for layer in facts:
        kinds.setdefault((layer.window, layer.frequencies), []).append(layer.index)
    return tuple(sorted(index for of_kind in kinds.values() for index in of_kind[::-1][::every]))


def told(seconds: float) -> str:
    """`40 seconds`, `3 minutes`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} second{'' if round(seconds) <= 1 else 's'}"
    return f"{round(seconds / 60):,} minutes"


def in_words(plan: Plan) -> str:
    """What a plan reads, stage by stage, as far as it was not read yet."""
    return "; ".join(
        f"{STAGES[stage.stage]}: {stage.windows} window{'' if stage.windows == 1 else 's'} of {stage.length:,} tokens"
        + (f", about {told(stage.seconds)}" if plan.minutes else "")
        for stage in plan.stages
    )


@dataclass
class Deadline:
    """Which part of the time that is left each stage of a plan has. Without `seconds` there is no end."""

    plan: Plan
    seconds: float | None = None
    pace: Pace = field(default_factory=Pace)

    def enough(self, stage: str, windows: int) -> bool:
        """Whether a stage that has read so many windows is to end early."""
        if self.seconds is None or windows < ENOUGH:
            return False
        names = [found.stage for found in self.plan.stages]
        upto = self.plan.stages[: names.index(stage) + 1]
        whole = sum(found.seconds for found in self.plan.stages)
        part = sum(found.seconds for found in upto) / whole if whole else 1.0
        return clock() - self.pace.begun > part * for_stages(self.seconds, self.pace())
