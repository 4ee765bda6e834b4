"""What changes logits in towers of packed images, against their own code with attention written down plainly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AttentionInterface

import whorl
from tests.encodings.test_irpe_on_grids import official
from tests.hosts.test_packed import GRIDS, PIXELS, TOWERS, seen, whole
from whorl.testing import max_error

FAR = 0.01  # what a patch of distance turns, where positions are read back out of a tower's own angles
Term = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]  # of q, k and positions [tokens, 2]


@pytest.fixture(params=TOWERS)
def tower(request: pytest.FixtureRequest) -> Any:
    return whole(request.param).model.visual.double()


@pytest.fixture
def patches() -> torch.Tensor:
    made = torch.randn(int(GRIDS.prod(1).sum()), PIXELS, generator=torch.Generator().manual_seed(1))
    return made.double()


def by_its_own_code(
    tower: Any, patches: torch.Tensor, terms: list[Term], note: Callable[..., None] | None = None, run: Any = seen
) -> torch.Tensor:
    """The stock tower that turns nothing and adds no table, with a term of each layer's own in the logits.

    note: told of each layer's number, q, k, positions and weights, image by image or window by window
    """
    tower.rotary_pos_emb.inv_freq.fill_(FAR)
    if hasattr(tower, "pos_embed"):
        tower.pos_embed.weight.zero_()
    left: list[torch.Tensor] = []

    def read_positions(attention: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        cos, sin = kwargs["position_embeddings"]
        at = (sin.double().asin() / FAR).round()
        lengths = kwargs["cu_seqlens"].diff().tolist()
        left.extend(torch.stack([at[:, 0], at[:, at.shape[1] // 4]], 1).split(lengths))
        return args, {**kwargs, "position_embeddings": (torch.ones_like(cos), torch.zeros_like(sin))}

    def plainly(attention: Any, q: Any, k: Any, v: Any, *_: Any, scaling: float, **__: Any) -> tuple[Any, None]:
        layer = [block.attn for block in tower.blocks].index(attention)
        q, k, v, at = q[0], k[0], v[0], left.pop(0)
        weights = ((q @ k.transpose(1, 2) + terms[layer](q, k, at) / scaling) * scaling).softmax(-1)
        if note is not None:
            note(layer, q, k, at, weights)
        return (weights @ v).transpose(0, 1)[None], None

    hooks = [block.attn.register_forward_pre_hook(read_positions, with_kwargs=True) for block in tower.blocks]
    AttentionInterface.register("plainly", plainly)
    was = tower.config._attn_implementation
    tower.set_attn_implementation("plainly")
    try:
        return run(tower, patches)
    finally:
        assert not left
        tower.set_attn_implementation(was)
        for hook in hooks:
            hook.remove()


def drawn(tower: Any, scale: float = 1.0) -> Any:
    """What is attached, with learned numbers that are not those it starts from."""
    generator = torch.Generator().manual_seed(3)
    for parameter in whorl.attached(tower).parameters():
        parameter.data.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return tower


def held_to(tower: Any, patches: torch.Tensor, terms: list[Term]) -> None:
    found = seen(tower, patches)
    whorl.detach(tower)
    expected = by_its_own_code(tower, patches, terms)
    without = by_its_own_code(tower, patches, [lambda q, k, at: torch.zeros(())] * len(terms))
    assert max_error(expected, without) > 1e-3
    assert max_error(found, expected) < 1e-7 * float(expected.abs().max())  # their own rotation rounds to float32


def of_distances(q: torch.Tensor, k: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """alibi-2d's."""
    slopes = torch.tensor([2.0**-4, 2.0**-8]).double()
    return -slopes[:, None, None] * (at[:, None] - at[None]).square().sum(-1).sqrt()


def of_turns(by: torch.Tensor) -> Term:
    """Of turns by column and row, with radians [2, heads, pairs] for each."""

    def term(q: torch.Tensor, k: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        angles = torch.einsum("ta,ahp->htp", at[:, [1, 0]], by)
        turned = [turn(x, angles) for x in (q, k)]
        return (turned[0] @ turned[1].transpose(1, 2) - q @ k.transpose(1, 2)) * q.shape[-1] ** -0.5

    return term


def learned_turns(tower: Any) -> list[Term]:
    """mixed-rope's, by layer."""
    modules = [block.attn.whorl_seam.scores[0] for block in tower.blocks]
    return [of_turns(p.detach().clone()) for module in modules for p in module.parameters()]


@torch.no_grad()
def test_alibi_of_distances_within_each_image(tower: Any, patches: torch.Tensor) -> None:
    held_to(whorl.attach(tower, "alibi-2d"), patches, [of_distances] * len(tower.blocks))


@torch.no_grad()
def test_irpe_of_keys_and_queries(tower: Any, patches: torch.Tensor) -> None:
    drawn(whorl.attach(tower, "irpe:on=qk"))
    terms = []
    for block in tower.blocks:
        (module,) = block.attn.whorl_seam.scores
        tables = {letter: table.detach().clone() for letter, table in module.tables.items()}

        def term(q: torch.Tensor, k: torch.Tensor, at: torch.Tensor, tables: Any = tables) -> torch.Tensor:
            apart = (at[:, None] - at[None]).int().tolist()
            ids = torch.tensor([[official("product", *steps)[0] for steps in row] for row in apart])
            of_keys, of_queries = (tables[x][:, ids].expand(len(q), -1, -1, -1) for x in ("k", "q"))
            both = torch.einsum("hid,hijd->hij", q, of_keys) + torch.einsum("hjd,hijd->hij", k, of_queries)
            return both * q.shape[-1] ** -0.5

        terms.append(term)
    held_to(tower, patches, terms)


@torch.no_grad()
def test_mixed_rope_turns_each_head_and_layer_by_its_own(tower: Any, patches: torch.Tensor) -> None:
    drawn(whorl.attach(tower, "mixed-rope"), 0.5)
    held_to(tower, patches, learned_turns(tower))


def turn(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Channel c and the one half a head after it, as the towers have them."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


@torch.no_grad()
def test_mixed_without_its_turn_is_axial(tower: Any, patches: torch.Tensor) -> None:
    made = [seen(whorl.attach(tower, e), patches) for e in ("axial-rope:base=10", "mixed-rope:rotate=false")]
    assert max_error(*made) < 1e-7  # learned frequencies are kept in float32
    assert max_error(made[0], seen(whorl.attach(tower, "nope"), patches)) > 1e-3


CHANGES = ["alibi-2d", "irpe:on=qkv", "mixed-rope", "lookhere", "pape", "pape-ri", "liere:unit=6", "nope+ssmax"]


@pytest.mark.parametrize("encoding", CHANGES)
@torch.no_grad()
def test_images_do_not_see_one_another(tower: Any, patches: torch.Tensor, encoding: str) -> None:
    stock = seen(tower, patches)
    drawn(whorl.attach(tower, encoding), 0.5)
    packed = seen(tower, patches)
    assert max_error(packed, stock) > 1e-3
    for grid, own, together in zip(
        GRIDS, patches.split(GRIDS.prod(1).tolist()), packed.split(GRIDS.prod(1).tolist()), strict=True
    ):
        assert max_error(seen(tower, own, grid[None]), together) < 1e-10 * float(packed.abs().max())
    whorl.detach(tower)
    assert torch.equal(seen(tower, patches), stock)


@pytest.mark.parametrize("encoding", ["irpe:on=qkv", "mixed-rope", "pape"])
def test_what_is_learned_learns_under_checkpointing_as_without(
    tower: Any, patches: torch.Tensor, encoding: str
) -> None:
    drawn(whorl.attach(tower, encoding), 0.5).train()
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            tower.gradient_checkpointing_enable()
        tower.zero_grad()
        seen(tower, patches).square().sum().backward()
        gradients.append([p.grad.clone() for p in whorl.attached(tower).parameters()])
    assert all(bool(gradient.any()) for gradient in gradients[0])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("encoding", ["irpe:on=qkv", "mixed-rope", "alibi-2d"])
@torch.no_grad()
def test_it_is_saved_with_the_whole_model(encoding: str, patches: torch.Tensor, tmp_path: Any) -> None:
    model = whole("Qwen2_5_VLForConditionalGeneration")
    drawn(whorl.attach(model.model.visual, encoding), 0.5)
    expected = seen(model.model.visual, patches.float())
    model.save_pretrained(tmp_path)
    loaded = whorl.load(tmp_path)
    assert whorl.encoding_of(loaded.model.visual) == whorl.encoding_of(model.model.visual)
    assert torch.equal(seen(loaded.model.visual, patches.float()), expected)


@torch.no_grad()
def test_it_compiles(patches: torch.Tensor) -> None:
    tower = drawn(whorl.attach(whole("Qwen2_5_VLForConditionalGeneration").model.visual, "irpe"), 0.5)
    expected = seen(tower, patches.float())
    compiled = torch.compile(tower, backend="eager")
    for _ in range(2):
        assert max_error(seen(compiled, patches.float()), expected) < 2e-6 * float(expected.abs().max())


def test_another_attention_would_drop_it(patches: torch.Tensor) -> None:
    tower = whorl.attach(whole("Qwen3VLForConditionalGeneration").model.visual, "alibi-2d")
    tower.set_attn_implementation("sdpa")
    with pytest.raises(ValueError, match="alibi-2d is attached .* somebody has set 'sdpa', which would drop it"):
        seen(tower, patches.float())


@pytest.mark.parametrize("encoding", ["alibi-2d", "axial-rope"])
@pytest.mark.parametrize("rows", [40, 80])
def test_positions_of_other_images_are_refused(encoding: str, rows: int, patches: torch.Tensor) -> None:
    tower = whorl.attach(whole("Qwen3VLForConditionalGeneration").model.visual, encoding)
    with pytest.raises(ValueError, match=f"got 56 patches and positions of {rows}; leave position_ids out"):
        tower(patches.float(), GRIDS, position_ids=torch.zeros(rows, 2, dtype=torch.long))


@torch.no_grad()
def test_several_images_are_traced(patches: torch.Tensor) -> None:
    tower = whorl.attach(whole("Qwen2VLForConditionalGeneration").model.visual, "alibi-2d").requires_grad_(False)
    traced = torch.jit.trace(lambda x: tower(x, GRIDS).last_hidden_state, (patches.float(),), check_trace=False)
    expected = seen(tower, patches.float() * 2)
    assert max_error(traced(patches.float() * 2), expected) < 2e-6 * float(expected.abs().max())
