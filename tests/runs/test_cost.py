"""Costs without data or weights, against counts known from elsewhere."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.functional import scaled_dot_product_attention

from workbench.build import Parts, build_parts
from workbench.errors import RecipeError
from workbench.recipe.schema import Recipe, load_recipe, parse_recipe
from workbench.runs.cost import assemble, cost, count_flops, missing_data, refuse_uneven_batch
from workbench.runs.live_memory import LiveMemory


def tiny(**changes: object) -> Recipe:
    tree = {"name": "x", "data": {"name": "synthetic", "task": "xor"}, "objective": "clip"}
    tree |= {"model": {"dim": 16, "encoders": {m: {"name": "mlp", "width": 32, "depth": 2} for m in "abc"}}}
    return parse_recipe(tree | {"train": {"for": "10 steps", "batch": 64}} | changes)


def test_counts_of_a_small_network_by_hand() -> None:
    found = cost(tiny())
    weights = 3 * 32 + 32 * 16
    assert found.parameters == dict.fromkeys("abc", weights + 32 + 16) | {"objective": 1}
    # forward 2 per weight; backward 2 more for the weights of both layers and 2 for the inputs of the second
    assert found.flops_per_sample == 3 * (4 * weights + 2 * 32 * 16)
    twice = cost(tiny(train={"for": "10 steps", "batch": 64, "microbatch": 32}))
    assert twice.flops_per_sample == found.flops_per_sample + 3 * 2 * weights  # the forward again
    assert found.state_bytes == 16 * found.total_parameters
    assert found.total_samples == 640


OBJECTIVES = ("clip", "siglip", "comm", "confu", "confu_chain", "gram", "symile", "triangle")


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_step_is_whole(objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every parameter of model and objective has met the optimizer with a gradient, and none of them is real."""
    update, met = torch.optim.AdamW.step, []

    def step(self: torch.optim.AdamW) -> None:
        met.extend(p for group in self.param_groups for p in group["params"])
        assert all(isinstance(p.grad, FakeTensor) and p.grad.shape == p.shape for p in met)
        update(self)
        assert all(isinstance(x, FakeTensor) for p in met for x in self.state[p].values())

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    model = {"dim": 16, "encoders": dict.fromkeys("abc", "mlp"), "fusion": {"name": "deep_set", "hidden": 16}}
    recipe = tiny(objective=objective, model=model)
    learned = [p for p in recipe.objective.build(tuple("abc")).parameters() if p.requires_grad]
    found = cost(recipe)
    fixed = found.parameters.get("objective", 0) - sum(p.numel() for p in learned)
    assert sum(p.numel() for p in met) == found.total_parameters - fixed


def test_what_the_objective_refuses_is_refused_without_training() -> None:
    model = {"dim": 16, "encoders": dict.fromkeys("ab", "mlp"), "fusion": {"name": "deep_set", "hidden": 16}}
    with pytest.raises(ValueError, match="a single view has no other view to match"):
        cost(tiny(objective="ito", model=model))


def test_attention_on_the_cpu_counts() -> None:
    """Scores and their sum of values forward; those again, and three gradients, backward."""
    q, k, v = (torch.randn(2, 4, length, 16, requires_grad=True) for length in (41, 53, 53))
    with count_flops() as forward:
        z = scaled_dot_product_attention(q, k, v)
    product = 2 * 2 * 4 * 41 * 53 * 16
    assert forward.get_total_flops() == 2 * product
    with count_flops() as backward:
        z.sum().backward()
    assert backward.get_total_flops() == 5 * product


def test_what_lives_at_once_is_counted_until_it_is_freed() -> None:
    known = torch.zeros(500)
    weight = nn.Parameter(torch.ones(1000))
    with LiveMemory([weight], [known]) as memory:
        known += 1
        first = torch.zeros(1000)
        second = first[:500] + 1  # a view is no memory of its own
        del first
        third = second * 2
        assert (memory.peak, memory.peak_besides) == (6000, 6000)
        (weight * 2).sum().backward()
    assert third.shape == second.shape
    assert weight.grad is not None
    assert memory.peak >= memory.peak_besides == 4000 + 4000 + 8  # product, second and third; the sum, its gradient
    assert memory.peak - memory.peak_besides <= 4000


def test_a_micro_batch_holds_activations_of_its_own_samples_and_gradients_of_all() -> None:
    whole, split = cost(tiny()), cost(tiny(train={"for": "10 steps", "batch": 64, "microbatch": 16}))
    assert split.activation_bytes == pytest.approx(whole.activation_bytes / 4, rel=0.2)  # and copies of gradients
    rows = 64 * (whole.embedding_bytes_per_sample + whole.input_bytes_per_sample)
    assert whole.input_bytes_per_sample == 3 * 3 * 4  # three numbers of each modality, fp32
    assert split.memory_bytes == split.state_bytes + rows + split.activation_bytes
    assert whole.memory_bytes == whole.state_bytes + rows + whole.activation_bytes - whole.spared_bytes
    assert 0 < whole.spared_bytes <= 4 * whole.total_parameters
    assert split.spared_bytes == 0


@pytest.mark.slow
def test_several_gpus_share_activations_and_time_but_no_weights() -> None:
    one, four = cost(tiny()), cost(tiny(), processes=4)
    assert one.embedding_bytes_per_sample == 2 * 4 * 3 * 16  # three sides of 16 numbers, and their gradients
    rows = 64 * one.embedding_bytes_per_sample + 16 * one.input_bytes_per_sample
    assert four.memory_bytes == one.state_bytes + rows + four.activation_bytes
    assert four.activation_bytes == pytest.approx(one.activation_bytes / 4, rel=0.2)
    assert four.gpu_hours == one.gpu_hours
    assert four.hours == one.gpu_hours / 4
    divided = cost(tiny(parallel={"strategy": "fsdp", "copies": 2}), processes=4)
    assert divided.gathered_bytes == 2 * 4 * 3 * (3 * 32 + 32 * 16)  # matrices and their gradients
    assert four.memory_bytes - divided.memory_bytes == one.state_bytes / 2 - divided.gathered_bytes


@pytest.mark.slow
def test_vit_l14_with_ito() -> None:
    found = cost(load_recipe("recipes/ito_l14.yaml", ("model.encoders.image.grad_checkpointing=false",)))
    towers = 427_616_513 - 1  # ViT-L-14 of open_clip less its logit scale
    fusion = 2 * (12 * 768**2 + 13 * 768) + 2 * 768  # method: two pre-norm blocks and a LayerNorm
    assert found.total_parameters == towers + fusion + 1
    assert f"{found.total_parameters / 1e6:.1f} M" == "441.8 M"
    # open_clip's published profile: 162 GFLOPs an image and 13.3 a text, forward; two views, and twice that backward
    forward = 2 * 162.0 + 13.3
    assert 3 * forward * 0.95 < found.flops_per_sample / 1e9 < 3 * forward * 1.15


@pytest.mark.slow
def test_a_contrast_computes_one_token_of_the_last_block() -> None:
    """As the text fills its context: a fake step knows no shorter ones."""
    vit = {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 10, "width": 16, "heads": 2, "layers": 3}
    encoders = {"image": {"name": "open_clip", "config": vit}, "text": {"name": "open_clip", "config": text}}
    tree = {"name": "x", "data": {"name": "emoji", "views": 1}, "model": {"dim": 24, "encoders": encoders}}
    found = cost(parse_recipe(tree | {"objective": "clip", "train": {"for": "1 steps", "batch": 4}}))

    def tower(tokens: int, d: int) -> int:
        """Multiplications forward and backward: a matrix twice as many backward, attention five products for two."""
        matrices = 2 * tokens * 12 * d * d + (2 * tokens + 10) * d * d + d * 24
        products = 2 * tokens * tokens * d + tokens * d
        return 3 * matrices + 7 * products

    patches = 2 * 16 * 3 * 8 * 8 * 32  # of which no gradient goes on to the picture
    assert found.flops_per_sample == 2 * (tower(17, 32) + tower(10, 16) + patches)


def test_missing_data_is_one_line_that_says_where_to_point() -> None:
    line = missing_data(load_recipe("recipes/ito_l14.yaml"))
    assert line is not None
    assert "\n" not in line
    assert "--set data.path=" in line


def test_nothing_is_allocated_for_fake_parts() -> None:
    parts = assemble(tiny())
    assert all(p.is_meta for p in [*parts.model.parameters(), *parts.objective.parameters()])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["emoji_ito.yaml", "emoji_ito_paper.yaml", "synth/comm.yaml"])
def test_without_memory_every_tensor_has_the_shape_and_type_of_the_real_one(name: str) -> None:
    """Constructors compute with tensors that have no values in an assembly, and some of it is left out there."""
    recipe = load_recipe(name)

    def tensors(parts: Parts) -> dict[str, tuple[torch.Size, torch.dtype]]:
        both = nn.ModuleList([parts.model, parts.objective])
        return {n: (x.shape, x.dtype) for n, x in (*both.named_parameters(), *both.named_buffers())}

    assert tensors(assemble(recipe)) == tensors(build_parts(recipe))


@pytest.mark.parametrize(("processes", "microbatch"), [(7, None), (7, 64), (12, 8), (5, 32), (3, 256)])
def test_a_batch_for_so_many_processes_is_one_that_is_taken(processes: int, microbatch: int | None) -> None:
    """Set as advised, it was no multiple of the micro-batch, and refused again."""
    settings = [f"train.microbatch={microbatch}"] if microbatch else []
    with pytest.raises(RecipeError, match=r"set train\.batch=") as caught:
        refuse_uneven_batch(load_recipe("synth/clip", tuple(settings)), processes)
    advised = str(caught.value).partition("set ")[2].partition(",")[0]
    refuse_uneven_batch(load_recipe("synth/clip", (*settings, advised)), processes)
