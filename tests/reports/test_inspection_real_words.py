"""What is said of numbers that real models have: SmolLM2 135M at 512 tokens, Gemma 3 270M at 2,048."""

from typing import Any

import inspection_samples as samples
import numpy as np
import pytest
from test_inspection_words import said, verdict

from whorl.reports.document import Table
from whorl.reports.inspection import build, differences
from whorl.reports.inspection.telling import share, shares

SMOLLM2 = {
    "rise": 0.2044, "stderr": 0.0229, "near": 0.6748, "appears": True, "layers": [], "pairs": [],
    "activated": {
        "pairs": [7, 9, 12, 13, 30, 31], "wavelengths": [77.97, 438459.9], "share": 2.4242, "removed_by_hope": 3,
    },
}  # fmt: skip
OPEN = {"rise": 0.1977, "stderr": 0.1129, "near": 2.9005, "appears": False, "activated": None}


def over(layers: list[int], **shape: Any) -> dict[str, Any]:
    return {**SMOLLM2, **shape, "layers": [{"layer": i, "rise": 0.1 * i, "stderr": 0.1, "near": 1.0} for i in layers]}


def left(pair: int) -> dict[str, Any]:
    """A first pair that leaves its range."""
    first = {"layer": 19, "pair": pair, "wavelength": 24656.4, "multiple": 2, "departure": 1.73}
    return {
        "multiples": [1, 2], "noise": 0.05, "layers": [], "pairs": [], "first_pair": first, "first_layer": None,
    }  # fmt: skip


def test_pairs_that_others_outweigh_are_told_in_logits_and_not_in_percent() -> None:
    told = said(samples.only(1, u_shape={"random": over([0])}))
    assert told[-1] == (
        "Pairs 7, 9, 12, 13, 30 and 31, wavelengths 78 to 438,460, lift the far end on random tokens by 0.50 standard "
        "deviations, and other pairs lower it by 0.29, to the 0.20 of the U-shape; HoPE would remove 3 of the 6."
    )
    assert not any("%" in text for text in told)
    document = build([samples.read(samples.only(1, u_shape={"random": over([0])}))])
    (table,) = (block for block in document.blocks if isinstance(block, Table))
    assert [text for text, _ in table.rows[0].cells][5:7] == ["7, 9, 12–13, 30–31", "0.50"]


@pytest.mark.parametrize("removed", [0, 3, 4, 6])
def test_the_account_holds_only_where_the_cut_removes_every_pair_that_makes_it(removed: int) -> None:
    shape = over([0], activated={**SMOLLM2["activated"], "removed_by_hope": removed})
    told = verdict(samples.only(1, u_shape={"text": over([0]), "random": shape}, out_of_range=left(12)))
    assert told.startswith("HoPE's account holds for this model" if removed == 6 else "HoPE's account holds only in")
    if removed < 6:
        words = {0: "none", 3: "only 3", 4: "only 4"}[removed]
        assert f"but HoPE's cut would remove {words} of the 6 pairs that make it." in told


def test_windows_shorter_than_the_training_length_leave_the_account_open() -> None:
    summary = samples.only(1, u_shape={"random": over([0])})
    summary["settings"] |= {"length": 512, "train_length": 8192}
    assert verdict(summary) == (
        "Whether HoPE's account holds for this model is not resolved: it is about the training length, 8,192 tokens, "
        "and windows of 512 were read."
    )


def test_one_pair_that_the_cut_keeps_is_not_counted() -> None:
    one = over([0], activated={"pairs": [10], "wavelengths": [112.0, 112.0], "share": 1.2, "removed_by_hope": 0})
    assert "made by pair 10, wavelength 112, but HoPE's cut would not remove it." in verdict(
        samples.only(1, u_shape={"random": one})
    )


def test_the_account_on_random_tokens_says_how_it_stands_on_the_text() -> None:
    summary = samples.only(1, u_shape={"text": over([0], **OPEN), "random": over([0])}, out_of_range=left(23))
    assert verdict(summary) == (
        "HoPE's account holds only in part: there is a U-shape on random tokens, made by pairs 7, 9, 12, 13, 30 "
        "and 31, wavelengths 78 to 438,460, but one on the text is not resolved, HoPE's cut would remove only 3 of the "
        "6 pairs that make it and pair 23, which is none of them, leaves its range first."
    )
    summary["u_shape"]["text"] = over([0], **{**OPEN, "rise": -1.06, "stderr": 0.41})
    assert "but there is none on the text, HoPE's cut" in verdict(summary)


def test_a_mean_over_some_layers_says_which() -> None:
    few = [5, 11, 17]
    summary = samples.only(18, u_shape={"text": over(few, **OPEN), "random": over(few)})
    told = said(summary)
    where = "(mean over 3 of 18 layers: 5, 11 and 17)"
    assert f"there is a U-shape on random tokens {where}, made by" in told[0]
    assert told[1].startswith(f"Whether there is a U-shape on the text {where} is not resolved")
    assert told[2].startswith(f"On random tokens {where} the logits have a U-shape")
    document = build([samples.read(summary)])
    (table,) = (block for block in document.blocks if isinstance(block, Table))
    assert [row.cells[1] for row in table.rows] == [("3 of 18 layers", "5, 11, 17")] * 2
    whole = samples.only(3, u_shape={"random": over([0, 1, 2])})
    assert not any("mean over" in text for text in said(whole))


def test_layers_whose_windows_hide_the_distances_are_left_out_where_what_leaves_its_range_is_told() -> None:
    rows = [{"layer": i, "departure": [0.1, 0.3 if i in (2, 5) else None]} for i in range(6)]
    far = {**left(23), "layers": rows, "first_layer": {"layer": 5, "multiple": 2, "departure": 0.3}}
    (told,) = said(samples.only(6, out_of_range=far))
    assert "of the layers that were measured there (2 of 6 layers: 2 and 5), layer 5 first" in told
    far.update(first_layer=None, first_pair=None)
    (told,) = said(samples.only(6, out_of_range=far))
    assert "no pair's logits of the layers that were measured there (2 of 6 layers: 2 and 5) depart by" in told


@pytest.mark.parametrize(
    ("fast", "expected"),
    [
        ([0.69, 0.581, 0.582, 0.638, 0.692], "58 to 69 % by the fastest"),
        ([-0.001, 0.0, 0.002, -0.002], "none of it by the fastest"),
        ([-0.31, 0.12], "at most 12 % by the fastest"),
        ([0.8134], "81 % by the fastest"),
        ([0.33, None], "33 % by the fastest"),
        ([1.04, 0.998], "all of it by the fastest"),  # Gemma 3: the other pairs lower the margin
        ([1.04, 0.51], "at least 51 % by the fastest"),
        ([1.04, -0.2], "from none to all of it by the fastest"),
    ],
)
def test_the_fastest_pairs_part_in_positional_heads_is_told(fast: list[float | None], expected: str) -> None:
    heads = [samples.head(0, i, fast_share=part) for i, part in enumerate(fast)]
    assert f"carried by pairs 0 to 2: {expected} quarter of all pairs" in said(samples.only(1, heads=heads))[0]


def test_a_kind_of_many_heads_leaves_the_others_their_rows() -> None:
    many = [samples.head(i, 0, "first-token", 0.9 + i / 1000, pairs=[30, 31]) for i in range(54)]
    few = [samples.head(i, 1, text=0.6 + i / 1000) for i in range(5)]
    document = build([samples.read(samples.only(54, heads=[*many, *few]))])
    (table,) = (block for block in document.blocks if isinstance(block, Table))
    kinds = [row.cells[1][0] for row in table.rows]
    assert kinds == ["previous-token"] * 5 + ["first-token"] * 12
    assert table.rows[0].cells[0][0] == "layer 4, head 1"
    assert table.rows[5].cells[0][0] == "layer 53, head 0"
    assert table.caption == (
        "The positional heads, kind by kind, by their attention; the first 12 of 54 first-token heads."
    )


def norms(*slow: float) -> np.ndarray:
    """[layer, 1, 8]: of each layer, the part of the norm that its two slowest pairs hold."""
    return np.array([[[(1 - part) / 6] * 6 + [part / 2] * 2] for part in slow], np.float32)


def test_queries_and_keys_are_told_apart_where_they_differ() -> None:
    measured = {"norm_q": norms(0.23), "norm_k": norms(0.47), "norm_v": norms(0.25)}
    assert said(samples.only(1), measured) == [
        "In the mean over heads, the slowest quarter of the pairs holds 23 % of the norm of queries, about an even "
        "share; 47 % of the norm of keys, more than an even share. Of values, which no rotation touches, it holds 25 %."
    ]
    (told,) = said(samples.only(1), {"norm_q": norms(0.1)})
    assert told.endswith("holds 10 % of the norm of queries, less than an even share.")


def test_one_head_of_large_norms_does_not_speak_for_all_and_layers_may_differ_in_their_pairs() -> None:
    keys = norms(0.2, 0.2, 0.2, 1.0)
    keys[3] *= 100
    (told,) = said(samples.only(4), {"norm_k": keys})
    assert "holds 40 % of the norm of keys" in told, "each head counts alike"
    keys = norms(0.4, 0.4)
    keys[1, 0] = [0.2, 0.2, 0.2, 0.4, *[np.nan] * 4]
    (told,) = said(samples.only(2), {"norm_k": keys})
    assert "holds 40 % of the norm of keys" in told, "the slowest quarter of its own four pairs"


def test_layers_that_turn_differently_are_told_one_kind_after_the_other() -> None:
    row = {"pairs": 128, "turning": 128, "never_full": 47, "hope_cut": 81, "p_rope_cut": 96, "amplitude": 1.0}
    layers = [{**row, "layer": i, "never_full": 74 if i % 6 == 5 else 47} for i in range(18)]
    (told,) = said(samples.only(18, spectrum={"base": None, "layout": "half", "layers": layers}))
    assert told == (
        "In 15 of 18 layers (0 to 4, 6 to 10 and 12 to 16) 128 of 128 pairs turn; 47 of them never turn fully within "
        "128 tokens. In 3 of 18 layers (5, 11 and 17) 128 of 128 pairs turn; 74 of them never turn fully within 128 "
        "tokens."
    )


def test_nothing_is_less_than_zero_percent() -> None:
    assert [share(x) for x in (-0.002, -0.0, 0.004, -0.006, None)] == ["0 %", "0 %", "0 %", "-1 %", "–"]
    assert shares([-0.002, 0.001]) == "0 %"


def test_where_there_was_time_for_some_layers_alone_the_sentences_say_so() -> None:
    odd = list(range(1, 30, 2))
    plan = {"minutes": 5.0, "stages": [], "layers": odd, "left_out": ["15 of 30 layers are measured"]}
    first = [{"layer": i, "text": i / 100, "random": None} for i in odd]
    apart = {"lengths": {"train_length": 128, "length": 1024, "layers": [None, 0.3]}}
    summary = samples.only(
        30, plan=plan, heads=[], first_token=first, divergence=apart, u_shape={"random": over(odd)}
    )  # fmt: skip
    told = said(summary, {"norm_q": norms(*[0.5] * 30)})
    few = "15 of 30 layers"
    assert told[1:] == [
        f"No head of {few} is positional: none keeps to a distance, nor to the first token.",
        f"On random tokens (mean over {few}) the logits have a U-shape: the near end lies 0.67 standard deviations "
        "above the middle and the far end 0.20 ± 0.02 standard deviations above it, most in layer 29 (2.90).",
        told[3],
        f"In the mean over heads of {few}, the slowest quarter of the pairs holds 50 % of the norm of queries, more "
        "than an even share.",
        f"The first token draws most in layer 29 (of {few}): 29 % of the attention on the text.",
        f"Between 128 and 1,024 tokens, attention by relative position changes most in layer 1 (of {few}), by 0.30 "
        "nats of at most 0.69.",
    ]
    for row in summary["first_token"]:
        row["text"] = 0.01
    assert said({**summary, "heads": [samples.head(1, 0)]})[1].startswith(f"Layer 1 (of {few}) holds 1 previous-token")
    assert any(text.endswith(f"of a layer's attention on the text (of {few}).") for text in said(summary))
    summary["heads"] = [samples.head(1, 0)]
    whole = samples.read(samples.only(30, heads=[samples.head(0, 0)] * 2))
    (counts,) = (f.text for f in differences([samples.read(summary), whole]) if "Positional" in f.text)
    assert counts == f"Positional heads: 1 in runs/rope (of {few}), 2 in runs/rope."


def test_two_models_that_were_read_differently_say_how_each_was() -> None:
    a, b = samples.only(1), samples.only(1)
    assert (
        build([samples.read(a), samples.read(b)]).subtitle == "Read at up to 1,024 tokens, trained at 128, 8 windows."
    )
    b["settings"] |= {"length": 4096, "train_length": 2048, "windows": 1, "text": "book.txt"}
    b["model"] |= {"name": "gemma3"}
    assert build([samples.read(a), samples.read(b)]).subtitle == (
        "runs/rope: read at up to 1,024 tokens, trained at 128, 8 windows; gemma3: read on book.txt, at up to 4,096 "
        "tokens, trained at 2,048, 1 window."
    )


def test_how_far_two_models_rise_says_over_which_layers() -> None:
    a, b = samples.only(1, u_shape={"random": over([0])}), samples.only(18, u_shape={"random": over([5, 11])})
    b["model"] |= {"name": "gemma3"}
    (told,) = (f.text for f in differences([samples.read(a), samples.read(b)]))
    assert told == (
        "How far the far end lies above the middle on random tokens: 0.20 ± 0.02 in runs/rope, 0.20 ± 0.02 in gemma3 "
        "(mean over 2 of 18 layers: 5 and 11); their difference is not resolved."
    )


def test_a_file_is_called_by_its_name_and_not_by_its_folder() -> None:
    summary = samples.only(1)
    summary["model"]["name"] = "build/models/smollm2-135m-instruct.gguf"
    assert build([samples.read(summary)]).title == "How smollm2-135m-instruct.gguf uses positions"


def test_little_on_the_first_token_is_little_in_every_layer_and_on_random_tokens_too() -> None:
    rows = [{"layer": 0, "text": 0.02, "random": 0.01}, {"layer": 1, "text": 0.01, "random": 0.6}]
    (told,) = said(samples.only(2, first_token=rows))
    assert told == "The first token draws most in layer 0: 2 % of the attention on the text, 1 % on random tokens."
    rows[1]["random"] = 0.03
    (told,) = said(samples.only(2, first_token=rows))
    assert told == "The first token draws little: at most 2 % of a layer's attention on the text."


def test_a_loss_that_does_not_move_goes_neither_up_nor_down() -> None:
    cut = {"cut": 11, "wavelength": 149.0, "in_range": 2.61, "in_range_change": 0.0003, "in_range_stderr": 0.01}
    (told,) = said(
        samples.only(1, ablation={"in_range": 2.61, "past": None, "past_length": None, "hope_cut": 11, "cuts": [cut]})
    )
    assert told == (
        "Without training, HoPE's cut (pairs 11 and slower do not rotate) moves the loss by 0.00 ± 0.01 in range, in "
        "nats per token."
    )
