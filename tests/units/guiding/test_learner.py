"""One step of ψ and φ against three references: `higher`, functional_call, and Eq. 16 in a loop."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sgdl_wrap import DenoiserConfig
from sgdl_wrap.equations.selection import gumbel_noise
from sgdl_wrap.guiding.guidance import Guidance
from sgdl_wrap.guiding.learner import MetaStep, SelfGuidedLearner
from sgdl_wrap.guiding.weighting import Objective
from sgdl_wrap.model.streams import RandomStreams
from sgdl_wrap.model.twin import Elsewhere, Lookahead
from tests.support.models_zoo import (
    SWITCHING,
    UNROLLED,
    ZOO,
    Case,
    assert_identical,
    make,
    relative_gap,
    seeded,
    settled,
    snapshot,
    stream_states,
    tiny_data,
    tiny_denoiser,
    triple_epoch,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # an invalid escape in its source
    import higher

ETA = 0.3
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
# dividing by the mean takes the difference of nearly equal numbers; how much of float32 that costs
# depends on the processor's kernels (6.6e-5 was seen), float64 shows that it is exact
CANCELLATION = {"none": 1.0, "mean": 20.0}
DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32], ids=["float64", "float32"]
)
NORMALIZATIONS = pytest.mark.parametrize("normalization", ["none", "mean"])
ENTROPIES = pytest.mark.parametrize("entropy", [0.0, 0.7])


class Scene:
    """A learner before its first step, with a history of visits, and all that step reads."""

    def __init__(self, case: Case, config: DenoiserConfig) -> None:
        self.case, self.config = case, config
        n = len(case.guidance["item"] if isinstance(case.guidance, dict) else case.guidance[0])
        self.memorized = np.arange(3, 3 + 2 * n)
        self.ids = self.memorized[1 : n + 1]
        self.learner = SelfGuidedLearner(
            self.memorized, config, device=torch.device("cpu"), dtype=case.dtype
        )
        # ψ starts with zero biases; anywhere else tells more
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for p in self.learner.weighting.parameters():
                p.add_(0.3 * torch.randn(p.shape, generator=generator).to(p))
        self.visits: dict[int, list[Tensor]] = {}
        self._visit(self.ids[: n // 2], generator)
        self._visit(self.ids[n // 4 :], generator)
        self._visit(self.ids[:2], generator)
        self.lookahead = Lookahead(case.model, case.loss_fn)
        streams = partial(RandomStreams(0).own, torch.device("cpu"))
        self.elsewhere = Elsewhere(self.lookahead, streams)
        self.guidance = Guidance(case.guidance, None, self.ids)
        psi = self.learner.weighting.parameters()
        self.psi = [p.detach().clone().requires_grad_() for p in psi]

    def _visit(self, ids: np.ndarray, generator: torch.Generator) -> None:
        losses = torch.rand(len(ids), generator=generator).to(self.case.dtype)
        products = torch.randn(len(ids), generator=generator).to(self.case.dtype)
        self.learner.selector.record(ids, losses, products)
        for place, number in enumerate(ids.tolist()):
            self.visits.setdefault(number, []).append(torch.stack([losses[place], products[place]]))

    def learn(self) -> MetaStep:
        losses = self.case.loss_fn(self.case.model, self.case.batch)
        return self.learner.learn(
            losses, losses.detach()[:, None], self.guidance, self.elsewhere,
            assumed_lr=ETA,
        )

    def weights(self, psi: list[Tensor], losses: Tensor) -> Tensor:
        """g(L.detach(); ψ), written out."""
        first, first_bias, second, second_bias = psi
        hidden = torch.relu(losses.detach()[:, None] @ first.T + first_bias)
        weights = torch.sigmoid(hidden @ second.T + second_bias)[:, 0]
        divides = self.config.variants.weight_normalization == "mean"
        return weights / weights.mean() if divides else weights

    def unevenness(self, psi: list[Tensor], losses: Tensor, products: Tensor) -> Tensor:
        """(η1/B) λ s m Σ_k v_k log v_k, m the mean of the weights, v = w / m, s the spread of p."""
        weights = self.weights(psi, losses)
        mean = weights.mean()
        relative = weights / mean
        spread = ((products - products.mean()) ** 2).mean().sqrt().detach()
        strength = self.config.variants.weighting_entropy * spread * mean.detach()
        return ETA / len(losses) * strength * (relative * torch.log(relative)).sum()


class _Dispatcher(nn.Module):
    """The loss as a forward of its own, so that calls of submodules are functional too."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.model, self.loss_fn = case.model, case.loss_fn

    def forward(self, batch: Any) -> Tensor:
        return self.loss_fn(self.model, batch)


def losses_unrolled_by_higher(scene: Scene) -> Tensor:
    case = scene.case
    dispatcher = _Dispatcher(case)
    functional = higher.monkeypatch(
        dispatcher, copy_initial_weights=False, track_higher_grads=True
    )
    sgd = torch.optim.SGD(dispatcher.parameters(), lr=ETA)
    optimizer = higher.get_diff_optim(
        sgd, list(dispatcher.parameters()), fmodel=functional, track_higher_grads=True
    )
    losses = functional(case.batch)
    optimizer.step((scene.weights(scene.psi, losses) * losses).sum() / len(losses))
    return functional(case.guidance)


def losses_unrolled_by_functional_call(scene: Scene) -> Tensor:
    case = scene.case
    dispatcher = _Dispatcher(case)
    aliases: dict[nn.Parameter, list[str]] = {}
    for path, module in dispatcher.named_modules():  # each module once
        for name, parameter in module._parameters.items():
            if parameter is not None:
                aliases.setdefault(parameter, []).append(f"{path}.{name}" if path else name)

    def losses_at(values: dict[nn.Parameter, Tensor], batch: Any) -> Tensor:
        named = {name: value for p, value in values.items() for name in aliases[p]}
        return torch.func.functional_call(dispatcher, named, (batch,), tie_weights=False)

    theta = {p: p for p in aliases}
    losses = losses_at(theta, case.batch)
    objective = (scene.weights(scene.psi, losses) * losses).sum() / len(losses)
    trained = [p for p in aliases if p.requires_grad]
    found = torch.autograd.grad(objective, trained, create_graph=True, allow_unused=True)
    moved = dict(theta)
    for parameter, gradient in zip(trained, found, strict=True):
        if gradient is not None:
            moved[parameter] = parameter - ETA * gradient
    return losses_at(moved, case.guidance)


def psi_gradient_in_a_loop(scene: Scene, shares: Tensor) -> list[Tensor]:
    """Eq. 16: -(η1/B) Σ_k <∇(guidance)(θ̂), ∇L_k(θ)> dw_k/dψ."""
    case = scene.case
    theta = case.trainable()
    losses = case.loss_fn(case.model, case.batch)
    weights = scene.weights(scene.psi, losses)
    per_sample = []
    for k in range(len(losses)):
        found = torch.autograd.grad(losses[k], theta, retain_graph=True, allow_unused=True)
        per_sample.append(_flat(found, theta))
    step = sum(w * g for w, g in zip(weights.detach(), per_sample, strict=True)) / len(losses)
    originals = [p.detach().clone() for p in theta]
    pieces = step.split([p.numel() for p in theta])
    with torch.no_grad():
        for p, piece in zip(theta, pieces, strict=True):
            p.sub_(ETA * piece.view_as(p))
    guidance = (shares * case.loss_fn(case.model, case.guidance)).sum()
    outer = _flat(torch.autograd.grad(guidance, theta, allow_unused=True), theta)
    with torch.no_grad():
        for p, original in zip(theta, originals, strict=True):
            p.copy_(original)
    products = torch.stack([outer @ gradient for gradient in per_sample])
    total = (weights * (-ETA / len(losses) * products)).sum()
    total = total + scene.unevenness(scene.psi, losses, products)
    return list(torch.autograd.grad(total, scene.psi))


def _flat(gradients: Any, like: list[Any]) -> Tensor:
    return torch.cat([
        (torch.zeros_like(p) if g is None else g).flatten()
        for g, p in zip(gradients, like, strict=True)
    ])


# ------------------------------------------------------------------ ψ


@DTYPES
@NORMALIZATIONS
@ENTROPIES
@pytest.mark.parametrize("scheduler", ["lstm", "none"])
@pytest.mark.parametrize("name", UNROLLED)
@pytest.mark.parametrize(
    "unrolled",
    [losses_unrolled_by_higher, losses_unrolled_by_functional_call],
    ids=["higher", "functional_call"],
)
def test_weighting_gradient_equals_a_full_unroll(
    unrolled: Callable[[Scene], Tensor],
    name: str,
    scheduler: str,
    entropy: float,
    normalization: str,
    dtype: torch.dtype,
) -> None:
    config = settled(
        weight_normalization=normalization, weighting_entropy=entropy,
        denoising_scheduler=scheduler, gumbel_draws=4,
    )
    scene = Scene(make(name, dtype), config)
    train_losses = scene.case.loss_fn(scene.case.model, scene.case.batch).detach()
    step = scene.learn()
    losses = unrolled(scene)
    guidance_loss = (step.shares * losses).sum()
    objective = guidance_loss + scene.unevenness(scene.psi, train_losses, step.alignments.rows)
    expected = torch.autograd.grad(objective, scene.psi)
    tolerance = TOLERANCE[dtype] * CANCELLATION[normalization]
    assert relative_gap(step.weighting_gradients, list(expected)) <= tolerance
    assert relative_gap([step.guidance_loss], [guidance_loss]) <= TOLERANCE[dtype]
    assert float(step.shares.sum()) == pytest.approx(1.0, abs=1e-5)


@DTYPES
@NORMALIZATIONS
@ENTROPIES
@pytest.mark.parametrize("name", UNROLLED)
def test_weighting_gradient_equals_equation_16_in_a_loop(
    name: str, entropy: float, normalization: str, dtype: torch.dtype
) -> None:
    config = settled(
        weight_normalization=normalization, weighting_entropy=entropy, gumbel_draws=4
    )
    scene = Scene(make(name, dtype), config)
    step = scene.learn()
    expected = psi_gradient_in_a_loop(scene, step.shares)
    tolerance = TOLERANCE[dtype] * CANCELLATION[normalization]
    assert relative_gap(step.weighting_gradients, expected) <= tolerance


@NORMALIZATIONS
def test_weights_that_are_all_zero_have_finite_gradients(normalization: str) -> None:
    config = settled(weight_normalization=normalization, weighting_entropy=0.7)
    scene = Scene(make("mlp", torch.float32), config)
    with torch.no_grad():
        scene.learner.weighting.output.bias.fill_(-200)
    for gradient in scene.learn().weighting_gradients:
        assert bool(gradient.isfinite().all())


def test_rows_of_a_whole_guidance_batch_are_the_samples_that_guide() -> None:
    case = make("mlp", torch.float64)
    scene = Scene(case, settled(denoising_scheduler="none"))
    rows = torch.tensor([1, 4, 5])
    scene.guidance = Guidance(case.guidance, rows, scene.ids[:3])
    step = scene.learn()
    guidance_loss = losses_unrolled_by_functional_call(scene)[rows].mean()
    expected = torch.autograd.grad(guidance_loss, scene.psi)
    assert relative_gap(step.weighting_gradients, list(expected)) <= 1e-10


def test_psi_takes_one_step_of_adam_with_that_gradient() -> None:
    scene = Scene(make("neumf", torch.float64), settled(meta_lr=0.02))
    step = scene.learn()
    reference = torch.optim.Adam(scene.psi, lr=0.02)
    for parameter, gradient in zip(scene.psi, step.weighting_gradients, strict=True):
        parameter.grad = gradient.clone()
    reference.step()
    found = list(scene.learner.weighting.parameters())
    assert relative_gap(found, scene.psi) <= 1e-12
    assert all(p.grad is None for p in found)


def test_learning_lowers_the_guidance_loss() -> None:
    scene = Scene(
        make("mlp", torch.float64),
        settled(denoising_scheduler="none", meta_lr=0.05, weight_normalization="none"),
    )
    course = [float(scene.learn().guidance_loss) for _ in range(40)]
    assert course[-1] < course[0]
    assert course == sorted(course, reverse=True)


# ------------------------------------------------------------------ φ


def scheduler_logits(scheduler: nn.Module, phi: dict[str, Tensor], visits: list[Tensor]) -> Tensor:
    """o_m of one sample from its own visits, the LSTM cell written out (or the MLP)."""
    output = [phi["output.weight"], phi["output.bias"]]
    if "hidden.weight" in phi:
        hidden = torch.relu(phi["hidden.weight"] @ visits[-1] + phi["hidden.bias"])
        return (output[0] @ hidden + output[1])[0]
    named = {name.split(".")[-1]: value for name, value in phi.items()}
    size = named["weight_hh_l0"].shape[1]
    h = c = torch.zeros(size, dtype=visits[0].dtype)
    for x in visits:
        gates = named["weight_ih_l0"] @ x + named["weight_hh_l0"] @ h + named["bias_ih_l0"]
        if "bias_hh_l0" in named:
            gates = gates + named["bias_hh_l0"]
        i, f, g, o = gates.split(size)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
    return (output[0] @ h + output[1])[0]


def first_adam_gradient(optimizer: torch.optim.Optimizer, parameters: list[Any]) -> list[Tensor]:
    """After one step of Adam, exp_avg is (1 - β1) times the gradient."""
    beta = optimizer.param_groups[0]["betas"][0]
    return [optimizer.state[p]["exp_avg"] / (1 - beta) for p in parameters]


@DTYPES
@NORMALIZATIONS
@pytest.mark.parametrize(("scheduler", "entropy"), [("lstm", 0.0), ("lstm", 2.5), ("mlp", 0.3)])
@pytest.mark.parametrize("name", UNROLLED)
def test_scheduler_gradient_equals_the_reference(
    name: str, scheduler: str, entropy: float, normalization: str, dtype: torch.dtype
) -> None:
    config = settled(
        denoising_scheduler=scheduler,
        denoising_scheduler_entropy=entropy,
        denoising_scheduler_hidden=6,
        weight_normalization=normalization,
        gumbel_draws=7,
        gumbel_tau=0.8,  # at 0.05 most draws have no gradient left
        factor_history=2,
    )
    scene = Scene(make(name, dtype), config)
    module = scene.learner.selector.network
    assert module is not None
    phi = {n: p.detach().clone().requires_grad_() for n, p in module.named_parameters()}
    generator = torch.Generator()
    generator.set_state(scene.learner.generator.get_state())
    noise = gumbel_noise(torch.rand(7, len(scene.ids), generator=generator)).to(dtype)
    step = scene.learn()
    assumed = losses_unrolled_by_functional_call(scene).detach()

    never = [torch.zeros(2, dtype=dtype)]
    logits = torch.stack([
        scheduler_logits(module, phi, scene.visits.get(number, never)[-2:])
        for number in scene.ids.tolist()
    ])
    bracket = torch.log(torch.softmax(logits, 0)) + noise
    draws = F.one_hot(bracket.argmax(1), len(scene.ids)).to(dtype)
    assert torch.allclose(step.shares, draws.mean(0), atol=1e-6)
    soft = torch.softmax(bracket / 0.8, dim=1).mean(0)
    probabilities = torch.softmax(logits, 0)
    spread = ((assumed - assumed.mean()) ** 2).mean().sqrt()
    disorder = -(probabilities * torch.log(probabilities)).sum()
    objective = (soft * assumed).sum() - entropy * spread * disorder
    expected = torch.autograd.grad(objective, list(phi.values()))
    found = first_adam_gradient(scene.learner.optimizer, list(module.parameters()))
    # the entropy's gradient nearly vanishes at a π that is nearly uniform, by cancellation
    cancellation = 5.0 if entropy > 0 else 1.0
    assert relative_gap(found, list(expected)) <= cancellation * TOLERANCE[dtype]


def test_phi_takes_one_step_of_adam_at_its_own_rate_beside_psi() -> None:
    config = settled(meta_lr=0.02, denoising_scheduler_lr=0.007, gumbel_tau=0.8)
    scene = Scene(make("neumf", torch.float64), config)
    module = scene.learner.selector.network
    assert module is not None
    phi = [p.detach().clone().requires_grad_() for p in module.parameters()]
    step = scene.learn()
    found = list(module.parameters())
    gradients = first_adam_gradient(scene.learner.optimizer, found)
    for group, gradient in ((scene.psi, step.weighting_gradients), (phi, gradients)):
        for parameter, value in zip(group, gradient, strict=True):
            parameter.grad = value.clone()
    torch.optim.Adam([{"params": scene.psi, "lr": 0.02}, {"params": phi, "lr": 0.007}]).step()
    assert relative_gap(found, phi) <= 1e-12
    assert relative_gap(list(scene.learner.weighting.parameters()), scene.psi) <= 1e-12
    assert all(p.grad is None for p in found)


def test_memorized_negatives_share_equally_and_the_scheduler_divides_the_rest() -> None:
    case = make("mlp", torch.float64)
    scene = Scene(case, settled(gumbel_draws=16))
    ids = scene.ids.copy()
    negatives = np.array([0, 3, 4])
    ids[negatives] = -1
    scene.guidance = Guidance(case.guidance, None, ids)
    shares = scene.learn().shares
    assert torch.allclose(shares[negatives], torch.full((3,), 1 / len(ids), dtype=torch.float64))
    assert float(shares.sum()) == pytest.approx(1.0)
    rest = shares[ids >= 0] * 16 * len(ids) / (len(ids) - 3)  # whole numbers of draws
    assert torch.allclose(rest, rest.round(), atol=1e-9)


@pytest.mark.parametrize("steps_before", [0, 2], ids=["at rest", "with momentum"])
def test_guidance_of_negatives_alone_leaves_the_scheduler_as_it_is(steps_before: int) -> None:
    case = make("mlp", torch.float64)
    scene = Scene(case, settled())
    for _ in range(steps_before):
        scene.learn()
    psi = [p.detach().clone() for p in scene.learner.weighting.parameters()]
    scene.guidance = Guidance(case.guidance, None, np.full_like(scene.ids, -1))
    module = scene.learner.selector.network
    assert module is not None
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    shares = scene.learn().shares
    assert torch.allclose(shares, torch.full_like(shares, 1 / len(shares)))
    assert_identical({n: p.detach() for n, p in module.named_parameters()}, before)
    now = scene.learner.weighting.parameters()
    assert not any(torch.equal(p, old) for p, old in zip(now, psi, strict=True))


def test_the_better_half_of_the_latest_visits_guides_under_top_f() -> None:
    scene = Scene(make("mlp", torch.float64), settled(denoising_scheduler="top_f"))
    zero = torch.zeros(2, dtype=torch.float64)
    latest = torch.stack([
        scene.visits.get(number, [zero])[-1] for number in scene.ids.tolist()
    ]).numpy()
    total = ((latest - latest.mean(0)) / latest.std(0)).sum(1)
    half = (len(total) + 1) // 2
    better = set(sorted(range(len(total)), key=lambda place: -total[place])[:half])
    shares = scene.learn().shares.tolist()
    assert {place for place, share in enumerate(shares) if share > 0} == better
    assert all(share in (0.0, pytest.approx(1 / half)) for share in shares)


def test_paper_similarity_records_the_cosines_of_equation_10() -> None:
    case = make("mlp", torch.float64)
    scene = Scene(case, settled(similarity="paper", factor_history=1))
    theta = case.trainable()

    def per_sample() -> tuple[Tensor, list[Tensor]]:
        losses = case.loss_fn(case.model, case.guidance)
        return losses.detach(), [
            _flat(torch.autograd.grad(loss, theta, retain_graph=True), theta) for loss in losses
        ]

    losses, here = per_sample()
    training = case.loss_fn(case.model, case.batch)
    objective = (scene.weights(scene.psi, training).detach() * training).mean()
    step = torch.autograd.grad(objective, theta)
    scene.learn()
    with torch.no_grad():
        for p, g in zip(theta, step, strict=True):
            p.sub_(ETA * g)
    _, there = per_sample()
    cosines = [float(F.cosine_similarity(a, b, dim=0)) for a, b in zip(here, there, strict=True)]
    assert scene.learner.selector.factors is not None
    slots = scene.learner.selector.factors.slots(scene.ids)
    factors, visits = map(torch.from_numpy, scene.learner.selector.factors.sequences(slots))
    assert visits.tolist() == [1] * len(scene.ids)
    assert torch.allclose(factors[0, :, 0], losses, rtol=1e-12)
    assert factors[0, :, 1].tolist() == pytest.approx(cosines, abs=1e-12)


# ------------------------------------------------------------------ what stays as it is


@pytest.mark.parametrize("similarity", ["alignment", "paper"])
@pytest.mark.parametrize("name", ZOO)
def test_learning_leaves_everything_of_the_users_as_it_is(name: str, similarity: str) -> None:
    case = make(name)
    optimizer = torch.optim.Adam(case.trainable(), lr=0.01)
    with seeded(4):
        case.loss_fn(case.model, case.batch).sum().backward()
        optimizer.step()  # gradients stay behind, as in a user's loop
        scene = Scene(case, settled(similarity=similarity))
        losses = case.loss_fn(case.model, case.batch)
        before, streams = snapshot(case.model, optimizer), stream_states()
        for _ in range(2):
            scene.learner.learn(
                losses, losses.detach()[:, None], scene.guidance, scene.elsewhere,
                assumed_lr=ETA,
            )
        assert_identical(snapshot(case.model, optimizer), before)
        assert stream_states() == streams
        losses.mean().backward()  # the graph of L(θ) still serves the actual update


def test_the_same_seed_learns_the_same_and_the_state_carries_on() -> None:
    first = Scene(make("neumf"), settled(gumbel_draws=3))
    second = Scene(make("neumf"), settled(gumbel_draws=3))
    first.learn()
    second.learn()
    assert_identical(first.learner.state_dict(), second.learner.state_dict())
    third = Scene(make("neumf"), settled(gumbel_draws=3))
    third.learner.load_state_dict(copy.deepcopy(first.learner.state_dict()))
    first.learn()
    third.learn()
    assert_identical(third.learner.state_dict(), first.learner.state_dict())


def test_a_state_taken_earlier_does_not_change_by_learning_on() -> None:
    scene = Scene(make("mlp"), settled())
    scene.learn()
    state = scene.learner.state_dict()
    kept = copy.deepcopy(state)
    scene.learn()
    assert_identical(state, kept)


def test_two_learners_loaded_from_one_state_do_not_share_it() -> None:
    first = Scene(make("mlp"), settled())
    first.learn()
    second = Scene(make("mlp"), settled())
    second.learner.load_state_dict(first.learner.state_dict())
    before = copy.deepcopy(first.learner.state_dict())
    second.learn()
    assert_identical(first.learner.state_dict(), before)


# ------------------------------------------------------------------ sparse gradients


class _Factors(torch.nn.Module):
    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.user = torch.nn.Embedding(9, 4, sparse=sparse)
        self.item = torch.nn.Embedding(11, 4, sparse=sparse)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return (self.user(users) * self.item(items)).sum(-1)


def _pairwise_loss(model: torch.nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    users, positives, negatives = batch
    return F.softplus(model(users, negatives) - model(users, positives))


def test_sparse_embeddings_learn_what_dense_ones_do() -> None:
    generator = torch.Generator().manual_seed(2)
    values = [torch.randn(shape, generator=generator) for shape in ((9, 4), (11, 4))]

    def draw() -> tuple[Tensor, Tensor, Tensor]:
        users = torch.randint(9, (12,), generator=generator)
        positives = torch.randint(11, (12,), generator=generator)
        return users, positives, torch.randint(11, (12,), generator=generator)

    training, held = draw(), draw()
    ids = np.arange(12)
    gradients, streams = [], partial(RandomStreams(0).own, torch.device("cpu"))
    for sparse in (False, True):
        model = _Factors(sparse).double()
        for p, value in zip(model.parameters(), values, strict=True):
            p.data = value.double()
        learner = SelfGuidedLearner(
            ids, settled(), device=torch.device("cpu"), dtype=torch.float64
        )
        losses = _pairwise_loss(model, training)
        gradients.append(
            learner.learn(
                losses, losses.detach()[:, None], Guidance(held, None, ids),
                Elsewhere(Lookahead(model, _pairwise_loss), streams),
                assumed_lr=ETA,
            ).weighting_gradients
        )
        losses.mean().backward()
        assert model.user.weight.grad.is_sparse is sparse
    assert relative_gap(gradients[1], gradients[0]) <= 1e-12


def test_weights_are_kept_near_what_the_evidence_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """What "even" means to the entropy term is the belief that the weights start from."""
    beliefs = []
    gradient = Objective.gradient

    def listening(*arguments: Any, **named: Any) -> torch.Tensor:
        beliefs.append(named["belief"])
        return gradient(*arguments, **named)

    monkeypatch.setattr(Objective, "gradient", listening)
    for believes in (True, False):
        beliefs.clear()
        data = tiny_data()
        denoiser = tiny_denoiser(
            data, "lightgcn", config=SWITCHING.but(evidence_weights=believes, guidance_interval=1)
        )
        for epoch in range(3):
            for batch in triple_epoch(data, epoch):
                denoiser.before_step(batch)
                denoiser.step(batch)
        assert beliefs
        if believes:
            assert all(((b >= 0) & (b <= 1)).all() for b in beliefs)
        else:
            assert beliefs == [None] * len(beliefs)
