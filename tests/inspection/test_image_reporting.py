"""`whorl inspect` on image models: folders, sizes, data, and what the report says against the numbers beside it."""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import whorl
from whorl.cli import app
from whorl.inspection import image_reporting, images
from whorl.inspection.image_reporting import run
from whorl.reports import image_inspection as report
from whorl.tasks.images import Images, drawn
from whorl.tasks.pictures import Glyphs
from whorl.testing import tiny_image_model, tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = whorl.attach(tiny_image_model("vit"), "mixed-rope")
    model.save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def test_a_model_is_inspected_to_a_report(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(
        app, ["inspect", "vit", "--size", "16x48", "--images", "5", "--out", "out"], catch_exceptions=False
    )
    found = whorl.ImageInspection.load(tmp_path / "out")
    settings = found.summary.settings
    assert (settings.images, settings.rows, settings.columns) == (5, 2, 6)
    assert (settings.data, settings.pixels) == ("glyphs", "from -1 to 1")
    pixels = torch.from_numpy(np.stack([drawn(Glyphs(), 0, n, 16, 48) for n in range(5)]))
    again = whorl.inspect_images(whorl.load(folder), pixels)
    for name, array in again.arrays.items():
        np.testing.assert_allclose(found.arrays[name], array, rtol=1e-6, err_msg=name)
    written = (tmp_path / "out" / "report.md").read_text()
    for finding in report.findings(found):
        assert str(finding) in written
        assert str(finding) in done.output
    for row in str(found).splitlines():
        assert row in done.output
    assert {"axes.png", "pairs.png", "maps.png"} <= {path.name for path in (tmp_path / "out/figures").iterdir()}
    assert "one turn in" in (tmp_path / "out" / "report.html").read_text(), "wavelength and angle of a mixed pair"


def test_two_models_stand_side_by_side(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other-vit"
    tiny_image_model("dinov3_vit").save_pretrained(other)
    results = run([str(folder), str(other)], images=2, out=tmp_path / "out")
    assert whorl.ImageInspection.load(tmp_path / "out/other").summary == results[1].summary
    written = (tmp_path / "out" / "report.md").read_text()
    assert written.count("The heads of ") == 2


def test_what_the_report_says_is_what_the_numbers_say() -> None:
    for encoding in ("mixed-rope", "hope-2d:grid=7@7", "axial-rope", "learned-2d"):
        found = whorl.inspect_images(whorl.attach(tiny_image_model("dinov3_vit"), encoding), torch.randn(2, 3, 24, 56))
        said = " ".join(str(finding) for finding in report.findings(found))
        summary = json.loads(json.dumps(found.summary.to_json()))
        heads = summary["heads"]
        distances = {(h["head"], h["layer"]): h["distance"] for h in heads}
        near, far = min(distances, key=distances.get), max(distances, key=distances.get)
        for number in (*distances.values(), summary["settings"]["even_distance"]):
            assert number > 0
        mean = sum(distances.values()) / len(distances)
        assert f"others {mean:.2f} patches away" in said
        assert f"would look {summary['settings']['even_distance']:.2f} away" in said
        assert f"Head {near[0]} of layer {near[1]} looks nearest ({distances[near]:.2f})" in said
        assert f", head {far[0]} of layer {far[1]} farthest ({distances[far]:.2f})" in said
        on = [h["prefix"] for h in heads]
        assert f"gives {100 * sum(on) / 4:.0f} % of its attention to the three tokens that stand before" in said
        assert f"an even share is {100 * 3 / (3 + 21):.0f} %" in said
        most = max(heads, key=lambda h: h["prefix"])
        told = f"Head {most['head']} of layer {most['layer']} gives most, {100 * most['prefix']:.0f} %."
        assert told in said
        most = max(heads, key=lambda h: h["there"])
        assert re.search(rf"head {most['head']} of layer {most['layer']} gives {100 * most['there']:.0f} % to", said)
        if encoding == "learned-2d":
            assert "turns by rows" not in said
            continue
        views = [view.label for view in report.all_charts([found])["axes"].views]
        assert views[:2] == ["by rows, queries", "by columns, queries"], "a picture shows the first"
        for side in ("queries", "keys"):
            for axis in ("rows", "columns"):
                mean = sum(h[side][axis] for h in heads) / 4
                assert f"{100 * mean:.0f} %" in said.partition(". The queries of")[0]
        sided = max(heads, key=lambda h: abs(h["queries"]["rows"] - h["queries"]["columns"]))
        assert (
            f"queries of head {sided['head']} of layer {sided['layer']} are the most one-sided: "
            f"{100 * sided['queries']['rows']:.0f} % by rows" in said
        )
        unfit = {len(h["unfit"]) for h in heads}
        along = found.frequency
        turning = {int((along[h["layer"], h["head"]] != 0).any(-1).sum()) for h in heads}
        told = "none makes" if unfit == turning else f"{min(unfit)}" + f" to {max(unfit)}" * (len(unfit) > 1) + " make"
        assert (
            f"{told} {'a' if unfit == turning else 'no'} full turn along any side of the model's own grid of 4 x 4"
            in said
        )
        held = sum(h["queries"]["unfit"] for h in heads) / 4
        assert f"they hold {100 * held:.0f} % of the norm of queries" in said


def test_offsets_are_told_by_their_sides() -> None:
    """A head that attends to the patch one row up and two columns to the right, wherever it stands."""
    model = whorl.attach(tiny_image_model("siglip_vision_model"), "axial-rope:base=1.0001")

    for layer in model.encoder.layers:
        attention = layer.self_attn
        pairs, head_dim = 8, 16
        angle = torch.cat([torch.full((4,), 2.0), torch.full((4,), -1.0)])  # columns first, then rows
        query = torch.cat([angle.cos(), angle.sin()])  # pairs of channels i and i + half
        key = torch.cat([torch.ones(pairs), torch.zeros(pairs)])
        with torch.no_grad():
            for name, vector in (("q_proj", query), ("k_proj", key)):
                projection = getattr(attention, name)
                projection.weight.zero_()
                projection.bias.copy_((20 * vector).repeat(len(projection.bias) // head_dim))
    found = whorl.inspect_images(model, torch.randn(1, 3, 56, 72))
    assert {(h.down, h.right) for h in found.summary.heads} == {(-1, 2)}
    assert all(h.there > 0.99 for h in found.summary.heads)
    said = str(report.findings(found)[-1])
    assert said.startswith(
        "4 of 4 heads give half of a patch's attention or more to one offset within half of the grid. The strongest: "
    )
    heads = tuple(h if h.head else replace(h, there=0.1) for h in found.summary.heads)
    fewer = replace(found, summary=replace(found.summary, heads=heads))
    assert "within half of the grid. Head 1 of layer 0 gives" in str(report.findings(fewer)[-1])
    assert "gives 100 % to the patch 1 row up and 2 columns to the right" in said
    map_ = found.attention[0, 0]
    assert np.unravel_index(map_[3:10, 4:13].argmax(), (7, 9)) == (2, 6)


def test_a_trial_is_read_on_its_own_data_at_its_own_size(tmp_path: Path) -> None:
    whorl.compare(
        ["axial-rope"], task="images:patch=8", train_length=40, lengths=(40,), tokens=2000, batch_size=8, windows=34,
        model="tiny", seeds=(0,), precision="fp32", quiet=True, out=tmp_path / "cmp",
    )  # fmt: skip
    (trial,) = (tmp_path / "cmp" / "trials").iterdir()
    (found,) = run([str(trial)], images=4, out=tmp_path / "out")
    settings = found.summary.settings
    assert (settings.rows, settings.columns, settings.images, settings.data) == (5, 5, 4, "glyphs")
    assert found.name == "axial-rope, seed 0"
    assert (found.summary.model.rows, found.summary.model.columns) == (5, 5)


def test_a_folder_of_images_is_read_with_the_scaling_of_the_model(folder: Path, tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for n in range(3):
            noise = np.random.default_rng(n).integers(0, 255, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / "photos" / label / f"{n}.png")
    how = {"data": str(tmp_path / "photos"), "images": 3}
    (plain,) = run([str(folder)], out=tmp_path / "plain", **how)
    mean, deviation = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": mean, "image_std": deviation}))
    (scaled,) = run([str(folder)], out=tmp_path / "scaled", **how)
    assert (
        scaled.summary.settings.pixels == "less the means 0.4, 0.5, 0.6, over the deviations 0.2, 0.3, 0.4, of 0 to 1"
    )
    assert np.abs(scaled.norm_q - plain.norm_q).max() > 1e-3
    seen = image_reporting._Scaling(tuple(mean), tuple(deviation))(torch.ones(1, 3, 2, 2))
    np.testing.assert_allclose(seen[0, :, 0, 0], [0.6 / 0.2, 0.5 / 0.3, 0.4 / 0.4], rtol=1e-6)


def test_an_image_of_an_evaluation_is_the_one_that_the_task_asks() -> None:
    from whorl.training.settings import Settings

    task = Images(Settings(task="images:patch=8", train_length=40, lengths=(40,), windows=34).task_settings())
    images_, _ = task.evaluation_set(40)
    np.testing.assert_array_equal(
        images_[task.metrics[0].key][7], drawn(task.pictures, task.settings.data_seed, 7, 40, 40)
    )


def test_a_run_that_is_stopped_leaves_what_it_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "BATCH_TOKENS", 1)
    drawn_ = image_reporting.drawn

    def stopping(pictures: Any, seed: int, number: int, *sides: int) -> np.ndarray:
        if number == 3:
            raise KeyboardInterrupt
        return drawn_(pictures, seed, number, *sides)

    monkeypatch.setattr(image_reporting, "drawn", stopping)
    done = CliRunner().invoke(app, ["inspect", str(folder), "--images", "9", "--out", str(tmp_path / "out")])
    assert done.exit_code == 130
    found = whorl.ImageInspection.load(tmp_path / "out")
    assert (found.summary.settings.images, found.summary.settings.asked) == (3, 9)
    assert "3 of 9 images" in (tmp_path / "out" / "report.md").read_text()


def test_what_a_command_took_before_it_reads_counts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "BATCH_TOKENS", 1)
    read = []
    for before in (0, 999):
        (found,) = run(
            [str(folder)], images=3, minutes=10, begun=time.perf_counter() - before, out=tmp_path / str(before)
        )
        read.append(found.summary.settings.images)
    assert read == [3, 1], "one at the least, where the time was up before"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--text", "stdlib"], "--text is for models of texts, and this is none; try --data, --size, --images"),
        (["--ablate"], "--ablate is for models of texts"),
        (["--random-windows", "16"], "--random-windows is for models of texts"),
        (["--no-snapshots"], "--snapshots is for models of texts"),
        (["--size", "12x"], "--size takes the height and the width of images in pixels"),
        (["--size", "4x4"], "an image of 4 x 4 pixels holds no patch"),
        (["--images", "0"], "images must be a whole number from 1"),
        (["--data", "nowhere"], "nowhere is no folder"),
        (["--data", ""], "'' names no images"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_written(
    options: list[str], reason: str, folder: Path, tmp_path: Path
) -> None:
    done = CliRunner().invoke(app, ["inspect", str(folder), *options, "--out", str(tmp_path / "out")])
    assert reason in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_a_run_that_reads_nothing_leaves_the_earlier_report(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run([str(folder)], images=1, out=out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for error in (ValueError("a broken image"), KeyboardInterrupt()):

        def failing(*_: Any, error: BaseException = error) -> np.ndarray:
            raise error

        monkeypatch.setattr(image_reporting, "drawn", failing)
        told = CliRunner().invoke(app, ["inspect", str(folder), "--images", "2", "--out", str(out)])
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert told.exit_code == 130
    assert "interrupted; nothing was read yet" in told.output


def test_one_patch_has_no_distances_and_one_head_is_none_of_two() -> None:
    model = tiny_image_model("vit")
    alone = whorl.inspect_images(model, torch.randn(1, 3, 8, 8))
    assert not any("patches away" in str(finding) for finding in report.findings(alone))
    found = whorl.inspect_images(model, torch.randn(1, 3, 16, 24))
    one = replace(found, summary=replace(found.summary, heads=found.summary.heads[:1]))
    said = " ".join(str(finding) for finding in report.findings(one))
    assert "patches away" in said
    assert "nearest" not in said


def test_options_of_images_are_none_of_texts(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "llama")
    done = CliRunner().invoke(app, ["inspect", str(tmp_path / "llama"), "--size", "12", "--out", str(tmp_path / "out")])
    assert "--size is for models of images, and this is none; try --text" in str(done.exception)
    mixed = CliRunner().invoke(app, ["inspect", str(tmp_path / "llama"), str(tmp_path / "llama"), "--data", "glyphs"])
    assert "--data is for models of images" in str(mixed.exception)
    said = CliRunner().invoke(app, ["inspect", str(tmp_path / "llama"), "--images", "64"])
    assert "--images is for models of images" in str(said.exception)


def test_turns_in_the_grid_are_counted_along_the_longer_way() -> None:
    found = whorl.inspect_images(whorl.attach(tiny_image_model("vit"), "axial-rope:base=2"), torch.randn(1, 3, 16, 48))
    turns = report.charts._turns(found)
    assert turns is not None
    np.testing.assert_allclose(turns[0, 0, 0], 4 / (2 * math.pi), rtol=1e-6)
    assert report.charts._pair_note(found, 0, 0, 0) == "pair 0, one turn in 6.28 columns"
    assert report.charts._pair_note(found, 0, 0, 4) == "pair 4, one turn in 6.28 rows"
