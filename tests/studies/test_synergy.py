"""Critics and questions: who is a negative, what is held out, and closed forms that small critics have to find."""

import math
from collections.abc import Sequence

import pytest
import torch

from kernels import multi_positive_infonce
from workbench.studies.synergy import critics, questions
from workbench.studies.synergy.critics import Bank, Critic, Trial, divide, draw_batches, fit, usable_nats
from workbench.studies.synergy.questions import Question, Study, _Set, _share, ask_about, choose_batch
from workbench.studies.synergy.samples import Numbers, read


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(critics, "STEPS", 20)


def numbers_of(inputs: dict[str, torch.Tensor], ids: torch.Tensor | None = None) -> Numbers:
    n = len(next(iter(inputs.values())))
    there = {name: torch.ones(n, dtype=torch.bool) for name in inputs}
    return Numbers(inputs, there, torch.arange(n) if ids is None else ids, frozenset(inputs), rows=n)


def test_no_batch_has_an_id_twice_and_a_pass_has_every_id_once() -> None:
    ids = torch.tensor([7, 7, 7, 1, 2, 3, 3, 4, 5, 6])
    batches = draw_batches(ids, 3, 40, torch.Generator().manual_seed(0))
    assert [len(ids[chosen].unique()) for chosen in batches] == [3] * 40
    for one_pass in zip(batches[::2], batches[1::2], strict=True):
        assert len(ids[torch.cat(one_pass)].unique()) == 6  # of seven ids; the last one fills no batch


def test_too_few_ids_for_a_batch_are_said() -> None:
    with pytest.raises(ValueError, match="2 different ids do not fill a batch of 3"):
        draw_batches(torch.tensor([1, 1, 1, 2]), 3, 1, torch.Generator())


def test_every_id_is_held_out_once_and_never_on_two_sides() -> None:
    ids = torch.randint(0, 40, (200,))
    parts = divide(ids, 5, seed=3)
    assert sorted(torch.cat([part.held_out for part in parts]).tolist()) == list(range(200))
    for part in parts:
        sides = [set(ids[rows].tolist()) for rows in part]
        assert sum(map(len, sides)) == len(ids.unique())
        assert sum(map(len, part)) == 200
    assert all(map(torch.equal, parts[2], divide(ids, 5, seed=3)[2]))


def test_a_sum_of_scores_is_one_inner_product() -> None:
    x = {name: torch.randn(6, 3) for name in "abz"}
    critic = Critic((("a",), ("b",), ("a", "b")), "z", dict.fromkeys("abz", 3), ())
    queries, targets = critic(x)
    scales = [float(log_scale.detach().exp()) for log_scale in critic.log_scales]
    parts = zip(queries.split(critics.DIM, 1), targets.split(critics.DIM, 1), scales, strict=True)
    cosines = [s * torch.cosine_similarity(q[:, None], t[None], dim=2) for q, t, s in parts]
    assert torch.allclose(queries @ targets.T, sum(cosines), atol=1e-4)  # type: ignore[arg-type]


def test_usable_nats_are_what_a_plain_formula_says() -> None:
    queries, targets = torch.randn(2, 4, 12, 5, dtype=torch.float64)
    found = usable_nats(queries, targets)
    assert found.shape == (4,)
    for one, query, target in zip(found, queries, targets, strict=True):
        loss = multi_positive_infonce(query, target, torch.ones(1), torch.arange(12), torch.arange(12))
        assert float(one) == pytest.approx(math.log(12) - float(loss), abs=1e-9)


def test_a_bank_gives_each_critic_its_own_rows_value_and_gradient() -> None:
    x = {name: torch.randn(20, 3) for name in "abz"}
    critics_ = [Critic((("a",), ("b",), ("a", "b")), "z", dict.fromkeys("abz", 3), ("a",)) for _ in range(3)]
    for critic in critics_:
        critic.measure({name: values[torch.randperm(20)[:9]] for name, values in x.items()})
    rows = torch.stack([torch.randperm(20)[:6] for _ in critics_])
    bank = Bank(critics_)
    found = bank.nats(x, rows)
    found.sum().backward()
    for place, (critic, own) in enumerate(zip(critics_, rows, strict=True)):
        alone = usable_nats(*critic({name: values[own] for name, values in x.items()}))
        alone.backward()
        assert found[place].item() == pytest.approx(alone.item(), abs=1e-5)
        for name, weight in critic.named_parameters():
            stacked = bank.weights[name].grad
            assert stacked is not None
            torch.testing.assert_close(stacked[place], weight.grad, atol=1e-5, rtol=1e-4)


def test_a_bank_keeps_the_averages_of_those_that_got_better() -> None:
    bank = Bank([Critic((("a",),), "z", {"a": 2, "z": 2}, ()) for _ in range(2)])
    name = "heads.a.weight"
    first = bank.averages[name].clone()
    assert bank.keep(torch.tensor([1.0, 1.0]))
    with torch.no_grad():
        bank.weights[name] += 1
    bank.average(step=100)
    assert torch.allclose(bank.averages[name], first + 1 - critics.AVERAGING, atol=1e-6)
    assert not bank.keep(torch.tensor([0.9, 1.0 + critics.BETTER / 2]))
    assert torch.equal(bank.kept[name][0], first[0])
    assert torch.equal(bank.kept[name][1], bank.averages[name][1])


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_a_fit_is_a_function_of_its_seed_alone() -> None:
    numbers = numbers_of({name: torch.randn(64, 2) for name in "abc"})
    rows, parts = torch.arange(64), divide(torch.arange(64), 3, 0)
    before = torch.get_rng_state()
    first, again, other = (
        fit(Trial((("a",), ("b",)), "c"), numbers, rows, parts, batch=4, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert first == again != other


@pytest.mark.usefixtures("short")
def test_a_critic_of_a_bank_is_trained_as_if_it_were_alone() -> None:
    numbers = numbers_of({name: torch.randn(80, 2) for name in "abc"})
    rows, parts = torch.arange(80), divide(torch.arange(80), 3, 0)
    trial = Trial((("a",), ("b",)), "c")
    together, alone = (fit(trial, numbers, rows, some, batch=4, seed=1) for some in (parts, parts[:1]))
    assert together[0] == pytest.approx(alone[0], abs=1e-4)
    assert together[0].nats != together[0].from_half


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "target", "settings", "gain", "fused"),
    [
        ("xor", "c", ("bits=1",), "fuse", math.log(2)),
        ("uniqueness", "y", ("size=2",), "pairs are enough", math.log(2)),
    ],
)
def test_one_bit_is_told_as_theory_says(
    task: str, target: str, settings: tuple[str, ...], gain: str, fused: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(critics, "STEPS", 150)
    numbers = read(task, settings=settings, samples=640)
    question = ask_about(numbers, [target])[0]
    (answer,) = Study(numbers, [question], parts=3).answer()
    assert answer.batch == 32
    assert answer.exact is not None
    assert answer.exact["fused"] == pytest.approx(fused, abs=0.02)  # a finite batch
    found = {**answer.single, "summed": answer.summed, "fused": answer.fused, "gain": answer.gain}
    for critic, value in found.items():
        assert value.low - 1e-4 <= answer.exact[critic] <= value.high + 1e-4, critic
    assert answer.word == gain
    assert answer.fused.mean > 0.6


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_each_pair_is_asked_once_for_both_sides() -> None:
    numbers = read("xor", settings=("bits=1",), samples=320)
    told: list[tuple[int, int]] = []
    answers = Study(numbers, ask_about(numbers, []), parts=3).answer(1, lambda done, of: told.append((done, of)))
    assert told == [(done, 9) for done in range(10)]  # three pairs, three sums, three fused
    assert answers[0].single["b"] == answers[1].single["a"]  # a of b is b of a


def share_of_short_fits(sets: Sequence[_Set], numbers: Numbers, seed: int) -> None:
    """Stand in for `_share`, which each process calls first."""
    critics.STEPS = 20
    _share(sets, numbers, seed)


@pytest.mark.slow
@pytest.mark.usefixtures("short", "no_new_interpreter")
def test_two_processes_give_the_same_numbers_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "_share", share_of_short_fits)
    numbers = read("xor", settings=("bits=1",), samples=320)
    study = Study(numbers, ask_about(numbers, ["c"]), parts=3, seed=4)
    assert study.answer(2) == study.answer(1)


def test_rows_without_one_of_the_three_are_left_out_and_counted() -> None:
    numbers = read("missing", samples=1000)
    question = Question("c", "a", "b")
    own = Study(numbers, [question])._prepare(question)
    complete = torch.stack([numbers.present[name] for name in "abc"]).all(0)
    assert torch.equal(own.rows, complete.nonzero()[:, 0])
    assert 400 < len(own.rows) < 620  # .8 to the third


def test_what_never_occurs_together_is_said_with_its_numbers() -> None:
    numbers = read("hub", samples=400)
    with pytest.raises(ValueError, match=r"no sample has audio, image, text together \(rows: audio \d+, image 400"):
        Study(numbers, [Question("audio", "image", "text")]).answer()


@pytest.mark.parametrize(
    ("samples", "wanted", "batch"),
    [(5120, None, 256), (5119, None, 128), (320, None, 16), (700, None, 32), (320, 8, 8)],
)
def test_the_batch_is_as_large_as_the_samples_allow(samples: int, wanted: int | None, batch: int) -> None:
    assert choose_batch(samples, wanted) == batch


@pytest.mark.parametrize(
    ("samples", "wanted", "said"),
    [(319, None, "319 samples .* takes 320$"), (1000, 256, "takes 5,120, or lower --batch to 50")],
)
def test_too_few_samples_are_told_with_the_number_that_it_takes(samples: int, wanted: int | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        choose_batch(samples, wanted)


def test_questions_are_every_target_with_every_pair_of_others_and_labels_only_targets() -> None:
    inputs = {name: torch.zeros(3, 1) for name in ("image", "text", "speech", "genre")}
    there = dict.fromkeys(inputs, torch.ones(3, dtype=torch.bool))
    numbers = Numbers(inputs, there, torch.arange(3), labels=("genre",))
    asked = ask_about(numbers, [])
    assert len(asked) == 3 + 3
    assert {question.target for question in asked if "genre" in question} == {"genre"}
    assert ask_about(numbers, ["text"]) == [Question("text", "image", "speech")]


def test_two_fields_are_one_message_with_what_could_be_third() -> None:
    inputs = {name: torch.zeros(3, 1) for name in ("image", "text")}
    there = dict.fromkeys(inputs, torch.ones(3, dtype=torch.bool))
    numbers = Numbers(inputs, there, torch.arange(3), others=("genre",))
    with pytest.raises(ValueError, match=r"takes three, and the data has image and text: .*--target: genre"):
        ask_about(numbers, [])
    assert questions.SMALLEST == 16
