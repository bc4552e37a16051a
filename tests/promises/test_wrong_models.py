"""Models that would be silently wrong are refused before training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sklearn.mixture  # noqa: F401  (its import may draw from the streams: test_plain_equality)
import torch
from torch import Tensor, nn

from bench.models.lightgcn import LightGCN, bpr_loss
from bench.models.neumf import bce_loss
from sgdl_wrap import (
    Phase,
    SelfGuidedDenoiser,
    UnsupportedModelError,
)
from sgdl_wrap.model.calls import UserCode
from sgdl_wrap.model.refusals import check_device
from tests.support.models_zoo import (
    SWITCHING,
    MLPScorer,
    assert_identical,
    labelled_epoch,
    seeded,
    snapshot,
    stream_states,
    tiny_denoiser,
)
from tests.support.scenes import BATCHES, DATA
from tests.support.spy import Spy

# ------------------------------------------------------------------ models that would be wrong


class TwoLayers(nn.Module):
    """An MLP over embeddings that reaches its layers in one of several ways."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(DATA.n_users, 6)
        self.item = nn.Embedding(DATA.n_items, 6)
        self.first = nn.Linear(12, 6)
        self.second = nn.Linear(6, 1)

    def layers(self) -> list[nn.Module]:
        return [self.first, self.second]

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        first, second = self.layers()
        joined = torch.cat([self.user(users), self.item(items)], dim=1)
        return second(torch.tanh(first(joined))).squeeze(1)


class PlainList(TwoLayers):
    def __init__(self) -> None:
        super().__init__()
        self.kept = [self.first, self.second]

    def layers(self) -> list[nn.Module]:
        return self.kept


class BoundMethod(TwoLayers):
    def __init__(self) -> None:
        super().__init__()
        self.embed = self.user.forward

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        joined = torch.cat([self.embed(users), self.item(items)], dim=1)
        return self.second(torch.tanh(self.first(joined))).squeeze(1)


class Bags(TwoLayers):
    def __init__(self) -> None:
        super().__init__()
        self.user = nn.EmbeddingBag(DATA.n_users, 6, mode="sum")

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        joined = torch.cat([self.user(users[:, None]), self.item(items)], dim=1)
        return self.second(torch.tanh(self.first(joined))).squeeze(1)


class NotTwice(TwoLayers):
    """A custom autograd function whose backward has no backward."""

    class _Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.square()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return 2 * x * gradient

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return self._Double.apply(super().forward(users, items))


class CachedLightGCN(LightGCN):
    """Keeps its propagated embeddings on itself, until told that parameters have changed."""

    cache: Any = None

    def propagate(self) -> tuple[Tensor, Tensor]:
        if self.cache is None:
            self.cache = super().propagate()
        return self.cache


def unstable_loss() -> Callable[[nn.Module, Any], Tensor]:
    calls = Spy()  # of which nothing can be put back

    def loss(model: nn.Module, batch: Any) -> Tensor:
        calls.note(1)
        return bpr_loss(model, batch) * len(calls)

    return loss


@contextmanager
def refused_before_training(model: nn.Module, match: str) -> Iterator[None]:
    before, streams = snapshot(model), stream_states()
    attributes = {n: set(vars(m)) for n, m in model.named_modules()}
    with pytest.raises(UnsupportedModelError, match=match) as caught:
        yield
    assert str(caught.value).startswith("Expected ")
    assert_identical(snapshot(model), before)
    assert {n: set(vars(m)) for n, m in model.named_modules()} == attributes
    assert stream_states() == streams


def try_first_batch(model: nn.Module, loss_fn: Any = bpr_loss) -> None:
    denoiser = tiny_denoiser(DATA, model=model, loss_fn=loss_fn)
    denoiser.before_step(BATCHES[0])


def seeded_model(kind: type[nn.Module]) -> nn.Module:
    with seeded(5):
        return kind()


@pytest.mark.parametrize("kind", [PlainList, BoundMethod])
def test_layers_reached_past_the_module_tree_are_refused(kind: type[nn.Module]) -> None:
    model = seeded_model(kind)
    with refused_before_training(
        model,
        f"^Expected the functional twin of {kind.__name__} to give the model's losses, got a "
        r"difference of .* keep submodules in nn\.ModuleList",
    ):
        try_first_batch(model)


def test_the_same_layers_reached_through_the_tree_are_accepted() -> None:
    try_first_batch(seeded_model(TwoLayers))


def test_a_loss_that_closes_over_the_original_model_is_refused() -> None:
    model = seeded_model(TwoLayers)
    with refused_before_training(model, "Use the model that loss_fn is given"):
        try_first_batch(model, lambda _, batch: bpr_loss(model, batch))


def test_a_loss_that_closes_over_part_of_the_original_model_is_refused() -> None:
    model = seeded_model(TwoLayers)

    def loss_fn(given: nn.Module, batch: Any) -> Tensor:
        return bpr_loss(given, batch) + 0.1 * model.user(batch[0]).square().sum(dim=1)

    with refused_before_training(model, "Use the model that loss_fn is given"):
        try_first_batch(model, loss_fn)


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (Bags, r"\w+Error: .*Replace EmbeddingBag by Embedding and a sum"),
        (NotTwice, r"a second derivative that is wrong\. Write custom autograd functions so that"),
    ],
)
def test_what_cannot_be_differentiated_twice_is_refused(
    kind: type[nn.Module], problem: str
) -> None:
    model = seeded_model(kind)
    with refused_before_training(
        model, f"^Expected a loss that can be differentiated twice, got {problem}"
    ):
        try_first_batch(model)


def test_a_loss_that_counts_where_nothing_can_be_put_back_is_refused() -> None:
    model = seeded_model(TwoLayers)
    with refused_before_training(
        model,
        "^Expected loss_fn to repeat itself under the same random state, got losses that differ "
        r"by .*It draws or counts in a place that cannot be put back: .*, and count in an "
        r"attribute\.$",
    ):
        try_first_batch(model, unstable_loss())


def cached_lightgcn() -> CachedLightGCN:
    with seeded(5):
        return CachedLightGCN(DATA.n_users, DATA.n_items, *DATA.tensors(), embedding_dim=8)


def train_with_cache(denoiser: SelfGuidedDenoiser, model: CachedLightGCN) -> None:
    for batch in BATCHES:
        model.cache = None  # parameters have changed
        denoiser.before_step(batch)
        denoiser.step(batch)


def test_a_cache_that_the_loop_clears_is_refused_or_does_no_harm() -> None:
    """The losses at θ̂ must not be read from a cache filled at θ."""
    outcomes = []
    for kind in (LightGCN, CachedLightGCN):
        with seeded(5):
            model = kind(DATA.n_users, DATA.n_items, *DATA.tensors(), embedding_dim=8)

        def score(model: nn.Module, users: Tensor, items: Tensor) -> Tensor:
            model.cache = None
            scores = model(users, items)
            model.cache = None
            return scores

        config = SWITCHING.but(meta_lr=0.1)
        denoiser = tiny_denoiser(DATA, model=model, config=config, score_fn=score)
        try:
            train_with_cache(denoiser, model)
        except UnsupportedModelError:
            return
        assert denoiser.phase is Phase.SELF_GUIDED
        outcomes.append(snapshot(model)["parameters"])
    assert_identical(outcomes[1], outcomes[0])


class Parametrised(TwoLayers):
    def forward(self, users: Tensor, items: Tensor, params: Any = None) -> Tensor:
        return super().forward(users, items)


class _Meta(type):
    pass


class WithMetaclass(TwoLayers, metaclass=_Meta):
    pass


@pytest.mark.parametrize(
    ("make_model", "message"),
    [
        (
            lambda: nn.DataParallel(seeded_model(TwoLayers)),
            r"^Expected a bare model or DistributedDataParallel, got DataParallel\. Pass",
        ),
        (
            lambda: seeded_model(Parametrised),
            "^Expected no argument named 'params' in forward, got one in the model",
        ),
        (
            lambda: seeded_model(WithMetaclass),
            "^Expected ordinary classes of modules, got the metaclass _Meta in the model",
        ),
    ],
    ids=["DataParallel", "forward(params)", "metaclass"],
)
def test_wrappers_and_odd_classes_are_refused_at_construction(
    make_model: Callable[[], nn.Module], message: str
) -> None:
    model = make_model()
    with refused_before_training(model, message):
        tiny_denoiser(DATA, model=model)


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"^Expected an nn.Module, got function"):
        SelfGuidedDenoiser(
            lambda u, i: u, torch.optim.SGD([torch.ones(1)], lr=0.1), bpr_loss,
            interactions=DATA.tensors(),
        )


# ------------------------------------------------------------------ hooks


def hook_forward(model: nn.Module) -> None:
    model.tower.register_forward_hook(lambda module, inputs, output: torch.sin(3 * output))


def hook_before_forward(model: nn.Module) -> None:
    model.tower[0].register_forward_pre_hook(lambda module, inputs: (inputs[0] ** 2,))


def hook_with_kwargs(model: nn.Module) -> None:
    model.register_forward_hook(
        lambda module, inputs, kwargs, output: output * 3, with_kwargs=True, always_call=True
    )


@pytest.mark.parametrize("hook", [hook_forward, hook_before_forward, hook_with_kwargs])
@pytest.mark.parametrize("late", [False, True], ids=["at construction", "in phase two"])
def test_forward_hooks_count_in_both_phases(hook: Callable[[nn.Module], None], late: bool) -> None:
    """A hooked model trains exactly as one that has the same written into its forward."""

    class Written(MLPScorer):
        on = False

        def forward(self, users: Tensor, items: Tensor) -> Tensor:
            if not self.on:
                return super().forward(users, items)
            joined = torch.cat([self.user(users), self.item(items)], dim=1)
            if hook is hook_before_forward:
                joined = joined**2
            hidden = self.tower[2](torch.tanh(self.tower[0](joined)))
            if hook is hook_forward:
                hidden = torch.sin(3 * hidden)
            scores = hidden.squeeze(1)
            return scores * 3 if hook is hook_with_kwargs else scores

    outcomes = []
    batches = [batch for epoch in range(3) for batch in labelled_epoch(DATA, epoch)]
    for kind in (MLPScorer, Written):
        with seeded(5):
            model = kind(DATA.n_users, DATA.n_items)
        denoiser = tiny_denoiser(
            DATA, model=model, loss_fn=bce_loss, config=SWITCHING.but(meta_lr=0.1, assumed_lr=0.5)
        )
        for number, batch in enumerate(batches):
            if number == (6 if late else 0):
                if kind is Written:
                    model.on = True
                else:
                    hook(model)
            denoiser.before_step(batch)
            denoiser.step(batch)
        assert denoiser.phase is Phase.SELF_GUIDED
        outcomes.append((snapshot(model)["parameters"], denoiser.state_dict()["self_guided"]))
    for name, parameter in outcomes[0][0].items():
        assert torch.allclose(parameter, outcomes[1][0][name], rtol=1e-4, atol=1e-6), name
    psi, other_psi = (outcome[1]["learner"]["weighting"] for outcome in outcomes)
    for name in psi:
        assert torch.allclose(psi[name], other_psi[name], rtol=1e-3, atol=1e-4), name


def test_devices_without_float64_are_refused() -> None:
    check_device(torch.device("cpu"))
    check_device(torch.device("cuda", 1))
    with pytest.raises(
        UnsupportedModelError,
        match=r"^Expected a model on a device that has float64, got one on mps\. Use model\.to",
    ):
        check_device(torch.device("mps"))


def test_the_device_is_looked_at_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UserCode, "device", torch.device("mps"))
    with pytest.raises(UnsupportedModelError, match="got one on mps"):
        tiny_denoiser(DATA)


class Attending(TwoLayers):
    """Attention by torch's fused kernel, as a transformer has it by default."""

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        vectors = torch.stack([self.user(users), self.item(items)], dim=1)[:, None]
        mixed = nn.functional.scaled_dot_product_attention(vectors, vectors, vectors)
        return mixed.flatten(1).sum(-1)


def test_attention_by_a_fused_kernel_is_told_of_the_two_ways_round() -> None:
    model = seeded_model(Attending)
    with refused_before_training(
        model,
        r"^Expected a loss that can be differentiated twice, got \w+Error: .*scaled_dot_product.*"
        r"Load the model with attn_implementation=\"eager\", or run attention under "
        r"torch\.nn\.attention\.sdpa_kernel\(SDPBackend\.MATH\)\.$",
    ):
        try_first_batch(model)
