"""The positions of cached keys where the model is compiled: no number is looked at, and all hold that hold else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from transformers import CompileConfig, DynamicCache, StaticCache

import whorl
from tests.attaching.test_key_positions import GENERATE, ROWS, TOKENS, difference, padded
from tests.contract import drawn
from whorl.testing import logits_and_budget, tiny_model

TURNS = ["sliding_attention", "full_attention"]
LAYERS: dict[str, dict[str, Any]] = {
    "gemma3_text": {"layer_types": TURNS},
    "gemma4_text": {"layer_types": 2 * TURNS, "num_hidden_layers": 4, "num_kv_shared_layers": 2},
}


def windowed(family: str, encoding: str = "alibi") -> Any:
    """Layers in a window of 8 tokens; in Gemma, others that see all, and, in Gemma 4, some that share keys of both."""
    layers = {"num_hidden_layers": 2, "sliding_window": 8, **LAYERS.get(family, {})}
    return drawn(whorl.attach(tiny_model(family, **layers), encoding))


def spans(prompt: int) -> list[tuple[int, int]]:
    """A prompt, single tokens until the window is full and on, and two at once."""
    return [(0, prompt), *((t, t + 1) for t in range(prompt, 12)), (12, 14)]


def forget(cache: Any) -> None:
    """As if it had been filled elsewhere."""
    for layer in cache.layers:
        layer.__dict__.pop("whorl_positions", None)


@pytest.mark.full
@torch.no_grad()
def test_steps_on_a_static_cache_go_on_with_gaps() -> None:
    model = drawn(whorl.attach(tiny_model("llama", num_hidden_layers=2), "rope+alibi"))
    step = torch.compile(model, fullgraph=True, backend="aot_eager")
    at = torch.arange(12)[None] + (torch.arange(12) > 4) * 9
    ids, ones = TOKENS[:, :12], torch.ones(2, 12, dtype=torch.long)
    truth, budget = logits_and_budget(model, ids, position_ids=at, attention_mask=ones, use_cache=False)
    cache = StaticCache(config=model.config, max_cache_len=16)
    given = {"attention_mask": ones[:, :8], "position_ids": at[:, :8]}
    steps = [model(ids[:, :8], past_key_values=cache, **given).logits]
    for t, run in ((8, step), (9, step), (10, model), (11, step)):
        steps.append(run(ids[:, t : t + 1], past_key_values=cache, position_ids=at[:, t : t + 1]).logits)
    assert difference(torch.cat(steps, 1), truth) < budget

    # A cache that nobody has kept positions of: counted, and asserted where there is no counting them.
    cache.reset()
    model(ids[:, :8], past_key_values=cache)
    forget(cache)
    plain = model(ids[:, :9], use_cache=False).logits[:, 8:]
    assert difference(step(ids[:, 8:9], past_key_values=cache, position_ids=torch.tensor([[8]])).logits, plain) < budget
    forget(cache)
    with pytest.raises(RuntimeError, match="the keys' positions are unknown"):
        step(ids[:, 9:10], past_key_values=cache, position_ids=torch.tensor([[19]]))


STATIC, DYNAMIC = "static", "dynamic"


def cache_of(kind: str, model: Any) -> Any:
    return StaticCache(config=model.config, max_cache_len=20) if kind == STATIC else DynamicCache(config=model.config)


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "kind", "padding", "prompt"),
    [
        ("gemma3_text", STATIC, 3, 6),
        *(
            pytest.param(*case, marks=pytest.mark.full)
            for case in (
                ("gemma3_text", DYNAMIC, 3, 6),
                ("gemma3_text", STATIC, 3, 11),
                ("mistral", STATIC, 0, 6),
                ("mistral", DYNAMIC, 0, 6),
            )
        ),
    ],
)
def test_steps_go_on_where_a_window_is_full(family: str, kind: str, padding: int, prompt: int) -> None:
    """padding: on the left of one row; 0: no attention mask at all. prompt: shorter than the window, or longer."""
    model = windowed(family)
    ids, mask = TOKENS[:, :14], torch.ones(2, 14, dtype=torch.long)
    mask[1, :padding] = 0
    at = (mask.cumsum(-1) - 1).clamp(min=0)

    def given(first: int, last: int) -> dict[str, torch.Tensor]:
        seen = {"attention_mask": mask[:, :last]} if padding else {}
        return {"position_ids": at[:, first:last], **seen}

    truth, budget = logits_and_budget(model, ids, use_cache=False, **given(0, 14))
    step, cache = torch.compile(model, fullgraph=True, backend="eager"), cache_of(kind, model)
    steps = [step(ids[:, a:b], past_key_values=cache, **given(a, b)).logits for a, b in spans(prompt)]
    assert difference(torch.cat(steps, 1)[mask.bool()], truth[mask.bool()]) < budget
    forget(cache)
    with pytest.raises(RuntimeError, match="the keys' positions are unknown"):
        step(ids[:, :2], past_key_values=cache, position_ids=at[:, 12:] + 9)


ONES, PADDED = torch.ones(2, 20, dtype=torch.long), torch.ones(2, 20, dtype=torch.long)
PADDED[:, :2] = 0
# What is given of 8 tokens and of 1, 1 and 2 that go on: positions, and a mask of each.
FITTING = {
    "gaps, and the number of keys next": ([0, 2, 4, 6, 8, 10, 12, 14], [8, 9, 10, 11], ONES, ONES),
    "gaps, and on": ([0, 2, 4, 6, 8, 10, 12, 14], [16, 18, 20, 21], ONES, ONES),
    "from 5, and the number of keys next": ([5, 6, 7, 8, 9, 10, 11, 12], [8, 9, 10, 11], ONES, ONES),
    "padding that is said later": (list(range(8)), [6, 7, 8, 9], ONES, PADDED),
    "a jump": (list(range(8)), [12, 13, 14, 17], ONES, ONES),
}


@torch.no_grad()
@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.full] * (i % 3 > 0)) for i, c in enumerate(FITTING)]
)
@pytest.mark.parametrize("kind", [STATIC, DYNAMIC])
def test_keys_stand_where_they_were_put_and_not_where_a_mask_counts_them(kind: str, case: str) -> None:
    """Whether they were put there by a compiled call or not."""
    model = drawn(whorl.attach(tiny_model("llama", num_hidden_layers=2), "alibi"))
    before, after, *masks = FITTING[case]
    at, compiled = torch.tensor([before + after]), torch.compile(model, fullgraph=True, backend="eager")

    def steps(first: Any, then: Any) -> torch.Tensor:
        cache, logits = cache_of(kind, model), []
        for (a, b), run, mask in zip(
            [(0, 8), (8, 9), (9, 10), (10, 12)], [first, then, then, then], [masks[0], *3 * [masks[1]]], strict=True
        ):
            given = {"position_ids": at[:, a:b], "attention_mask": mask[:, :b]}
            logits.append(run(TOKENS[:, a:b], past_key_values=cache, **given).logits)
        return torch.cat(logits, 1)

    truth, budget = steps(model, model), logits_and_budget(model, TOKENS[:, :12])[1]
    for first, then in ((model, compiled), (compiled, compiled), (compiled, model)):
        torch.compiler.reset()
        assert difference(steps(first, then), truth) < budget


@torch.no_grad()
def test_what_is_done_to_a_cache_that_a_compiled_call_filled() -> None:
    model = drawn(whorl.attach(tiny_model("llama", num_hidden_layers=2), "alibi"))
    step = torch.compile(model, fullgraph=True, backend="eager")
    at, ones = torch.stack([torch.arange(10) * 2, torch.arange(10) * 3 + 1]), ONES[:, :10]
    ids = TOKENS[:, :10]
    truth, budget = logits_and_budget(model, ids, position_ids=at, attention_mask=ones, use_cache=False)

    def filled() -> Any:
        cache = DynamicCache(config=model.config)
        step(ids[:, :9], position_ids=at[:, :9], attention_mask=ones[:, :9], past_key_values=cache)
        return cache

    for run in (model, step):
        cache = filled()
        cache.crop(-1)
        cache.reorder_cache(torch.tensor([1, 0]))
        cache = copy.deepcopy(cache)
        last = {"position_ids": at[[1, 0], 8:], "attention_mask": ones}
        assert difference(run(ids[[1, 0], 8:], past_key_values=cache, **last).logits, truth[[1, 0], 8:]) < budget
        cache = filled()
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys[[1, 0]], layer.values[[1, 0]]
        with pytest.raises((ValueError, RuntimeError), match="keys' positions are unknown|changed places past whorl"):
            run(ids[:, 9:], position_ids=at[[1, 0], 9:], attention_mask=ones, past_key_values=cache)


class Step(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, at: torch.Tensor, *held: torch.Tensor) -> torch.Tensor:
        cache = DynamicCache()
        for layer in range(len(held) // 2):
            cache.update(held[2 * layer], held[2 * layer + 1], layer)
        return self.model(ids, attention_mask=mask, position_ids=at, past_key_values=cache).logits


@pytest.mark.full
@torch.no_grad()
@pytest.mark.parametrize("whole", [False, True])
def test_an_exported_step_counts_the_keys_of_a_cache_and_its_own(whole: bool) -> None:
    """By the mask, of padding or of every query and key: what is kept beside the keys does not come with them."""
    model, at = drawn(whorl.attach(tiny_model("llama", num_hidden_layers=2), "alibi")), torch.arange(12)[None]
    mask = torch.ones(1, 1, 12, 12, dtype=torch.bool).tril()[:, :, 8:] if whole else ONES[:1, :12]
    ids, cache = TOKENS[:1, :12], DynamicCache()
    truth, budget = logits_and_budget(model, ids, use_cache=False)
    model(ids[:, :8], past_key_values=cache)
    held = [of for layer in cache.layers for of in (layer.keys, layer.values)]
    given = (ids[:, 8:], mask, at[:, 8:], *held)
    exported = torch.export.export(Step(model), given).module()
    assert difference(exported(*given), truth[:, 8:]) < budget


@pytest.mark.full
@torch.no_grad()
@pytest.mark.parametrize("kind", [STATIC, DYNAMIC])
def test_packed_documents_in_a_compiled_call_that_fills_a_cache(kind: str) -> None:
    """A call without a cache keeps them apart, and one with a cache refuses them, compiled or not."""
    model = drawn(whorl.attach(tiny_model("llama", num_hidden_layers=2), "alibi"))
    compiled, at = torch.compile(model, fullgraph=True, backend="eager"), torch.arange(6).repeat(2)[None]
    ids = TOKENS[:, :12]
    apart, budget = logits_and_budget(model, ids, position_ids=at, use_cache=False)
    assert difference(compiled(ids, position_ids=at, use_cache=False).logits, apart) < budget
    with pytest.raises(RuntimeError, match="go back within a row, as packed documents do"):
        compiled(ids, position_ids=at, past_key_values=cache_of(kind, model))
    cache = cache_of(kind, model)
    compiled(ids[:, :6], position_ids=at[:, :6], past_key_values=cache)
    with pytest.raises(RuntimeError, match="go back within a row, as packed documents do"):
        compiled(ids[:, 6:], position_ids=at[:, 6:], past_key_values=cache)


@pytest.mark.full
@torch.no_grad()
@pytest.mark.parametrize("kind", [STATIC, DYNAMIC])
def test_steps_make_no_more_graphs_than_stock_code(kind: str) -> None:
    """A number of tokens that is looked at would make one for each."""

    def graphs(model: Any) -> int:
        torch.compiler.reset()
        counter, cache = CompileCounter(), cache_of(kind, model)
        step = torch.compile(model, fullgraph=True, backend=counter)
        for a, b in spans(6):
            given = {"position_ids": torch.arange(a, b)[None], "attention_mask": torch.ones(2, b, dtype=torch.long)}
            step(TOKENS[:, a:b], past_key_values=cache, **given)
        return counter.frame_count

    model = windowed("gemma3_text")
    ours = graphs(model)
    assert ours <= graphs(whorl.detach(model))


@pytest.mark.full
@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "encoding"), [("gemma3_text", "alibi"), ("gemma3_text", "rope+fox"), ("gemma4_text", "t5")]
)
def test_generate_compiles_steps_past_a_full_window(family: str, encoding: str) -> None:
    """As `cache_implementation="static"` does by itself on a GPU. ALiBi would not show that all keys of a window are
    taken for ones nearer by."""
    model = windowed(family, encoding)
    ids, mask = padded([row[0] for row in ROWS])
    given = {"attention_mask": mask, "max_new_tokens": 8, **GENERATE}
    how = CompileConfig(backend="eager", fullgraph="fox" not in encoding)
    how._compile_all_devices = True
    static = {"cache_implementation": "static", "compile_config": how}
    assert torch.equal(model.generate(ids, **static, **given), model.generate(ids, use_cache=False, **given))
