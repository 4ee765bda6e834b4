"""What a report says of scores, gates and scales."""

from pathlib import Path

import inspection_samples as samples
import pytest

from whorl.reports.document import Heading, Table
from whorl.reports.inspection import all_charts, build, findings, write


def tables(*models) -> list[Table]:
    blocks = build([samples.read(*model) for model in models]).blocks
    return [block for block in blocks if isinstance(block, Table)]


def test_which_heads_forget_is_told() -> None:
    told = [str(finding) for finding in findings(samples.read(*samples.with_gates()))]
    assert (
        "Without what biases and scores add, 45 % of the attention would be elsewhere (median over heads), most in "
        "head 0 of layer 0: 80 %."
    ) in told
    assert (
        "Of 6 heads with gates, 2 forget: there a key's weight halves within 16 tokens, soonest in head 0 of layer 0 "
        "(after 2.00) and head 1 of layer 0 (after 7.50); 3 keep for longer than the training length, 128, in layers 1 "
        "and 2."
    ) in told
    assert (
        "Scales multiply logits by 1.00 to 1.10 at the end of 128 tokens, by 1.40 to 1.50 at the end of 1,024." in told
    )


@pytest.mark.parametrize(("life", "said"), [(1000.0, "none forgets:"), (3.0, "1 forgets:"), (None, "1 keeps for")])
def test_one_head_and_none(life: float | None, said: str) -> None:
    gate = {"layer": 0, "head": 0, "mean": 0.9, "half_life": life, "below_half": 0.0}
    (told,) = findings(samples.read(samples.only(gates=[gate])))
    assert said in told.text


def test_tables_list_heads_by_their_half_life_and_layers_by_what_is_added() -> None:
    by_caption = {table.caption.split(",")[0].split(".")[0]: table for table in tables(samples.with_gates())}
    gates = by_caption["Which heads forget"]
    assert [row.cells[0][0] for row in gates.rows][:2] == ["layer 0, head 0", "layer 0, head 1"]
    assert [row.cells[1][0] for row in gates.rows] == ["2.00", "7.50", "40", "300", "500", "never"]
    assert gates.rows[0].cells[3][0] == "25 % of tokens"
    added = by_caption["What is added to the logits"]
    assert [cell[0] for cell in added.rows[1].cells] == ["layer 1", "45 %", "50 %, head 0", "55 %", "7.00", "2.00"]
    factors = by_caption["What scales multiply logits by; of the heads from least to most"]
    assert [cell[0] for cell in factors.rows[0].cells] == ["layer 0", "1.00 to 1.10", "1.40 to 1.50", "s 0.20 to 0.22"]


def test_a_layer_to_which_nothing_is_added_is_not_drawn_and_a_plain_model_has_no_section(tmp_path: Path) -> None:
    charts = all_charts([samples.read(*samples.with_gates())])
    curves = charts["added"].views[0].panels[0].frames[0].curves  # type: ignore[union-attr]
    assert [any(y is not None for y in curve.y) for curve in curves] == [True, True, True, False]
    gates, plain = (build([samples.read(*m)]).blocks for m in (samples.with_gates(), samples.rope()))
    for blocks, there in ((gates, True), (plain, False)):
        assert (Heading("What is added to the logits") in blocks) == there
    written = {
        path.name for path in write([samples.read(*m) for m in (samples.with_gates(), samples.rope())], tmp_path)
    }
    assert {"added.png", "added-heads.png"} <= written
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "Which heads forget of runs/rope+fox+ssmax, the soonest first" in text
