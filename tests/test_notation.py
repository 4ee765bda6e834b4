"""The notation of what has arguments: a name, then key=value."""

import pytest

from whorl.notation import name_and_arguments


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("rope", {}),
        ("yarn:factor=4,original=2048", {"factor": 4, "original": 2048}),
        ("p-rope:p=0.5,keep=fastest", {"p": 0.5, "keep": "fastest"}),
        ("parity:scratchpad=comp@out", {"scratchpad": "comp@out"}),
        ("rope:base=1e-3", {"base": 0.001}),
    ],
)
def test_numbers_are_read_as_numbers_and_the_rest_as_words(text, arguments):
    name, found = name_and_arguments(text)
    assert name == text.partition(":")[0]
    assert found == arguments
    assert [type(value) for value in found.values()] == [type(value) for value in arguments.values()]


@pytest.mark.parametrize("text", ["rope:", "rope:base", "rope:base=", "rope:=4", "rope:base=1,"])
def test_what_is_no_argument_is_refused(text):
    with pytest.raises(ValueError, match="write arguments as rope:key=value,key=value"):
        name_and_arguments(text)


def test_an_argument_stands_once():
    with pytest.raises(ValueError, match="'base' stands twice in 'rope:base=1,base=2'; give it once"):
        name_and_arguments("rope:base=1,base=2")
