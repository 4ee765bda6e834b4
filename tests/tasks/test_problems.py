"""The length-generalization tasks beside their definitions, written out, and beside the paper's own generators."""

from __future__ import annotations

import hashlib
import re
from collections import Counter

import pytest
import torch

from whorl.tasks.base import IGNORED
from whorl.tasks.graded import PAD, SEP
from whorl.tasks.problems import END, FIRST_WORD
from whorl.tasks.scan import pairs
from whorl.tasks.scratchpad import MARKS, PARTS

from .table import GENERATED, build

PROBLEMS = [notation for notation in GENERATED if build(notation).unit != "tokens"]


def read(task, ids, labels):
    """The words of a sequence: its prompt and its target. Asserts its frame."""
    ids, labels = ids.tolist(), labels.tolist()
    separator, end = ids.index(SEP), ids.index(END)
    assert ids[0] == 0
    assert set(ids[end + 1 :]) <= {PAD}
    assert labels == [IGNORED] * (separator + 1) + ids[separator + 1 : end + 1] + [IGNORED] * (len(ids) - end - 1)
    words = [[task.vocabulary[i - FIRST_WORD] for i in part] for part in (ids[1:separator], ids[separator + 1 : end])]
    return words[0], words[1]


def answers(notation, size, windows=20):
    """(prompt, target) of the evaluation at a size, as text."""
    task = build(notation, windows=windows)
    sequences = zip(*task.evaluation_set(size), strict=True)
    return [tuple(" ".join(words) for words in read(task, *sequence)) for sequence in sequences]


def size_of(notation, prompt):
    """The size of a problem by its prompt."""
    name, _, form = notation.partition(":")
    words = prompt.split()
    match name:
        case "copy-items":
            return len(words) - 2 * ("rdc" in form)
        case "addition":
            return max(len(number.split()) for number in prompt.split("+"))
        case "sort" if "multi" in form:
            return len(prompt.split(","))
        case "poly":
            return words.count("**")
        case "lego":
            return words.count("=")
        case "sum":
            return words.count("+") + 1
        case "pcfg":
            return sum(word.islower() for word in words)
        case _:
            return len(words)


DEFINITIONS = {
    "copy-items": lambda x: x,
    "copy-items:variant=cmc2x": lambda x: [*x, "next", *x],
    "copy-items:variant=rsc": lambda x: [x[0]] * len(x),
    "copy-items:variant=rsc2x": lambda x: [x[0]] * 2 * len(x),
    "copy-items:variant=rdc": lambda x: [x[1]] * (len(x) - 2),
    "reverse": lambda x: x[::-1],
    "reverse:variant=mc2x": lambda x: [*x[::-1], "next", *x[::-1]],
    "reverse:variant=mcrv": lambda x: [*x[::-1], "next", *x],
    "addition": lambda x: list(str(sum(int(number) for number in "".join(x).split("+")))),
    "sum": lambda x: [str(sum(map(int, x[::2])) % 10)],
    "parity": lambda x: ["No" if x.count("1") % 2 else "Yes"],
    "sort": lambda x: sorted(x, key=lambda word: int(word[1:])),
    "sort:variant=multi": lambda x: list(",".join(sorted("".join(x).split(","), key=int))),
    "poly": lambda x: [str(eval("".join(x[x.index(":") + 1 :]), {"x": int("".join(x[2 : x.index(":")]))}) % 10)],
}


@pytest.mark.parametrize("notation", DEFINITIONS)
def test_answers_are_those_of_the_definition(notation):
    task = build(notation)
    for size in (task.smallest, *task.settings.lengths):
        for prompt, answer in answers(notation, size):
            assert answer.split() == list(DEFINITIONS[notation](prompt.split())), prompt


def test_a_chain_of_signs_is_followed():
    for size in (2, 8, 26):
        asked = Counter()
        for prompt, answer in answers("lego", size, windows=40):
            clauses, letter = prompt.split(" ? ")
            known, order = {}, []
            for clause in clauses.split(" , "):
                name, _, *value = clause.split()
                known[name] = int(value[0]) if len(value) == 1 else int(f"{value[0]}1") * known[value[1]]
                order.append(name)
            assert len(order) == len(known) == size, "letters are different"
            assert answer == f"{known[letter]:+d}"
            asked[order.index(letter)] += 1
        assert set(asked) <= set(range((size + 1) // 2, size))
        assert len(asked) > size // 4


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("copy A1 B2 C3", "A1 B2 C3"),
        ("reverse A1 B2 C3", "C3 B2 A1"),
        ("shift A1 B2 C3", "B2 C3 A1"),
        ("swap_first_last A1 B2 C3 D4", "D4 B2 C3 A1"),
        ("swap_first_last A1", "A1"),
        ("repeat A1 B2", "A1 B2 A1 B2"),
        ("echo A1 B2", "A1 B2 B2"),
        ("append A1 , B2", "A1 B2"),
        ("prepend A1 , B2", "B2 A1"),
        ("remove_first A1 , B2 C3", "B2 C3"),
        ("remove_second A1 , B2 C3", "A1"),
        ("append swap_first_last A1 B2 C3 , repeat D4", "C3 B2 A1 D4 D4"),
        ("prepend remove_second A1 , B2 , append C3 , echo D4", "C3 D4 D4 A1"),
    ],
)
def test_functions_of_sequences(prompt, answer):
    assert build("pcfg").solve(prompt.split()) == answer.split()


@pytest.mark.parametrize(("notation", "most"), [("pcfg", 40), ("pcfg:most=9", 9)])
def test_nested_functions_are_drawn_as_they_are_read(notation, most):
    drawn = answers(notation, 8, windows=60)
    for prompt, answer in drawn:
        assert build(notation).solve(prompt.split()) == answer.split()
        assert 1 <= len(answer.split()) <= most
        words = re.findall(r"(?:[A-Z]\d+ ?)+", prompt)
        assert all(1 <= len(leaf.split()) <= 5 for leaf in words)
    used = Counter(word for prompt, _ in drawn for word in prompt.split() if word.islower())
    assert len(used) == 10


def test_scan_has_the_commands_of_its_grammar():
    """34 phrases, three times each, alone and in pairs; digest and counts are of the released file."""
    assert len(pairs()) == 102 + 2 * 102**2 == 20_910 == len({command for command, _ in pairs()})
    lines = sorted(" ".join(command) + "\t" + " ".join(actions) for command, actions in pairs())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == "b3e98e121df6eabee1c885fb0b3d890e755af1e3d0807be31e28087b37051d84"
    said = {" ".join(command): " ".join(actions) for command, actions in pairs()}
    assert said["turn opposite left"] == "I_TURN_LEFT I_TURN_LEFT"
    assert said["walk around right"] == " ".join(["I_TURN_RIGHT I_WALK"] * 4)
    assert said["run after look"] == "I_LOOK I_RUN"
    assert sum(len(actions) <= 25 for _, actions in pairs()) == 17_774


@pytest.mark.parametrize(("split", "trained"), [("md", 25), ("len", 22)])
def test_scan_asks_for_no_command_that_it_trains_on(split, trained):
    task = build(f"scan:split={split}", windows=1000)
    assert task.settings.train_length == trained
    seen = {command for command, _ in task.trained_on}
    asked = {command for command, _ in task.asked_for}
    assert not seen & asked
    assert len(seen | asked) == 20_910
    assert {len(actions) for _, actions in task.trained_on} == {len(a) for _, a in pairs() if len(a) <= trained}
    held_out = [actions for _, actions in task.asked_for if len(actions) <= trained]
    assert len(held_out) == {"md": 1777, "len": 1699}[split]
    for size in task.settings.lengths:
        there = answers(f"scan:split={split}", size, windows=1000)
        assert len(there) == len(set(there)) > 40 or size == 36
        assert all(tuple(command.split()) in asked for command, _ in there)


def test_scan_says_which_lengths_there_are():
    with pytest.raises(
        ValueError, match="no command of the scan task has 23 actions; try 1, 2, .*, 22, 24, 25, 26, 27"
    ):
        build("scan", lengths=(25, 23))


@pytest.mark.parametrize("notation", PROBLEMS)
def test_problems_have_the_size_that_is_asked(notation):
    task = build(notation, windows=12)
    for size in task.settings.lengths:
        for prompt, target in answers(notation, size, windows=12):
            asked = target if notation.startswith("scan") else prompt
            assert size_of(notation, asked) == size


@pytest.mark.parametrize("notation", PROBLEMS)
def test_training_has_every_size_and_no_sequence_is_longer_than_is_said(notation):
    task = build(notation)
    items = task.training_set(seed=0, examples=300)
    sizes = Counter()
    for i in range(300):
        prompt, target = read(task, items[i]["input_ids"], items[i]["labels"])
        sizes[size_of(notation, " ".join(target if notation.startswith("scan") else prompt))] += 1
    trained = task.settings.train_length
    assert max(sizes) <= trained
    every = range(task.smallest, trained + 1)
    assert set(sizes) == set(every) or notation.startswith(("scan", "copy", "reverse"))
    assert len(sizes) > 0.8 * len(every)
    if notation.startswith("addition"):
        assert sizes[8] > 2 * sizes[2], "as many of each pair of numbers of digits"


def test_long_steps_are_never_longer_than_is_said():
    """Also where many are drawn: what the longest sequence is, is worked out and not drawn."""
    for notation in ("addition:scratchpad=full", "sum:scratchpad=full", "poly:scratchpad=full", "lego:scratchpad=full"):
        task = build(notation, windows=300)
        for size in (task.smallest, 4, 8):
            longest = task.evaluation_set(size)[0].shape[1]
            assert longest <= task.tokens(size), (notation, size)


@pytest.mark.parametrize("name", ["addition", "sum", "parity", "sort", "poly", "lego"])
def test_each_part_of_a_scratchpad_can_be_left_out(name):
    kept = {}
    for parts in ("full", *("@".join(part for part in PARTS if part != left_out) for left_out in PARTS), "comp@out"):
        (prompt, target), *_ = answers(f"{name}:scratchpad={parts}", 5)
        (same, answer), *_ = answers(name, 5)
        assert prompt == same
        steps, _, end = target.rpartition(" thus ")
        assert end == answer, "the answer after the steps"
        kept[parts] = set(steps.split()) & set(PARTS)
    own = kept["full"]
    assert own >= {"in", "comp", "out", "re"}
    for parts, found in kept.items():
        assert found == own & set(PARTS if parts == "full" else parts.split("@")), parts


# The paper's own words: frames are left away, and a word is one id, so that texts are compared without spaces, commas,
# brackets and colons.


PROMPTS = {
    "addition": ("9 0 7 + 9 5", r"Compute (.*)\? "),
    "parity": ("0 1 1", r"Is the number of 1's even in the sequence \[(.*)\] \? "),
    "sum": ("3 + 9 + 4", r"Compute: (.*)\."),
    "sort": ("b12 b4 b5", r"Sort the following list \[(.*)\]\. "),
    "sort:variant=multi": ("2 4 6 , 6 8 , 8 8 1 2", r"Sort the following list \[(.*)\]\. "),
}
PINNED = {"sort": "sort_single", "sort:variant=multi": "sort_multi"}
TARGET = r"The (?:answer is|sorted list is \[)(.*?)\]? ?\."


def plain(text):
    return re.sub(r"[\s,:\[\]]", "", text)


@pytest.mark.parametrize("notation", PROMPTS)
def test_prompts_answers_and_steps_are_the_papers(task_pins, notation):
    pinned = task_pins["mcgill"][PINNED.get(notation, notation)]
    prompt, frame = PROMPTS[notation]
    name, _, form = notation.partition(":")
    task = build(f"{name}:scratchpad=full{',' + form if form else ''}")

    def spelled(words):
        """b4 is the paper's E, as the fifth symbol; its phrase for the smallest is one word here."""
        letters = [chr(ord("A") + int(word[1:])) if re.fullmatch(r"b\d+", word) else word for word in words]
        return plain("".join(letters).replace("smallest", "The minimum of the unsorted portion"))

    asked = prompt.split()
    assert spelled(asked) == plain(re.fullmatch(frame, pinned["prompt"])[1])
    ids, start = task.sequence(asked, task.solve(asked))
    target = [task.vocabulary[i - FIRST_WORD] for i in ids[start:-1]]
    thus = target.index(MARKS[-1])
    assert spelled(target[thus + 1 :]) == plain(re.fullmatch(TARGET, pinned["target"])[1])
    steps = re.fullmatch(r"Thinking step by step: (.*)\. Thus, ", pinned["scratchpad"])[1]
    assert spelled(word for word in target[:thus] if word != "var") == plain(steps)


def test_counts_are_the_pinned_ones(task_pins):
    counts = Counter(len(actions) for _, actions in pairs())
    assert task_pins["scan"]["pairs"] == len(pairs())
    past = {n: count for n, count in counts.items() if n > 25}
    assert past == {int(n): count for n, count in task_pins["scan"]["test_counts_by_length"].items()}
    assert sum(count for n, count in counts.items() if n <= 22) == task_pins["scan"]["actions<=22"]
    assert sum(count for n, count in counts.items() if n >= 24) == task_pins["scan"][">=24"]
    assert task_pins["pcfg"]["vocab"] == sum(bool(re.fullmatch(r"[A-Z]\d+", word)) for word in build("pcfg").vocabulary)
    for name, chance in {"parity": 0.5, "sum": 0.1, "poly": 0.1, "lego": 0.5}.items():
        assert build(name).describe().guessing[0].values["exact_match"] == pytest.approx(chance)


def test_default_lengths_are_those_of_problems_that_there_are():
    def told(name, trained):
        task = build(name)
        return [int(length) for length in task.default_lengths({}, trained)]

    assert told("copy-items", 20) == [10, 20, 22, 25, 28, 30, 35, 40]
    assert told("parity", 4) == [3, 4, 5, 6, 7, 8], "no problem has two bits"
    assert told("lego", 20) == [10, 20, 22, 25, 26], "there are 26 letters"
    assert told("scan", 25) == [10, 17, 25, 26, 27, 28, 30, 32, 33, 36, 40, 48]


def test_refuses_lengths_that_no_problem_has():
    with pytest.raises(
        ValueError, match="a problem of the parity task has 3 bits or more, got 2; try --train-length 8"
    ):
        build("parity", lengths=(2,))
    with pytest.raises(ValueError, match="a problem of the lego task has at most 26 clauses, got 27"):
        build("lego", lengths=(27,))
    assert torch.equal(build("parity").evaluation_set(3)[0], build("parity", windows=5).evaluation_set(3)[0])
