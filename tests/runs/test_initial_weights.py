"""Fine-tuning: initial weights by name, all accounted for; learning rates that fall with depth; frozen towers."""

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from timm.optim import param_groups_layer_decay
from torch import Tensor

from workbench.build import Parts, build_engine, build_parts
from workbench.distributed.processes import Parallel
from workbench.encoders.open_clip import OpenCLIP
from workbench.errors import RecipeError, RunError
from workbench.recipe.schema import Recipe, parse_recipe
from workbench.recipe.sections import InitSection
from workbench.runs.cost import cost
from workbench.runs.initial_weights import initialise
from workbench.runs.train import train
from workbench.training import checkpoint
from workbench.training.metrics import Metrics
from workbench.training.optim import layer_lr_scales
from workbench.training.schedule import Schedule
from workbench.types import Encoder, Modality

pytestmark = pytest.mark.slow

VIT = {"image_size": 16, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8}
TEXT = {"context_length": 8, "width": 16, "heads": 2, "layers": 2}
MLP = {"name": "mlp", "width": 8, "depth": 3}


def vectors(init: Any = None, objective: Any = "clip", steps: int = 6, dim: int = 4, **train: Any) -> Recipe:
    """Three towers on vectors, a second of training."""
    tree = {"name": "x", "data": {"name": "synthetic", "task": "xor", "samples": 96}, "objective": objective}
    tree |= {"model": {"dim": dim, "encoders": dict.fromkeys("abc", MLP), "init": init, "fusion": "deep_set"}}
    tree |= {"train": {"for": f"{steps} steps", "batch": 24, "lr": 0.01} | train, "checkpoint": {"every": "2 steps"}}
    return parse_recipe(tree | {"parallel": {"workers": 0}, "log": {"tensorboard": False}})


def pictures(lock: int | None = None, dim: int = 8, vit: dict[str, Any] = VIT, **more: Any) -> Recipe:
    """Two small towers of open_clip on pictures and words."""
    image = {"name": "open_clip", "config": vit, "augment": "none"} | ({} if lock is None else {"lock": lock})
    encoders = {"image": image, "text": {"name": "open_clip", "config": TEXT}, "sum": "mlp"}
    tree = {"name": "x", "data": {"name": "synthetic", "task": "image-text-xor", "samples": 64}, "objective": "clip"}
    tree |= {"model": {"dim": dim, "encoders": encoders} | more, "parallel": {"workers": 0}}
    return parse_recipe(tree | {"train": {"for": "2 steps", "batch": 32}, "log": {"tensorboard": False}})


def state(parts: Parts) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in checkpoint.under_names(parts.model, parts.objective).state_dict().items()}


def start(recipe: Recipe) -> tuple[dict[str, Tensor], dict[str, Tensor], list[str]]:
    """State before and after the initialisation, and what it said."""
    parts = build_parts(recipe)
    before = state(parts)
    assert recipe.model.init is not None
    said = initialise(parts.model, parts.objective, recipe.model.init)
    return before, state(parts), said


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "run"
    train(vectors(objective={"name": "clip", "scale": {"init": 3.0}}), path)
    return path


def weights(run: Path, step: int) -> dict[str, Tensor]:
    return load_file(run / "checkpoints" / f"step-{step}" / "model.safetensors")


@pytest.mark.parametrize(("which", "step"), [("last", 6), (4, 4)])
def test_towers_and_scale_come_from_a_run_and_the_rest_is_drawn(run: Path, which: Any, step: int) -> None:
    before, after, said = start(vectors({"from": str(run), "checkpoint": which}, "confu"))
    source = weights(run, step)
    fusion = {name for name in before if name.startswith("model.fusion.")}
    assert fusion
    assert before.keys() - fusion == source.keys()
    assert all(torch.equal(after[name], before[name] if name in fusion else source[name]) for name in after)
    assert f"step-{step}: loaded 19 tensors (encoders.a 6, encoders.b 6, encoders.c 6, objective 1)" in said[0]
    assert said[1].endswith(f"left as drawn: {len(fusion)} tensors (fusion {len(fusion)})")
    assert said[2].endswith("left over: nothing")


def test_parts_take_only_what_they_name_and_the_rest_is_left_over(run: Path) -> None:
    before, after, said = start(vectors({"from": str(run), "parts": ["encoders.b"]}))
    source = weights(run, 6)
    for name in after:
        assert torch.equal(after[name], (source if name.startswith("model.encoders.b.") else before)[name]), name
    assert said[1].endswith("left as drawn: nothing")
    assert said[2].endswith("left over: 13 tensors (encoders.a 6, encoders.c 6, objective 1)")


def test_what_does_not_fit_is_an_error_that_names_it(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"(?s)step-6 has 6 tensors of other shapes:.*\[4, 8\] there, \[5, 8\] here"):
        start(vectors(str(run), dim=5))
    with pytest.raises(ValueError, match=r"no part 'encoders.d'; did you mean 'encoders.[abc]'"):
        start(vectors({"from": str(run), "parts": ["encoders.d"]}))
    with pytest.raises(RunError, match=r"has no checkpoint '99' \(there are: last, .*4, 6\)"):
        start(vectors({"from": str(run), "checkpoint": 99}))
    with pytest.raises(RunError, match=r"neither a run folder .* nor a checkpoint file"):
        start(vectors(str(tmp_path / "none")))
    with pytest.raises(ValueError, match=r"nothing of this model is in .*it has 19 tensors \(encoders.a 6"):
        start(pictures(init={"from": str(run), "parts": ["encoders.image"]}))
    with pytest.raises(ValueError, match=r"is a file, and no encoder here is a tower of open_clip"):
        start(vectors(str(run / "recipe.yaml")))
    with pytest.raises(RecipeError, match=r"init.chekpoint: unknown key 'chekpoint'; did you mean 'checkpoint'"):
        vectors({"from": str(run), "chekpoint": 3})
    with pytest.raises(RecipeError, match=r"checkpoint: .*got 'bst'"):
        vectors({"from": str(run), "checkpoint": "bst"})


def test_a_run_starts_from_it_once_and_a_resume_does_not_read_it(run: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.symlink_to(run)
    said: list[str] = []
    whole = train(vectors(str(source), steps=5), tmp_path / "whole", say=said.append)
    assert sum(line.startswith("init") for line in said) == 3
    losses = [
        [record["train/loss"] for record in outcome.records]
        for outcome in (whole, train(vectors(steps=5), tmp_path / "drawn"))
    ]
    assert losses[0][0] != losses[1][0]
    train(vectors(str(source), steps=3, lr=0.01), tmp_path / "broken")
    source.unlink()
    said.clear()
    resumed = train(vectors(str(source), steps=5), tmp_path / "broken", say=said.append)
    assert resumed.finished
    assert not any(line.startswith("init") for line in said)
    assert not torch.equal(
        weights(tmp_path / "broken", 5)["objective.log_scales.shared"], weights(run, 6)["objective.log_scales.shared"]
    )


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_checkpoint_of_open_clip_gives_towers_scale_and_bias(tmp_path: Path, suffix: str) -> None:
    reference = open_clip.CustomTextCLIP(8, VIT, TEXT, init_logit_scale=1.25, init_logit_bias=-7.0).state_dict()
    path = tmp_path / f"model.{suffix}"
    save_file(reference, path) if suffix == "safetensors" else torch.save({"state_dict": reference}, path)
    parts = build_parts(pictures().model_copy(update={"objective": vectors(objective="siglip").objective}))
    said = initialise(parts.model, parts.objective, InitSection.model_validate(str(path)))
    after = state(parts)
    for name, x in reference.items():
        part, _, rest = name.partition(".")
        ours = {
            "visual": f"model.encoders.image.tower.{rest}",
            "text": f"model.encoders.text.tower.{rest}",
            "logit_scale": "objective.log_scales.shared",
            "logit_bias": "objective.bias",
        }[part]
        assert torch.equal(after[ours], x.reshape(after[ours].shape)), name
    assert said[1].endswith("2 tensors (encoders.sum 2)")
    assert said[2].endswith("left over: nothing")
    parts = build_parts(pictures())  # clip has no bias
    assert initialise(parts.model, parts.objective, InitSection.model_validate(str(path)))[2].endswith(
        "1 tensors (logit_bias 1)"
    )


def test_position_embeddings_follow_a_larger_image(tmp_path: Path) -> None:
    train(pictures(), tmp_path / "run")
    _, after, _ = start(pictures(init=str(tmp_path / "run"), vit=VIT | {"image_size": 32}))
    reference = open_clip.CustomTextCLIP(8, VIT | {"image_size": 32}, TEXT)
    prefix = "model.encoders.image.tower."
    saved = {f"visual.{n.removeprefix(prefix)}": x for n, x in weights(tmp_path / "run", 2).items() if prefix in n}
    open_clip.model.resize_pos_embed(saved, reference)
    assert torch.equal(after[prefix + "positional_embedding"], saved["visual.positional_embedding"])
    (tmp_path / "x.pt").write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match=r"x.pt' is no checkpoint that can be read here"):
        start(pictures(init=str(tmp_path / "x.pt")))


# --- learning rates by depth


def exponents(encoder: Any, decay: float = 0.5) -> dict[str, int]:
    """How many layers below the top each parameter lies, by its factor."""
    scales = layer_lr_scales({"x": encoder}, decay)
    table = {decay**n: n for n in range(40)}
    return {name: table[scales[p]] for name, p in encoder.named_parameters()}


def test_the_table_of_depths() -> None:
    """{layers below the projection: the modules there}, of each kind of tower."""
    trunk = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 64}
    tables: list[tuple[Any, dict[int, set[str]]]] = [
        (
            OpenCLIP(Modality("image"), 8, config=VIT),
            {
                0: {"tower.ln_post", "tower.proj"},
                1: {"tower.transformer.resblocks.1"},
                2: {"tower.transformer.resblocks.0"},
                3: {"tower.class_embedding", "tower.positional_embedding", "tower.conv1", "tower.ln_pre"},
            },
        ),
        (
            OpenCLIP(Modality("text"), 8, config=TEXT),
            {
                0: {"tower.ln_final", "tower.text_projection"},
                1: {"tower.transformer.resblocks.1"},
                2: {"tower.transformer.resblocks.0"},
                3: {"tower.token_embedding", "tower.positional_embedding"},
            },
        ),
        (
            OpenCLIP(Modality("image"), 8, config=trunk),
            {
                0: {"tower.head"},
                1: {"tower.trunk.norm"} | {"tower.trunk.blocks.5"},
                **{6 - i: {f"tower.trunk.blocks.{i}"} for i in range(5)},
                7: {"tower.trunk.cls_token", "tower.trunk.pos_embed", "tower.trunk.patch_embed"},
            },
        ),
    ]
    for encoder, table in tables:
        for name, depth in exponents(encoder).items():
            (found,) = [
                n for n, modules in table.items() if any(name == m or name.startswith(f"{m}.") for m in modules)
            ]
            assert depth == found, name


@pytest.mark.parametrize("trunk", ["test_vit", "test_convnext2", "edgenext_xx_small"])
def test_trunks_decay_as_in_timm(trunk: str) -> None:
    config = {"timm_model_name": trunk, "timm_pool": "avg", "timm_proj": "", "image_size": 64}  # its own classifier
    encoder = OpenCLIP(Modality("image"), 8, config=config)
    ours = layer_lr_scales({"x": encoder}, 0.75)
    groups = param_groups_layer_decay(encoder.tower.trunk, layer_decay=0.75)
    assert len({group["lr_scale"] for group in groups}) > 3
    for group in groups:
        assert all(ours[p] == group["lr_scale"] for p in group["params"])


def test_rates_follow_depth_and_schedule_together() -> None:
    recipe = vectors(objective="confu", layer_decay=0.75, warmup="2 steps", lr=0.02)
    parts = build_parts(recipe)
    engine = build_engine(parts, Parallel(), Metrics(None))
    batches = engine.batches(0)
    for step in range(6):
        engine.step = step
        engine.train_step(next(batches))
        rate = {p: group["lr"] for group in engine.optimizer.param_groups for p in group["params"]}
        base = Schedule(0.02, 2, 6).rate(step)
        both = checkpoint.under_names(parts.model, parts.objective)
        for name, p in both.named_parameters():
            if not p.requires_grad:  # the scale of confu
                continue
            below = {"0": 2, "3": 1, "6": 0}[name.split(".")[4]] if name.startswith("model.encoders.") else 0
            assert rate[p] == pytest.approx(base * 0.75**below, rel=1e-12), name
    decays = {p: group["weight_decay"] for group in engine.optimizer.param_groups for p in group["params"]}
    assert all((decays[p] > 0) == (p.ndim >= 2) for p in parts.model.parameters())


def test_a_tower_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train.layer_decay=0.75: none of the encoders says how deep"):
        layer_lr_scales({"x": Encoder()}, 0.75)
    with pytest.raises(RecipeError, match="layer_decay"):
        vectors(layer_decay=1.5)


# --- frozen towers


def test_a_locked_image_tower_stays_what_the_earlier_run_made_of_it(tmp_path: Path) -> None:
    """LiT (arXiv 2111.07991): the image tower from an earlier run, the text tower from scratch."""
    train(pictures(), tmp_path / "first")
    recipe = pictures(lock=0, init={"from": str(tmp_path / "first"), "parts": ["encoders.image"]})
    drawn = state(build_parts(recipe))
    train(recipe, tmp_path / "second")
    first, second = weights(tmp_path / "first", 2), weights(tmp_path / "second", 2)
    for name, x in second.items():
        if name.startswith("model.encoders.image."):
            assert torch.equal(x, first[name]), name
    assert not torch.equal(
        second["model.encoders.text.tower.text_projection"], drawn["model.encoders.text.tower.text_projection"]
    )
    moments = load_file(tmp_path / "second" / "checkpoints" / "step-2" / "optimizer.safetensors")
    assert moments
    assert not any(name.startswith("model.encoders.image.") for name in moments)


def test_processes_average_no_gradient_of_a_frozen_tower(tmp_path: Path) -> None:
    frozen, free = torch.nn.Parameter(torch.ones(3), requires_grad=False), torch.nn.Parameter(torch.ones(2))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        free.grad = torch.ones(2)
        Parallel.join().average_gradients([frozen, free])
    finally:
        dist.destroy_process_group()
    assert frozen.grad is None
    assert torch.equal(free.grad, torch.ones(2))


def test_frozen_parameters_are_counted_apart() -> None:
    found, free = cost(pictures(lock=0)), cost(pictures())
    assert found.parameters == free.parameters
    assert found.frozen == {"image": found.parameters["image"]}
    assert free.frozen == {}
    assert free.state_bytes - found.state_bytes == 12 * found.parameters["image"]


def test_a_model_that_is_frozen_whole_is_refused() -> None:
    recipe = pictures(lock=0)
    tree = recipe.as_dict()
    tree["model"]["encoders"] = {
        "image": tree["model"]["encoders"]["image"],
        "text": tree["model"]["encoders"]["text"] | {"lock": 0},
    }
    with pytest.raises(RecipeError, match="every parameter of the model is frozen"):
        cost(parse_recipe(tree))
