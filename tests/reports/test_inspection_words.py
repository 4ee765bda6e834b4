"""What is said of an inspection."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import inspection_samples as samples
import numpy as np
import pytest

from whorl.reports import inspection
from whorl.reports.inspection import SECTIONS, TELLING, differences, findings
from whorl.reports.inspection.account import account
from whorl.reports.inspection.telling import Finding


def said(summary: dict[str, Any], arrays: dict[str, np.ndarray] | None = None) -> list[str]:
    return [str(finding) for finding in findings(samples.read(summary, arrays))]


def verdict(summary: dict[str, Any]) -> str:
    found = account(samples.read(summary))
    return found.text if found is not None else ""


@pytest.fixture
def rope() -> dict[str, Any]:
    return samples.rope()[0]


def test_every_section_is_in_the_report_and_its_findings_are_told(rope, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(inspection.__path__[0])
    named = {section.__name__.rpartition(".")[2] for section in SECTIONS}
    assert named == {path.stem for path in folder.glob("*.py") if "def blocks(" in path.read_text()} - {"__init__"}
    assert set(TELLING) < set(SECTIONS)
    added = SimpleNamespace(findings=lambda m: [Finding("Something new.")])
    monkeypatch.setattr(inspection, "SECTIONS", (added, *SECTIONS))
    assert "Something new." in said(rope), "though TELLING does not name it"


def test_positional_heads_are_counted_by_layer_with_the_pairs_that_carry_them(rope) -> None:
    assert said(rope)[1:4] == [
        "Layers 0 and 1 hold 3 previous-token heads, carried by pairs 0 to 5: 80 % by the fastest quarter of all "
        "pairs. The strongest, head 1 of layer 0, puts 93 % of its attention on the previous token on the text and "
        "91 % on random tokens.",
        "Layer 3 holds 1 offset head (4 tokens back), carried by pair 6: 80 % by the fastest quarter of all pairs. It "
        "puts 40 % of its attention at its distance on the text and 38 % on random tokens.",
        "Layer 2 holds 1 first-token head. It puts 60 % of its attention on the first token on the text but only 20 % "
        "on random tokens: the text draws it more than the position does.",
    ]


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([3], "carried by pair 3:"),
        ([0, 1], "carried by pairs 0 and 1:"),
        ([0, 1, 2, 7], "carried by pairs 0 to 2 and 7:"),
        ([0, 2, 4, 6, 8], "carried by pairs 0, 2, 4, 6 and 8:"),
        ([*range(0, 18, 2)], "carried by 9 pairs between 0 and 16:"),
    ],
)
def test_pairs_are_named_in_runs(pairs, expected) -> None:
    assert said(samples.only(heads=[samples.head(0, 0, pairs=pairs)]))[0].startswith(
        f"Layer 0 holds 1 previous-token head, {expected} 80 % by the fastest quarter of all pairs. It puts"
    )


def test_no_positional_head_is_said_and_no_list_of_heads_says_nothing() -> None:
    assert said(samples.only(heads=[])) == ["No head is positional: none keeps to a distance, nor to the first token."]
    assert said(samples.only()) == []


def test_the_u_shape_is_told_with_its_error_and_the_pairs_that_make_it(rope) -> None:
    told = said(rope)
    assert (
        "On the text the logits have a U-shape: the near end lies 0.50 above the middle and the far end 0.21 ± 0.02 "
        "above it, most in layer 0 (0.42)."
    ) in told
    assert (
        "Pairs 11 to 17, wavelengths 130 to 730, make 81 % of the U-shape on the text; pair 13 of them leaves its "
        "range first, in layer 0; HoPE would remove all 7."
    ) in told


@pytest.mark.parametrize(
    ("rise", "near", "expected"),
    [
        (
            0.01,
            0.5,
            "Whether there is a U-shape on the text is not resolved: the far end rises by 0.01 ± 0.02 above the "
            "middle.",
        ),
        (-0.3, 0.5, "No U-shape on the text: the far end falls by 0.30 ± 0.02 below the middle."),
        (
            0.3,
            -0.1,
            "No U-shape on the text: the far end rises by 0.30 ± 0.02 above the middle, and the near end lies 0.10 "
            "below it.",
        ),
    ],
)
def test_where_there_is_no_u_shape_it_is_said_plainly(rise, near, expected) -> None:
    summary = samples.only(1, u_shape={"text": samples.u(rise, 0.02, near, 1)})
    account = (
        "Whether HoPE's account holds for this model is not resolved, as a U-shape on the text is not."
        if "not resolved" in expected
        else "HoPE's account does not hold for this model: its logits have no U-shape on the text."
    )
    assert said(summary) == [account, expected]


def test_one_window_has_no_error_to_tell_a_u_shape_by() -> None:
    shape = {**samples.u(0.3, 0.02, 0.5, 1), "stderr": None, "appears": False}
    assert said(samples.only(1, u_shape={"text": shape}))[1] == (
        "Whether there is a U-shape on the text is not resolved: the far end rises by 0.30 above the middle."
    )


def test_the_account_of_the_paper_holds_only_where_all_of_its_parts_do(rope) -> None:
    assert verdict(rope) == (
        "HoPE's account holds for this model: a U-shape on random tokens is made by pairs 11 to 17, wavelengths 130 to "
        "730; pair 13 of them leaves its range first; its cut would remove all 7."
    )
    random = rope["u_shape"]["random"]
    random["activated"]["removed_by_hope"] = 2
    rope["out_of_range"]["first_pair"]["pair"] = 3
    assert verdict(rope) == (
        "HoPE's account holds only in part: there is a U-shape on random tokens, made by pairs 11 to 17, wavelengths "
        "130 to 730, but HoPE's cut would remove only 2 of the 7 pairs that make it and pair 3, which is none of them, "
        "leaves its range first."
    )
    rope["out_of_range"]["first_pair"] = None
    random["activated"]["removed_by_hope"] = 7
    assert "but no pair leaves its range beyond it." in verdict(rope)
    del rope["out_of_range"]
    assert verdict(rope).endswith("wavelengths 130 to 730; its cut would remove all 7.")
    rope["u_shape"]["text"]["appears"] = False
    assert verdict(rope).endswith("but there is none on the text.")
    random["activated"] = None
    assert "no group of pairs is known that makes it" in verdict(rope)
    random["appears"] = False
    rope["u_shape"]["text"]["appears"] = True
    assert verdict(rope) == (
        "HoPE's account does not hold for this model: its logits have no U-shape on random tokens, though they have "
        "one on the text."
    )


def test_what_leaves_its_range_is_named_and_so_is_that_nothing_does(rope) -> None:
    assert (
        "Logits leave the range of training in pair 13 (wavelength 250) of layer 0 first, by 0.50 standard deviations "
        "at 2x the training length (at 1x, in range: 0.02); of the layers, layer 0 first, by 0.40 standard deviations "
        "at 2x the training length (at 1x, in range: 0.02); noise is 0.02."
    ) in said(rope)
    rope["out_of_range"]["first_pair"] = None  # no pair turns
    assert (
        "Logits leave the range of training in layer 0 first, by 0.40 standard deviations at 2x the training length "
        "(at 1x, in range: 0.02); noise is 0.02."
    ) in said(rope)
    rope["out_of_range"]["first_layer"] = None
    assert (
        "Nothing is seen to leave its range: no pair's logits depart by three times the noise (0.02) more than in "
        "range up to 8x the training length."
    ) in said(rope)


def test_the_ablation_tells_what_hope_s_cut_changes_and_a_better_one(rope) -> None:
    assert (
        "Without training, HoPE's cut (pairs 11 and slower do not rotate) moves the loss up by 0.09 ± 0.01 in range "
        "and down by 2.50 ± 0.05 at 1,024 tokens, in nats per token."
    ) in said(rope)
    rope["ablation"]["cuts"][-1]["past_change"] = -3.0
    assert any("is lowest with 28 pairs left turning: down by 3.00 ± 0.05." in text for text in said(rope))
    for row in rope["ablation"]["cuts"]:
        row["past_change"] = -0.09
    unresolved = "That a cut lowers the loss at 1,024 tokens is not resolved: at best, down by 0.09 ± 0.05."
    assert any(text.endswith(unresolved) for text in said(rope))
    for row in rope["ablation"]["cuts"]:
        row["past_change"] = 0.5
    assert any(text.endswith("No cut is seen to lower the loss at 1,024 tokens.") for text in said(rope))


def test_an_ablation_that_moves_next_to_nothing_says_so_and_names_no_best_cut(rope) -> None:
    for row in rope["ablation"]["cuts"]:
        row.update(in_range_change=0.001, in_range_stderr=0.0002, past_change=-0.001, past_stderr=0.0002)
    assert (
        "Without training, HoPE's cut (pairs 11 and slower do not rotate) moves the loss by less than 0.005 in range "
        "and by less than 0.005 at 1,024 tokens, in nats per token. No cut lowers the loss at 1,024 tokens by as much "
        "as 0.005."
    ) in said(rope)
    for row in rope["ablation"]["cuts"]:
        row.update(in_range_stderr=0.04)
    assert any("moves the loss by 0.00 ± 0.04 in range" in text for text in said(rope)), "so little is not known"


@pytest.mark.parametrize(
    ("turning", "never", "expected"),
    [
        (32, 21, "32 of 32 pairs turn; 21 of them never turn fully within 128 tokens."),
        (32, 1, "32 of 32 pairs turn; 1 of them never turns fully within 128 tokens."),
        (11, 0, "11 of 32 pairs turn; all of them turn fully within 128 tokens."),
        (0, 0, "No pair turns."),
    ],
)
def test_the_spectrum_tells_what_turns_fully(rope, turning, never, expected) -> None:
    for layer in rope["spectrum"]["layers"]:
        layer.update(turning=turning, never_full=never)
    assert expected in said(rope)


def test_norms_are_told_from_the_arrays_against_those_of_values() -> None:
    norms = np.ones((1, 1, 8), np.float32)
    slow = norms.copy()
    slow[..., 6:] = 3
    found = said(samples.only(1), {"norm_q": slow, "norm_k": slow, "norm_v": norms})
    assert found == [
        "In the mean over heads, the slowest quarter of the pairs holds 50 % of the norm of queries and 50 % of the "
        "norm of keys, more than an even share. Of values, which no rotation touches, it holds 25 %."
    ]


def test_parts_above_the_whole_say_that_others_lower_it(rope) -> None:
    rope["u_shape"]["text"]["activated"].update(share=1.4, pairs=[13], wavelengths=[250.0, 250.0], removed_by_hope=1)
    assert (
        "Pair 13, wavelength 250, lifts the far end on the text by 0.29, and other pairs lower it by 0.08, to the 0.21 "
        "of the U-shape; it leaves its range first, in layer 0; HoPE would remove it."
    ) in said(rope)


def test_the_first_token_is_told_with_its_layer_where_it_draws_attention(rope) -> None:
    assert "The first token draws most in layer 3: 25 % of the attention on the text, 20 % on random tokens." in said(
        rope
    )
    for row in rope["first_token"]:
        row.update(text=0.01, random=0.01)
    assert "The first token draws little: at most 1 % of a layer's attention on the text." in said(rope)


def test_training_tells_when_the_u_shape_and_the_heads_appear() -> None:
    summary, _ = samples.with_training()
    assert said(summary)[-3:] == [
        "In training the U-shape on the text is first seen at step 64 of 1,024 and is largest at step 64 (0.40); at "
        "the end, step 1,024, it is 0.21.",
        "In training the U-shape on random tokens is first seen at step 64 of 1,024 and is largest at step 64 (0.40); "
        "at the end, step 1,024, it is 0.21.",
        "The first positional heads are seen at step 16 of 1,024; at the end there are 4.",
    ]


def test_two_models_are_told_apart_beyond_their_errors_only() -> None:
    (a, _), (b, _) = samples.two_models()
    told = [f.text for f in differences([samples.read(a), samples.read(b)])]
    assert (
        told[0]
        == "How far the far end lies above the middle on the text: 0.21 ± 0.02 in runs/rope, 0.01 ± 0.02 in runs/hope."
    )
    assert (
        "At 2x the training length a layer's logits depart by at most 0.40 standard deviations in runs/rope and 0.03 "
        "in runs/hope."
    ) in told
    assert "Their attention by relative position differs most in layer 0, by 0.20 nats of at most 0.69." in told
    b["u_shape"]["text"]["rise"] = 0.2
    assert differences([samples.read(a), samples.read(b)])[0].text.endswith("their difference is not resolved.")
