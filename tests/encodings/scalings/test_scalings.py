"""What holds of every scaling: the registry, the notation, JSON, what is refused, and still pairs."""

from __future__ import annotations

import dataclasses
import json
import pkgutil
import sys

import numpy as np
import pytest

import whorl.encodings.scalings
from whorl.encodings import SCALINGS, from_dict, get_scaling, parse
from whorl.encodings.scalings import Scaling

ONE_EACH: dict[str, str] = {
    **{name: get_scaling(name).example for name in SCALINGS},
    "longrope": "longrope:short_factor="
    + "@".join(["1.5"] * 32)
    + ",long_factor="
    + "@".join(["4"] * 32)
    + ",factor=4",
}


NOTATIONS = [
    *(f"rope~{notation}" for notation in ONE_EACH.values()),
    "rope~yarn:factor=4,original=256",
    "hope:train_length=256~linear:factor=2",
    "hope:train_length=4096~yarn:factor=4",
    "rope:base=500000~yarn:factor=2.5,original=256,beta_fast=8,beta_slow=0.5,truncate=false,mscale=0.7,mscale_all_dim=1.1",
    "p-rope:p=0.5~base-change:base=2000000~ntk:factor=2~soft-clip:wavelength=900.5",
    "frequencies:values=1@0.5~linear:factor=2",
    "rope~longrope:short_factor=1@1.25,long_factor=2@33.5,original=4096,attention_factor=1.19",
    "rope~longrope:short_factor=1,long_factor=2,factor=3",
    "rope~linear:factor=2+window:size=32",
    "rope~linear:factor=2+window:size=32/nope",
    "full_attention=rope~yarn:factor=4/sliding_attention=hope~linear:factor=2",
]


@pytest.mark.parametrize("notation", NOTATIONS)
def test_notation_and_json_round_trip(notation: str) -> None:
    encoding = parse(notation)
    assert str(encoding) == notation
    assert parse(str(encoding)) == encoding
    again = from_dict(json.loads(json.dumps(encoding.to_dict(), allow_nan=False)))
    assert again == encoding
    assert hash(again) == hash(encoding)
    assert str(again) == notation


def test_an_unset_original_is_left_out_of_the_json_and_was_null_in_earlier_versions() -> None:
    (yarn,) = parse("rope~yarn:factor=4").scalings
    assert "original" not in yarn.to_dict()
    earlier = {**yarn.to_dict(), "original": None}
    assert from_dict({"name": "scaled", "inner": {"name": "rope"}, "scalings": [earlier]}) == parse(
        "rope~yarn:factor=4"
    )


def test_every_scaling_is_registered_and_cites_its_paper() -> None:
    files = {m.name for m in pkgutil.iter_modules(whorl.encodings.scalings.__path__)} - {"base"}
    assert files == {target.split(":")[0].rsplit(".", 1)[1] for target in SCALINGS.values()}

    def below(cls: type[Scaling]) -> set[type[Scaling]]:
        return {cls}.union(*(below(c) for c in cls.__subclasses__())) - {Scaling}

    assert {get_scaling(name) for name in SCALINGS} == below(Scaling)
    for name in SCALINGS:
        cls = get_scaling(name)
        assert cls.name == name
        assert cls.title
        assert cls.paper in (cls.__doc__ or "")
        assert cls.paper in (sys.modules[cls.__module__].__doc__ or "")
        parse(f"rope~{cls.example}")


REFUSED = [
    ("rope~yarnn:factor=2", "unknown scaling 'yarnn'; did you mean 'yarn'"),
    ("rope~dynamic_ntk:factor=2", "did you mean 'dynamic-ntk'"),
    ("rope~zzz", "unknown scaling 'zzz'; `whorl list`"),
    ("yarn:factor=4", "yarn is no encoding but a scaling of one; write rope~yarn:factor=4,original=2048"),
    ("rope~hope", "hope is an encoding, and after a '~' comes a scaling"),
    ("rope~", "a scaling is missing after a '~'"),
    ("rope~~linear:factor=2", "a scaling is missing after a '~'"),
    ("rope~linear", "linear needs factor; try linear:factor=2"),
    ("rope~longrope:factor=2", "longrope needs short_factor; try longrope:short_factor=1@1"),
    ("rope~linear:fac=2", "linear has no argument 'fac'; it takes factor"),
    ("rope~linear:factor", "cannot read 'factor'"),
    ("rope~linear:factor=2,factor=3", "'factor' stands twice"),
    ("rope~linear:factor=0.5", "at least 1 .*, got 0.5"),
    ("rope~ntk:factor=nan", "at least 1 .*, got nan"),
    ("rope~yarn:factor=inf", "finite number of at least 1 .*, got inf"),
    ("rope~dynamic-ntk:factor=two", "factor must be a number, got 'two'"),
    ("rope~llama3:factor=0", "at least 1 .*, got 0"),
    ("rope~yarn:factor=2,original=0", "original must be a whole number of at least 1, got 0"),
    ("rope~yarn:factor=2,original=20.5", "original must be a whole number"),
    ("rope~yarn:factor=2,beta_fast=0", "beta_fast must be finite and above 0"),
    ("rope~yarn:factor=2,beta_fast=1,beta_slow=2", "beta_fast must not be below beta_slow .*, got 1 and 2"),
    ("rope~ntk-by-parts:factor=2,truncate=maybe", "truncate must be true or false, got 'maybe'"),
    ("rope~yarn:factor=2,attention_factor=0", "attention_factor must be finite and above 0"),
    ("rope~yarn:factor=2,mscale=-1", "mscale must be finite and not negative, got -1"),
    ("rope~yarn:factor=2,attention_factor=1,mscale_all_dim=1", "leaves nothing for mscale_all_dim; give one"),
    ("rope~longrope:short_factor=1@2,long_factor=1,factor=2", "one number per pair each, got 2 and 1"),
    ("rope~longrope:short_factor=1@x,long_factor=1@2,factor=2", "short_factor must be numbers joined by '@'"),
    ("rope~longrope:short_factor=1@2,long_factor=1@0,factor=2", "long_factor must be finite numbers above 0"),
    ("rope~longrope:short_factor=1,long_factor=1", "needs factor .* or attention_factor"),
    ("rope~longrope:short_factor=1,long_factor=1,factor=2,attention_factor=2", "one of them"),
    ("rope~longrope:short_factor=1,long_factor=1,factor=2,original=1", "at least 2 tokens"),
    ("rope~llama3:factor=8,low_freq_factor=5", "high_freq_factor must not be below low_freq_factor, got 4 and 5"),
    ("rope~base-change:base=1", "above 1, got 1"),
    ("rope~clip:wavelength=0", "wavelength must be finite and above 0"),
    ("rope~soft-clip:wavelength=inf", "wavelength must be finite and above 0"),
    ("alibi~linear:factor=2", "linear scales the frequencies of one rotary encoding, and alibi is none"),
    ("nope~yarn:factor=2", "try rope~yarn:factor=2"),
    ("rope+window:size=8~linear:factor=2", "and window:size=8 is none"),
    (
        "rope~dynamic-ntk:factor=2~longrope:short_factor=1,long_factor=2,factor=2",
        "dynamic-ntk and longrope both depend on the length",
    ),
    ("rope~linear:factor=2+hope", "both rotate q and k"),
]


@pytest.mark.parametrize(("notation", "message"), REFUSED)
def test_nonsense_is_refused_when_built(notation: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(notation)


@pytest.mark.parametrize("name", SCALINGS)
def test_none_for_an_argument_that_has_no_default_is_refused(name: str) -> None:
    """As a hand-written JSON form may have it. (None for another is one that is unset.)"""
    scaling = get_scaling(name)
    needed = [f.name for f in dataclasses.fields(scaling) if f.default is dataclasses.MISSING]
    assert needed
    with pytest.raises(ValueError, match=f"{needed[0]} must be .*, got None"):
        scaling.of_arguments(dict.fromkeys(needed))


NOT_OF_THIS_SPECTRUM = [
    ("rope~llama3:factor=8,original=512~yarn:factor=2,original=512", "yarn needs frequencies that fall as base"),
    ("frequencies:values=0.1@0.2@0.4~base-change:base=5e5", "have no one base"),
    ("frequencies:values=1@1@1~base-change:base=5e5", "have no one base"),
    ("p-rope:p=0.04~yarn:factor=2,original=512", "yarn reads the base off two turning pairs, and this spectrum has 1"),
    ("frequencies:values=0.5~ntk:factor=2", "ntk .* needs at least 2 pairs; this spectrum has 1"),
    (
        "frequencies:values=0.5~dynamic-ntk:factor=2,original=512",
        "dynamic-ntk .* needs at least 2 pairs; this spectrum",
    ),
    ("rope~longrope:short_factor=1@2,long_factor=1@2,factor=2,original=512", "has 2 numbers, and .* has 32 pairs"),
    ("hope~linear:factor=2", "hope needs the length that the model is trained at"),
]


@pytest.mark.parametrize(("notation", "message"), NOT_OF_THIS_SPECTRUM)
def test_what_a_spectrum_does_not_carry_is_refused(notation: str, message: str) -> None:
    encoding = parse(notation)
    with pytest.raises(ValueError, match=message):
        encoding.spectrum(64)


INNERS = ["hope:train_length=100", "p-rope:p=0.5", "p-rope:p=0.5,keep=slowest", "partial-rope:fraction=0.5", "rope"]


@pytest.mark.parametrize("scaling", ONE_EACH.values(), ids=ONE_EACH)
@pytest.mark.parametrize("inner", INNERS)
def test_still_pairs_stay_still_and_the_rest_goes_as_in_rope(inner: str, scaling: str) -> None:
    if "original=" not in scaling and "longrope" in scaling:
        scaling += ",original=4096"
    head_dim = 128 if inner.startswith("partial") else 64
    bare = parse(inner).spectrum(head_dim)
    whole = parse("rope").spectrum(bare.width)
    encoding, rope = parse(f"{inner}~{scaling}"), parse(f"rope~{scaling}")
    for length in (10, 4096, 10**5):
        scaled, wanted = encoding.spectrum_at(head_dim, length), rope.spectrum_at(bare.width, length)
        assert (scaled.width, scaled.head_dim, scaled.amplitude) == (bare.width, head_dim, wanted.amplitude)
        assert scaled.width == whole.width
        turning = [i for i in bare.turning if wanted.frequencies[i] > 0]
        if scaling.startswith("soft-clip"):  # its band is made of the pairs that turn
            assert set(scaled.turning) <= set(bare.turning)
            continue
        assert list(scaled.turning) == turning
        np.testing.assert_allclose(
            [scaled.frequencies[i] for i in turning], [wanted.frequencies[i] for i in turning], rtol=1e-12
        )
    nothing = parse(f"p-rope:p=0~{scaling}").spectrum_at(64, 10**5)
    assert nothing.turning == ()
