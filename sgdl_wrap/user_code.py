"""The user's model, loss and scores, and how the denoiser calls them without leaving a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from sgdl_wrap.added_time import AddedTime
from sgdl_wrap.checks import check_losses
from sgdl_wrap.compiled import uncompiled, what_was_compiled
from sgdl_wrap.distributed.engine import bare, forward_expected
from sgdl_wrap.preflight import check_lookahead, is_sliceable
from sgdl_wrap.random_streams import RandomStreams
from sgdl_wrap.self_guided.lookahead import Lookahead, LossFn
from sgdl_wrap.without_trace import evaluating, undisturbed

ScoreFn = Callable[[Any, Tensor, Tensor], Tensor]  # (model, users, items) -> (K,) scores


class UserCode:
    """What the user handed over to be called.

    Args:
        model: the recommender, or the DistributedDataParallel or torch.compile around it.
        loss_fn: ``loss_fn(model, batch) -> (B,)`` per-sample losses.
        score_fn: ``score_fn(model, users, items) -> (K,)``; None calls the model.
        seed: of the random streams that serve calls which the plain loop would not make.

    Attributes:
        model: the recommender itself.
        modules: what training consists of: the model, and the loss where that is a module too.
        streams: the user's global random streams, kept as they are.
        lookahead: losses at other parameters; None until a batch was tried.
        added: the time that plain training would not take; the loss stops it.
        sliceable: whether rows of a batch have the losses that they have in it; None as long as
            no batch could tell.
    """

    def __init__(
        self, model: nn.Module, loss_fn: LossFn, score_fn: ScoreFn | None, *, seed: int
    ) -> None:
        self.model = bare(model)
        # by its backward, which averages over the ranks; compiled, and what was compiled
        self._trained, self._trained_loss = model, loss_fn
        self._eager: nn.Module = what_was_compiled(model)
        self._forward_seen = False
        self.loss_fn: LossFn = what_was_compiled(loss_fn)
        self._score_fn = score_fn
        self.modules = [m for m in (self.model, self.loss_fn) if isinstance(m, nn.Module)]
        self.streams = RandomStreams(seed)
        self.added = AddedTime()
        self.lookahead: Lookahead | None = None
        self.sliceable: bool | None = None
        # whether scores, and losses, write to buffers in evaluation mode, as far as was seen
        self._writes_buffers: dict[str, bool] = {}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def losses(
        self, batch: Any, size: int | None, where: str, *, twice: bool = False
    ) -> tuple[Tensor, Tensor]:
        """L(θ) of a batch, (B,), and its mean, checked, with their graph.

        Args:
            twice: whether they are to be differentiated twice, which nothing compiled can.

        Raises:
            LossError: losses of another shape than (size,), or not finite.
        """
        watched = nullcontext() if self._forward_seen else forward_expected(self._trained)
        with watched, self.added.shared():
            if twice:
                with uncompiled(self.modules):
                    losses = self.loss_fn(self._eager, batch)
            else:
                losses = self._trained_loss(self._trained, batch)
        self._forward_seen = True
        return losses, check_losses(losses, size, where)

    def losses_aside(self, batch: Any, size: int | None) -> Tensor:
        """L(θ) in evaluation mode, (B,), without graph; draws the same each time."""
        with self._aside("losses", advance=False):
            losses = self.loss_fn(self.model, batch)
            check_losses(losses, size, "this batch")
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

    def prepare(self, batch: Any, size: int) -> Lookahead:
        """The lookahead, built and tried at the first batch; nothing of the user's changes.

        Raises:
            LossError, UnsupportedModelError: the loss would be silently wrong in Phase II.
        """
        if self.lookahead is None:
            self.lookahead = self._tried(batch, size)
        if self.sliceable is None:
            with uncompiled(self.modules):
                self.sliceable = is_sliceable(
                    self.modules, self.model, self.loss_fn, batch, size, self.streams
                )
        return self.lookahead

    def renew(self, batch: Any, size: int) -> Lookahead:
        """A new lookahead, after parameters were exchanged, frozen or thawed."""
        self.lookahead = self._tried(batch, size)
        return self.lookahead

    def _tried(self, batch: Any, size: int) -> Lookahead:
        lookahead = Lookahead(self.model, self.loss_fn)
        with uncompiled(self.modules), torch.enable_grad():
            self.streams.guard_foreign = check_lookahead(
                self.modules, self.model, self.loss_fn, lookahead, batch, size, self.streams
            )
        return lookahead

    @contextmanager
    def _aside(self, what: str, *, advance: bool = True) -> Iterator[None]:
        """An evaluation that the plain loop would not make."""
        before = self._buffer_versions()
        # the first time, and for a model that counts its calls in a buffer, say
        copies = self._writes_buffers.get(what, True)
        with (
            undisturbed(self.modules, buffers=copies) as restored,
            evaluating(self.modules),
            uncompiled(self.modules),
            self.streams.own(self.device, advance=advance),
            torch.no_grad(),
        ):
            yield
            moved = self._buffer_versions() != before
        wrote = moved or bool(restored)
        self._writes_buffers[what] = wrote or self._writes_buffers.get(what, False)

    def _buffer_versions(self) -> list[int]:
        # a buffer that is another object after is put back as any attribute is
        return [
            0 if buffer.is_inference() else buffer._version
            for root in self.modules
            for buffer in root.buffers()
        ]

    def state_dict(self) -> dict[str, Any]:
        """The random streams, and what trying the loss has told."""
        return {
            "streams": self.streams.state(),
            "sliceable": self.sliceable,
            "draws_foreign": self.streams.guard_foreign,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave; all of it or, on an error, nothing."""
        sliceable, draws_foreign = state["sliceable"], bool(state["draws_foreign"])
        self.streams.restore(state["streams"])
        self.sliceable, self.streams.guard_foreign = sliceable, draws_foreign
