"""The user's model, loss and scores, and how the denoiser calls them without leaving a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from sgdl_wrap.errors import NonFiniteError, UnsupportedModelError, batch_named
from sgdl_wrap.model.clock import AddedTime
from sgdl_wrap.model.compiled import is_compiled, uncompiled, what_was_compiled
from sgdl_wrap.model.engine import bare, forward_expected
from sgdl_wrap.model.plain_state import SMALL
from sgdl_wrap.model.refusals import check_losses
from sgdl_wrap.model.streams import RandomStreams, users_streams
from sgdl_wrap.model.trees import detached_copy
from sgdl_wrap.model.trial import Trial
from sgdl_wrap.model.twin import Elsewhere, Lookahead, LossFn
from sgdl_wrap.model.untouched import evaluating, undisturbed

ScoreFn = Callable[[Any, Tensor, Tensor], Tensor]  # (users, items) -> (K,), higher is better


class UserCode:
    """What the user handed over to be called.

    Args:
        model: the recommender, or the DistributedDataParallel or torch.compile around it.
        loss_fn: ``loss_fn(model, batch) -> (B,)`` per-sample losses.
        score_fn: ``score_fn(model, users, items) -> (K,)``; None calls the model.
        seed: of the random streams that serve calls which the plain loop would not make.
        enabled: False asks nothing of the model.

    Attributes:
        model: the recommender itself.
        modules: what training consists of: the model, and the loss where that is a module too.
        roots: from where the plain state that trains is reached: the model and the loss. What
            `score_fn` keeps to itself is its own: plain training does not call it.
        streams: the user's global random streams, kept as they are.
        lookahead: losses at other parameters; None until a batch has come.
        added: the time that plain training would not take; the loss stops it.
        sliceable: whether rows of a batch have the losses that they have in it; None as long as
            no batch could tell.
        draws_foreign: whether the loss was seen to draw from numpy's or Python's global stream.
    """

    def __init__(
        self, model: nn.Module, loss_fn: LossFn, score_fn: ScoreFn | None, *, seed: int,
        enabled: bool = True,
    ) -> None:
        self.model = bare(model)
        # by its backward, which averages over the ranks; compiled, and what was compiled
        self._trained, self._trained_loss = model, loss_fn
        self._eager: nn.Module = what_was_compiled(model)
        self._forward_seen = False
        self._written: list[Tensor] | None = None  # buffers that a training forward writes to
        self.loss_fn: LossFn = what_was_compiled(loss_fn)
        self._score_fn = score_fn
        self._enabled = enabled
        self.modules = [m for m in (self.model, self.loss_fn) if isinstance(m, nn.Module)]
        self.roots: list[Any] = [self.model, self.loss_fn]
        self.streams = RandomStreams(seed)
        self.added = AddedTime()
        self.lookahead: Lookahead | None = None
        self._tried = False
        self.sliceable: bool | None = None
        self.draws_foreign = False
        # whether scores, and losses, write to large tensors in evaluation mode; None before one
        self._writes_large: dict[str, bool] = {}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def losses(
        self, batch: Any, size: int | None, *, twice: bool = False
    ) -> tuple[Tensor, Tensor]:
        """L(θ) of a batch, (B,), and its mean, checked, with their graph.

        Args:
            twice: whether they are to be differentiated twice, which nothing compiled can.

        Raises:
            LossError: losses of another shape than (size,), or not finite.
        """
        watched = nullcontext() if self._forward_seen else forward_expected(self._trained)
        before = None if self._forward_seen else self._small_buffers()
        with watched, self.added.shared():
            if twice:
                with uncompiled(self.modules):
                    losses = self.loss_fn(self._eager, batch)
            else:
                losses = self._trained_loss(self._trained, batch)
        if before is not None:
            self._written = [b for b, copy in before if not torch.equal(b, copy)]
        self._forward_seen = True
        return losses, check_losses(losses, size)

    @property
    def is_compiled(self) -> bool:
        """Whether training runs compiled graphs, which cannot be kept after a backward."""
        return is_compiled(self._trained, self._trained_loss)

    def losses_aside(self, batch: Any, size: int | None) -> Tensor:
        """L(θ) in evaluation mode, (B,), without graph; draws the same each time."""
        with self._aside("losses", advance=False):
            losses = self.loss_fn(self.model, detached_copy(batch))
            check_losses(losses, size)
        return losses

    def score(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores of pairs in evaluation mode, (K,), without graph; a single one may be a scalar."""
        with self._aside("scores"):
            users, items = users.to(self.device), items.to(self.device)
            if self._score_fn is None:
                scores: Tensor = self.model(users, items)
            else:
                scores = self._score_fn(self.model, users, items)
        if isinstance(scores, Tensor) and scores.ndim == 0 and len(users) == 1:
            return scores.reshape(1)  # as of a model that ends in squeeze()
        return scores

    @property
    def is_tried(self) -> bool:
        """Whether the loss was tried, and is known to be one that can be guided."""
        return self.lookahead is not None and self._tried and self.sliceable is not None

    def prepare(self, batch: Any, size: int, *, example: bool = False) -> Lookahead:
        """The lookahead, built and tried at the first batch; nothing of the user's changes.

        A batch whose losses or gradients are NaN or Inf tells nothing: the next one is tried.

        Raises:
            LossError, UnsupportedModelError: the loss would be silently wrong in Phase II.
            NonFiniteError: an `example` that tells nothing.
        """
        if self.lookahead is None or not self._tried:
            self.lookahead, self._tried = Lookahead(self.model, self.loss_fn), False
        if not self._tried or self.sliceable is None:
            try:
                self._try_out(self.lookahead, batch, size)
            except NonFiniteError:
                if example:
                    raise
        return self.lookahead

    def renewed(self, batch: Any, size: int) -> Lookahead:
        """A new lookahead, after parameters were exchanged, frozen or thawed."""
        self.lookahead = None
        return self.prepare(batch, size)

    def _try_out(self, lookahead: Lookahead, batch: Any, size: int) -> None:
        """Tries the loss, at other parameters and with some rows of a batch.

        Raises:
            LossError, NonFiniteError, UnsupportedModelError: as :meth:`Trial.check`.
        """
        trial = Trial(self.roots, self.modules, self.model, self.loss_fn, self.streams)
        with uncompiled(self.modules), batch_named("the first batch"):
            if not self._tried:
                with torch.enable_grad():
                    drew = trial.check(lookahead, batch, size)
                self._tried, self.draws_foreign = True, self.draws_foreign or drew
            if self.sliceable is None:
                self.sliceable = trial.is_sliceable(batch, size)

    def moment(self) -> Callable[[], None]:
        """What puts the user's random streams, gradient mode and buffers back to what they are now.

        For a call that fails after the model's forward, so that it can be made again. Of the
        buffers, those that the first forward has written to: statistics of a normalisation, say.
        """
        streams = users_streams(self.device, foreign=self.draws_foreign)
        gradients = torch.is_grad_enabled()
        copies = self._small_buffers() if self._written is None else [
            (buffer, buffer.detach().clone()) for buffer in self._written
        ]  # fmt: skip

        def put_back() -> None:
            torch.set_grad_enabled(gradients)  # an interrupt may come where no_grad ends
            streams()
            with torch.no_grad():
                for buffer, copy in copies:
                    buffer.copy_(copy)

        return put_back

    def _small_buffers(self) -> list[tuple[Tensor, Tensor]]:
        """Buffers of at most SMALL elements, and copies of them."""
        return [
            (buffer, buffer.detach().clone())
            for root in self.modules
            for buffer in root.buffers()
            if buffer.layout == torch.strided and buffer.numel() <= SMALL
            and not buffer.is_inference()
        ]

    @property
    def elsewhere(self) -> Elsewhere:
        """How losses at other parameters are taken; a batch must have come."""
        return Elsewhere(cast(Lookahead, self.lookahead), self.guiding)

    @contextmanager
    def guiding(self, *, advance: bool = True) -> Iterator[None]:
        """The loss at other parameters, in the mode that the model is in, without a trace."""
        streams = self.streams.own(self.device, advance=advance)
        with self._untouched("guidance losses"), streams:
            yield

    @contextmanager
    def _aside(self, what: str, *, advance: bool = True) -> Iterator[None]:
        """An evaluation that the plain loop would not make.

        Raises:
            UnsupportedModelError: it wrote to what cannot be put back.
        """
        with (
            self._untouched(what),
            evaluating(self.modules),
            uncompiled(self.modules),
            self.streams.own(self.device, advance=advance),
            torch.no_grad(),
        ):
            yield

    @contextmanager
    def _untouched(self, what: str) -> Iterator[None]:
        # what is large is copied the first time, and where it was written to then
        with undisturbed(self.roots, large=self._writes_large.get(what, True)) as state:
            yield
        if state.lost and self._enabled:
            self._writes_large[what] = True  # made again, the call copies it
            raise UnsupportedModelError(
                f"Expected {what} to be taken without a trace, got {min(state.lost)!r} written "
                "to, of which there is no copy. Write to parameters and to what is large in your "
                "loop, or from the first batch on."
            )
        if what not in self._writes_large:
            self._writes_large[what] = bool(state.changed_large)

    def state_dict(self) -> dict[str, Any]:
        """The random streams, and what trying the loss has told."""
        return {
            "streams": self.streams.state(),
            "sliceable": self.sliceable,
            "draws_foreign": self.draws_foreign,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave; all of it or, on an error, nothing."""
        sliceable, draws_foreign = state["sliceable"], bool(state["draws_foreign"])
        self.streams.restore(state["streams"])
        self.sliceable, self.draws_foreign = sliceable, draws_foreign
