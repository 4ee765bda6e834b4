"""Parameters that an encoding adds after a wrapper or a sharding was made would be synchronised by nobody."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

import whorl
from tests.contract import EVERY, TOKENS
from tests.hosts.test_packed import whole
from whorl.attaching.interface import attention
from whorl.attaching.parallel import HeadsHere, Share, heads_here, of_heads
from whorl.encodings import Shape
from whorl.testing import tiny_image_model, tiny_model

DEVICE = torch.device("cpu")


@pytest.fixture
def one_process(tmp_path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def sharded(model):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (1,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def test_a_wrapper_is_refused_for_attaching_and_read_for_encoding_of() -> None:
    model = whorl.attach(tiny_model("llama"), "alibi")
    wrapped = torch.nn.DataParallel(model)
    assert whorl.encoding_of(wrapped) == whorl.ALiBi()
    with pytest.raises(ValueError, match=r"wrapped in DataParallel.*attach to the model before wrapping it"):
        whorl.attach(wrapped, "rope")
    with pytest.raises(ValueError, match="wrapped in DataParallel"):
        whorl.attach(torch.compile(wrapped), "rope")


class Engine(torch.nn.Module):
    """As DeepSpeed's: what it lacks itself is its model's, and it has a config."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.module, self.config = model, {"zero_optimization": {"stage": 2}}

    def __getattr__(self, name: str):
        return self._modules["module"] if name == "module" else getattr(super().__getattr__("module"), name)


@pytest.mark.filterwarnings("ignore:FSDP is switching:UserWarning")
def test_a_wrapper_that_answers_for_its_model_is_refused_too(one_process) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    with pytest.raises(ValueError, match="wrapped in Engine"):
        whorl.attach(Engine(tiny_model("llama")), "t5")
    model = tiny_model("llama")
    model.model.layers[1] = FullyShardedDataParallel(model.model.layers[1], device_id=DEVICE)
    with pytest.raises(ValueError, match="wrapped in FullyShardedDataParallel"):
        whorl.attach(model, "t5")
    whole = FullyShardedDataParallel(tiny_model("llama"), device_id=DEVICE, use_orig_params=True)
    with pytest.raises(ValueError, match="wrapped in FullyShardedDataParallel"):
        whorl.attach(whole, "t5")
    with pytest.raises(ValueError, match=r"t5 has learned parameters.*sharded already \(FSDP\)"):
        whorl.attach(whole.module, "t5")


@pytest.mark.parametrize("kind", ["siglip_vision_model", "vit"])
def test_a_table_of_a_grid_learns_in_pieces(kind: str, one_process) -> None:
    """SigLIP has no tokens before the patches: FSDP cannot split a parameter of no rows."""
    from torch.distributed.fsdp import fully_shard

    model, pixels = tiny_image_model(kind).train(), torch.randn(1, 3, 32, 32)
    fully_shard(whorl.attach(model, "learned-2d"))
    model(pixels).last_hidden_state.square().sum().backward()
    assert all(p.grad.full_tensor().any() for p in whorl.attached(model).parameters())


def test_vectors_of_no_tokens_that_earlier_versions_kept_are_left_out(tmp_path) -> None:
    model = whorl.attach(tiny_image_model("siglip_vision_model"), "learned-2d")
    table = whorl.attached(model).effects[0]
    table.prefix = torch.nn.Parameter(torch.zeros(0, 64))
    model.save_pretrained(tmp_path)
    loaded = whorl.attached(whorl.load(tmp_path))
    assert [name for name, _ in loaded.named_parameters()] == ["effects.0.weight"]
    assert torch.equal(loaded.effects[0].weight, table.weight)


@pytest.mark.parametrize("kind", ["gpt2", "tower"])
def test_a_table_that_is_sharded_already_is_not_copied(kind: str, one_process) -> None:
    from torch.distributed.fsdp import fully_shard

    found = tiny_model("gpt2") if kind == "gpt2" else whole("Qwen3VLForConditionalGeneration").model.visual
    fully_shard(found)
    with pytest.raises(ValueError, match=r"learned.*sharded already.*Attach first"):
        whorl.attach(found, "learned" if kind == "gpt2" else "learned-2d+axial-rope")
    assert whorl.attached(found) is None


def test_learned_parameters_come_before_fully_shard(one_process) -> None:
    plain, first = whorl.attach(tiny_model("llama"), "t5"), sharded(whorl.attach(tiny_model("llama"), "t5"))
    for model in (plain, first):
        model(TOKENS).logits.square().mean().backward()
    ours = next(whorl.attached(first).parameters())
    assert type(ours.grad).__name__ == "DTensor", "the table is one of those that FSDP synchronises"
    assert torch.equal(ours.grad.full_tensor(), next(whorl.attached(plain).parameters()).grad)

    stock = sharded(tiny_model("llama"))
    before = stock(TOKENS).logits
    for encoding in ("t5", "learned:max_positions=64", "rope:base=20+kerple"):
        with pytest.raises(ValueError, match=rf"{encoding.split(':')[0].replace('+', '.')}.*fully_shard.*Attach first"):
            whorl.attach(stock, encoding)
        with pytest.raises(ValueError, match="sharded already"):
            whorl.attach(stock.model, encoding)
    assert whorl.attached(stock) is None

    whorl.attach(stock, "alibi")  # has nothing to synchronise
    alone = whorl.attach(tiny_model("llama"), "alibi")
    assert torch.equal(stock(TOKENS).logits, alone(TOKENS).logits)
    for model in (stock, alone):
        model(TOKENS).logits.square().mean().backward()
    for (name, a), (_, b) in zip(stock.named_parameters(), alone.named_parameters(), strict=True):
        assert torch.equal(a.grad.full_tensor(), b.grad), name
    assert torch.equal(whorl.detach(stock)(TOKENS).logits, before)


def test_learned_parameters_are_refused_under_tensor_parallelism(one_process) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, distribute_tensor

    model = tiny_model("llama")
    norm = model.model.norm
    whole = distribute_tensor(norm.weight.detach(), init_device_mesh("cpu", (1,)), [Replicate()])
    norm.weight = torch.nn.Parameter(whole)
    with pytest.raises(ValueError, match="its parameters are DTensors"):
        whorl.attach(model, "t5")
    model = tiny_model("llama")
    model._tp_size = 2
    with pytest.raises(ValueError, match="tensor parallelism"):
        whorl.attach(model, "t5")


@pytest.fixture(params=[0, 1])
def one_of_two(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[int]:
    """A process that believes there is another: nothing is sent."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    for name, value in (("RANK", request.param), ("LOCAL_RANK", request.param), ("WORLD_SIZE", 2)):
        monkeypatch.setenv(name, str(value))
    for family in ("llama", "phi3"):
        # which the first process alone would do; transformers 5.17 asks for a vocabulary that the processes divide
        tiny_model(family, vocab_size=98).save_pretrained(tmp_path / family)
    dist.init_process_group("fake", rank=request.param, world_size=2, store=FakeStore())
    yield request.param
    dist.destroy_process_group()


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "phi3"])
@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_under_tensor_parallelism_each_process_biases_its_own_heads(
    family: str, impl: str, one_of_two: int, tmp_path
) -> None:
    """Seen where attention is. (Two processes for real: logits off by 2e-7, and by 0.24 before.)"""
    from torch.distributed.device_mesh import init_device_mesh
    from transformers import AutoModelForCausalLM

    how = {"tp_plan": "auto", "device_mesh": init_device_mesh("cpu", (2,))}
    split = AutoModelForCausalLM.from_pretrained(tmp_path / family, **how)
    whole = whorl.attach(tiny_model(family), "alibi+window:size=5", impl=impl)
    whorl.attach(split, "alibi+window:size=5", impl=impl)
    q, k, v = torch.randn(1, 4, 9, 16), torch.randn(1, 2, 9, 16), torch.randn(1, 2, 9, 16)
    mask = torch.ones(9, 9, dtype=torch.bool).tril()[None, None]
    mine = slice(2 * one_of_two, 2 * one_of_two + 2)
    groups = slice(one_of_two, one_of_two + 1)
    given = {"attention_mask": mask, "position_ids": torch.arange(9)[None]}
    for layer, other in zip(whole.model.layers, split.model.layers, strict=True):
        expected, _ = attention(layer.self_attn, q, k, v, **given)
        got, _ = attention(other.self_attn, q[:, mine], k[:, groups], v[:, groups], **given)
        torch.testing.assert_close(got, expected[:, :, mine])
        assert not torch.allclose(expected[:, :, :2], expected[:, :, 2:], atol=0.1)


def test_heads_that_processes_cannot_share_out_alike_are_refused(one_of_two: int) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    layer = tiny_model("llama").model.layers[0].self_attn
    biases = [e.module for e in whorl.ALiBi().effects(Shape(head_dim=16, heads=3, width=48))]
    share = Share(one_of_two, 2)
    assert heads_here(biases, layer, 3, share, "alibi") == tuple(biases), "a layer that is not split"
    weight = distribute_tensor(torch.zeros(48, 64), init_device_mesh("cpu", (2,)), [Shard(0)], src_data_rank=None)
    layer.q_proj.weight = torch.nn.Parameter(weight)
    with pytest.raises(ValueError, match="alibi has a number for each of 3 heads, which 2 processes cannot share out"):
        heads_here(biases, layer, 3, share, "alibi")
    with pytest.raises(ValueError, match="alibi has a Identity, which is not a bias of distance alone"):
        heads_here([torch.nn.Identity()], layer, 4, share, "alibi")


def test_a_process_that_has_all_heads_biases_all_of_them() -> None:
    """As of Phi-3's one projection for q, k and v, whose plan splits it and gathers what it gives."""
    bias = next(e.module for e in whorl.ALiBi().effects(Shape(head_dim=16, heads=4, width=64)))
    here = HeadsHere(bias, Share(1, 2), 4)
    assert of_heads([here], 4) == [bias]
    assert of_heads([here], 2) == [here]


@pytest.mark.parametrize("encoding", EVERY)
def test_no_parameter_is_a_scalar_and_nothing_is_a_buffer(encoding: str) -> None:
    """`fully_shard` refuses scalars, and a model that leaves the meta device has nothing in its buffers."""
    attachment = whorl.attached(whorl.attach(tiny_model("llama"), encoding))
    assert all(parameter.dim() for parameter in attachment.parameters())
    assert not list(attachment.buffers())
