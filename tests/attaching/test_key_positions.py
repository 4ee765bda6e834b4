"""The positions of cached keys: whatever is done to a cache, a call on it equals one forward over the whole text."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

import whorl
from tests.contract import drawn
from whorl.attaching.turns import Turns
from whorl.testing import logits_and_budget, tiny_model

DYNAMIC_NTK = "rope~dynamic-ntk:factor=4,original=8"
LONGROPE = f"rope~longrope:short_factor={'@'.join(['1'] * 8)},long_factor={'@'.join(['3'] * 8)},factor=4,original=8"
ENCODINGS = ("alibi", "rope+alibi", "rope+window:size=4", "t5", LONGROPE, DYNAMIC_NTK)
# Every kind of place where keys lie: plain, in windows, beside others' windows, shared, no rotary module, in the mask.
HOSTS = ("llama", "mistral", "gemma3_text", "gemma4_text", "gpt2", "opt", "falcon", "gpt_neox")
TOKENS = torch.randint(3, 97, (2, 40), generator=torch.Generator().manual_seed(0))


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


def carrying(family: str, encoding: str) -> Any:
    model = tiny_model(family, num_key_value_heads=4) if family == "gpt_neox" else tiny_model(family)
    return drawn(whorl.attach(model, encoding))


def alone(model: Any, tokens: list[int], last: int) -> tuple[torch.Tensor, float]:
    """The logits of the last tokens of an unpadded row, from one forward without a cache, and their budget."""
    logits, budget = logits_and_budget(model, torch.tensor([tokens]), use_cache=False)
    return logits[0, -last:], budget


# Two rows of two turns, each turn padded on its left; what a batch of chats looks like.
ROWS = (
    ([5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [20, 21, 22]),
    ([31, 32, 33], [40, 41, 42, 43, 44, 45]),
)


def padded(parts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask of rows padded on the left."""
    longest = max(map(len, parts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in parts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in parts])
    return ids, mask


def two_turns(model: Any, cache: Any, between: Any = None) -> torch.Tensor:
    """The logits of the second turn's tokens, on a cache of the first's."""
    first, seen = padded([row[0] for row in ROWS])
    second, shown = padded([row[1] for row in ROWS])
    mask = torch.cat([seen, shown], 1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    split = first.shape[1]
    cached = {"past_key_values": cache, "use_cache": True}
    model(first, attention_mask=seen, position_ids=positions[:, :split], **cached)
    if between is not None:
        between(cache)
    return model(second, attention_mask=mask, position_ids=positions[:, split:], **cached).logits


def caches(model: Any) -> dict[str, Any]:
    return {
        "dynamic": DynamicCache(config=model.config),
        "without a config": DynamicCache(),
        "static": StaticCache(config=model.config, max_cache_len=32),
    }


def holds(model: Any, logits: torch.Tensor, rows: Any = ROWS) -> None:
    for row, (before, after) in enumerate(rows):
        truth, budget = alone(model, before + after, len(after))
        assert difference(logits[row, -len(after) :], truth) < budget


@pytest.mark.matrix
@torch.no_grad()
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("family", HOSTS)
def test_a_second_turn_of_a_padded_batch(family: str, encoding: str) -> None:
    if family == "falcon" and "~" in encoding:
        pytest.skip("falcon cannot turn late")
    if family in ("gemma4_text", "gpt_neox") and encoding == LONGROPE:
        pytest.skip("it turns another width than this list of factors is for")
    model = carrying(family, encoding)
    for cache in caches(model).values():
        holds(model, two_turns(model, cache))


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
def test_what_is_done_to_a_cache_is_done_to_the_positions(family: str) -> None:
    model = carrying(family, "alibi")

    def crop(cache: Any) -> None:
        first = next(iter(cache.layers)).get_seq_length()
        model(TOKENS[:, :3], past_key_values=cache, position_ids=torch.tensor([[70, 71, 72]]))
        cache.crop(-3)
        assert cache.get_seq_length() == first

    def rows(cache: Any) -> None:
        cache.batch_repeat_interleave(3)  # a a a b b b
        cache.reorder_cache(torch.tensor([3, 1, 2, 0, 4, 5]))  # b a a a b b
        cache.batch_select_indices(torch.tensor([1, 5]))

    for between in (crop, rows):
        holds(model, two_turns(model, DynamicCache(config=model.config), between))

    def swap(cache: Any) -> None:
        cache.reorder_cache(torch.tensor([1, 0]))

    cache = DynamicCache(config=model.config)
    (short, mask), (second, shown) = padded([row[0] for row in ROWS]), padded([row[1] for row in ROWS])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    model(short, attention_mask=mask, position_ids=positions, past_key_values=cache)
    swap(cache)
    whole = torch.cat([mask.flip(0), shown], 1)
    at = (whole.cumsum(-1) - 1)[:, -second.shape[1] :].clamp(min=0)
    logits = model(second, attention_mask=whole, position_ids=at, past_key_values=cache).logits
    holds(model, logits, ((ROWS[1][0], ROWS[0][1]), (ROWS[0][0], ROWS[1][1])))


@torch.no_grad()
@pytest.mark.parametrize("encoding", ["alibi", "t5", "rope+window:size=4", DYNAMIC_NTK])
def test_gaps_rows_of_their_own_and_copies(encoding: str) -> None:
    """Positions with holes, another hole in each row, step by step; and from copies of the cache."""
    model = carrying("llama", encoding)
    at = torch.stack([torch.arange(12) + (torch.arange(12) > 4) * 9, torch.arange(12) * 2 + 3])
    ids = TOKENS[:, :12]
    ones = torch.ones_like(ids)
    truth, budget = logits_and_budget(model, ids, position_ids=at, attention_mask=ones, use_cache=False)
    cache, steps = DynamicCache(config=model.config), []
    static = StaticCache(config=model.config, max_cache_len=20)
    for start, end in ((0, 3), (3, 7), (7, 8), (8, 12)):
        step = {"position_ids": at[:, start:end], "attention_mask": ones[:, :end]}
        forked = copy.deepcopy(cache)
        steps.append(model(ids[:, start:end], past_key_values=cache, **step).logits)
        assert torch.equal(model(ids[:, start:end], past_key_values=forked, **step).logits, steps[-1])
        assert difference(model(ids[:, start:end], past_key_values=static, **step).logits, steps[-1]) < budget
    assert difference(torch.cat(steps, 1), truth) < budget
    cache.crop(-4)
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([3, 1]))
    end = {"position_ids": at[:, 8:].flip(0), "attention_mask": ones}
    last = model(ids[:, 8:].flip(0), past_key_values=cache, **end).logits
    assert difference(last.flip(0), truth[:, 8:]) < budget
    static.reset()
    again = model(ids, position_ids=at, attention_mask=ones, past_key_values=static).logits
    assert difference(again, truth) < budget


@torch.no_grad()
def test_one_tensor_of_positions_that_the_caller_counts_on_in() -> None:
    model = carrying("llama", "alibi")
    truth, budget = logits_and_budget(model, TOKENS, use_cache=False)
    for cache in (DynamicCache(config=model.config), StaticCache(config=model.config, max_cache_len=40)):
        at, steps = torch.zeros(1, 1, dtype=torch.long), []
        for t in range(12):
            steps.append(model(TOKENS[:, t : t + 1], position_ids=at, past_key_values=cache).logits)
            at += 1
        assert difference(torch.cat(steps, 1), truth[:, :12]) < budget


@torch.no_grad()
def test_layers_that_get_copies_of_the_positions_as_on_several_devices() -> None:
    model = carrying("llama", "alibi")

    def copied(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        turns, _ = kwargs["position_embeddings"]
        away = Turns(turns.positions.clone(), turns.tables, turns.forward.clone())
        return args, {**kwargs, "position_embeddings": (away, away)}

    for layer in model.model.layers:
        layer.register_forward_pre_hook(copied, with_kwargs=True)
    at = torch.arange(12)[None] * 3  # gaps, which no mask can tell
    ones = torch.ones_like(TOKENS)[:, :12]
    truth, budget = logits_and_budget(model, TOKENS[:, :12], position_ids=at, attention_mask=ones, use_cache=False)
    for cache in (DynamicCache(config=model.config), StaticCache(config=model.config, max_cache_len=16)):
        steps = []
        for start, end in ((0, 5), (5, 6), (6, 12)):
            given = {"position_ids": at[:, start:end], "attention_mask": ones[:, :end]}
            steps.append(model(TOKENS[:, start:end], past_key_values=cache, **given).logits)
        assert difference(torch.cat(steps, 1), truth) < budget


@torch.no_grad()
def test_unknown_positions_are_counted_from_the_mask_or_refused() -> None:
    model = carrying("llama", "alibi")
    truth, budget = logits_and_budget(model, TOKENS, use_cache=False)

    def filled(**given: Any) -> Any:
        cache = DynamicCache(config=model.config)
        model(TOKENS[:, :10], past_key_values=cache, **given)
        return cache

    def taken_out(cache: Any, keep: slice | list[int]) -> Any:
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys[:, :, keep], layer.values[:, :, keep]
        return cache

    # from elsewhere: counted
    file = io.BytesIO()
    pickle.dump(filled(), file)
    file.seek(0)
    foreign = pickle.load(file)
    logits = model(TOKENS[:, 10:12], past_key_values=foreign).logits
    assert difference(logits, truth[:, 10:12]) < budget
    foreign.crop(-2)  # and kept from here on
    logits = model(TOKENS[:, 10:12], past_key_values=foreign).logits
    assert difference(logits, truth[:, 10:12]) < budget
    shortened = taken_out(filled(), slice(0, 8))
    assert difference(model(TOKENS[:, 8:11], past_key_values=shortened).logits, truth[:, 8:11]) < budget

    # shifted positions from elsewhere, and evicted keys: nobody can know
    file = io.BytesIO()
    pickle.dump(filled(position_ids=torch.arange(10)[None] + 5), file)
    file.seek(0)
    unknown = {
        "knows the positions of 0, and the mask shows 11 keys to a query at position 15": pickle.load(file),
        "9 keys of the cache .* knows the positions of 10, and the mask shows 10 keys .* at position 15": taken_out(
            filled(position_ids=torch.arange(10)[None] + 5), [0, 1, 2, 4, 5, 6, 7, 8, 9]
        ),
    }
    for said, cache in unknown.items():
        with pytest.raises(ValueError, match=f"{said}.*change a cache only by its own methods"):
            model(TOKENS[:, 10:11], past_key_values=cache, position_ids=torch.tensor([[15]]))

    one_layer = filled()
    layer = one_layer.layers[1]
    layer.keys, layer.values = layer.keys[:, :, 1:], layer.values[:, :, 1:]
    with pytest.raises(ValueError, match="layer 1 attends to 11 keys where its cache was given 12"):
        model(TOKENS[:, 10:12], past_key_values=one_layer)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
def test_packed_documents_in_a_call_that_fills_a_cache(family: str) -> None:
    model = carrying(family, "alibi")
    logits, budget = logits_and_budget(model, TOKENS, use_cache=False)
    packed = {"position_ids": torch.arange(40).repeat(2)[None]}
    apart = model(TOKENS.view(1, -1), use_cache=False, **packed).logits.view(2, 40, -1)
    assert difference(apart, logits) < budget
    with pytest.raises(ValueError, match=r"from 39 to 0 within a row, as packed documents do.*use_cache=False"):
        model(TOKENS.view(1, -1), **packed)
    cache = DynamicCache(config=model.config)
    model(TOKENS, past_key_values=cache)
    with pytest.raises(ValueError, match="from 39 to 0 within a row"):
        model(TOKENS[:, :3], position_ids=torch.arange(3)[None], past_key_values=cache)


GENERATE = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}


def generated(model: Any, ids: torch.Tensor, mask: torch.Tensor, **given: Any) -> Any:
    return model.generate(ids, attention_mask=mask, return_dict_in_generate=True, **GENERATE, **given)


@torch.no_grad()
@pytest.mark.parametrize("encoding", ["alibi", LONGROPE])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text", "gpt2"])
def test_generate_twice_on_the_cache_of_a_padded_batch(family: str, encoding: str) -> None:
    model = carrying(family, encoding)
    first, mask = padded([row[0] for row in ROWS])
    out = generated(model, first, mask, max_new_tokens=4)
    answers = out.sequences[:, first.shape[1] :]
    second, shown = padded([row[1] for row in ROWS])
    ids, mask = torch.cat([out.sequences, second], 1), torch.cat([mask, torch.ones_like(answers), shown], 1)
    text = generated(model, ids, mask, max_new_tokens=24, past_key_values=out.past_key_values).sequences
    # A host's own window counts the padding between the turns, so the truth has the same padding.
    slow = model.generate(ids, attention_mask=mask, use_cache=False, max_new_tokens=24, **GENERATE)
    assert torch.equal(text, slow)


@pytest.mark.full
@torch.no_grad()
@pytest.mark.parametrize("encoding", ["alibi", DYNAMIC_NTK])
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_beams_static_caches_chunks_and_assistants(family: str, encoding: str) -> None:
    model = carrying(family, encoding)
    ids, mask = padded([row[0] for row in ROWS])
    given = {"attention_mask": mask, "max_new_tokens": 16, **GENERATE}
    slow = model.generate(ids, use_cache=False, **given)
    beams = {"num_beams": 3, "num_return_sequences": 2}
    assert torch.equal(model.generate(ids, **beams, **given), model.generate(ids, use_cache=False, **beams, **given))
    assert torch.equal(model.generate(ids, cache_implementation="static", **given), slow)
    assert torch.equal(model.generate(ids, cache_implementation="static", **given), slow), "on the cache from before"
    assert torch.equal(model.generate(ids, prefill_chunk_size=4, **given), slow)
    one = {**given, "attention_mask": mask[1:]}
    assistant = carrying(family, encoding)
    next(assistant.parameters()).data.mul_(1.01)  # it is wrong now and then, and the cache is cropped
    assert torch.equal(model.generate(ids[1:], assistant_model=assistant, **one), slow[1:])
    assert torch.equal(model.generate(ids[1:], prompt_lookup_num_tokens=3, **one), slow[1:])


def by_hand(cache: Any, order: list[int]) -> None:
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[order], layer.values[order]


@torch.no_grad()
@pytest.mark.parametrize("encoding", ["alibi", DYNAMIC_NTK])
@pytest.mark.parametrize("copied", [False, True])
def test_rows_exchanged_by_hand_are_counted_anew_or_refused(encoding: str, copied: bool) -> None:
    """The record of their positions is that of other rows."""
    model = carrying("llama", encoding)
    first, seen = padded([row[0] for row in ROWS])
    second, shown = padded([row[1] for row in ROWS])
    mask = torch.cat([seen, shown], 1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    split, order = first.shape[1], [1, 0]

    def filled() -> Any:
        cache = DynamicCache()
        model(first, attention_mask=seen, position_ids=positions[:, :split], past_key_values=cache)
        if copied:
            cache = copy.deepcopy(cache)
            step = {"attention_mask": mask[:, : split + 1], "position_ids": positions[:, split : split + 1]}
            model(second[:, :1], past_key_values=cache, **step)
            cache.crop(-1)
        by_hand(cache, order)
        return cache

    how = {"attention_mask": mask[order], "position_ids": positions[order, split:]}
    logits = model(second[order], past_key_values=filled(), **how).logits
    for row, found in zip(reversed(ROWS), logits, strict=True):
        expected, budget = alone(model, [*row[0], *row[1]], len(row[1]))
        assert difference(found[-len(row[1]) :], expected) < budget
    with pytest.raises(ValueError, match="10 keys of the cache came, went or changed places past whorl"):
        model(second[order], past_key_values=filled(), attention_mask=mask[order], position_ids=how["position_ids"] + 1)


@torch.no_grad()
def test_keys_that_were_offloaded_are_the_same_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions with a gap cannot be counted from a mask: that the record is believed is seen."""
    from transformers.cache_utils import DynamicLayer

    for name in ("offload", "prefetch"):  # on a CPU they move nothing
        monkeypatch.setattr(DynamicLayer, name, lambda self: setattr(self, "keys", self.keys.clone()))
    model = carrying("llama", "alibi")
    gap = torch.tensor([[0, 1, 2, 3, 4, 5, 16, 17, 18, 19]])
    ids = TOKENS[:1, :10]
    expected, budget = logits_and_budget(model, ids, position_ids=gap, attention_mask=torch.ones(1, 10))
    cache = DynamicCache()
    model(ids[:, :8], position_ids=gap[:, :8], attention_mask=torch.ones(1, 8), past_key_values=cache)
    for layer in cache.layers:
        layer.offload()
        layer.prefetch()
    step = model(ids[:, 8:], position_ids=gap[:, 8:], attention_mask=torch.ones(1, 10), past_key_values=cache)
    assert difference(step.logits, expected[:, 8:]) < budget
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys.flip(2), layer.values.flip(2)
    with pytest.raises(ValueError, match="changed places past whorl"):
        model(ids[:, :1], position_ids=gap[:, -1:] + 1, attention_mask=torch.ones(1, 11), past_key_values=cache)


@pytest.mark.parametrize("change", ["detach", "clone", "rounded"])
@pytest.mark.parametrize("encoding", ["alibi", DYNAMIC_NTK])
def test_other_tensors_with_the_same_keys_are_believed(encoding: str, change: str) -> None:
    changes = {
        "detach": lambda keys: keys.detach(),  # backpropagation that is cut between segments
        "clone": lambda keys: keys.clone(),
        "rounded": lambda keys: keys.bfloat16().float(),
    }
    model = carrying("llama", encoding)
    mask = torch.ones_like(TOKENS)
    mask[1, :5] = 0  # so that the mask alone does not prove where keys are
    whole, budget = logits_and_budget(model, TOKENS, attention_mask=mask)
    cache = DynamicCache(config=model.config)
    model(TOKENS[:, :12], attention_mask=mask[:, :12], past_key_values=cache)
    for layer in cache.layers:
        layer.keys, layer.values = changes[change](layer.keys), changes[change](layer.values)
    with torch.no_grad():
        rest = model(TOKENS[:, 12:], attention_mask=mask, past_key_values=cache).logits
    if change == "rounded":  # the numbers are others then, and the positions are not
        budget += 2**-7 * float(whole.abs().max())
    assert difference(rest, whole[:, 12:]) <= budget
