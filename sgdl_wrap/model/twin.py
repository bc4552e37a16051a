"""Losses at virtual parameters (Eq. 7).

The only importer of `higher`.
"""

from __future__ import annotations

import logging
import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import chain
from types import MethodType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sgdl_wrap.model.tables import (
    LARGE,
    Lookup,
    LookupWatch,
    MovedTable,
    RowUpdate,
    reached,
)
from sgdl_wrap.model.trees import shallow_copy

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # an invalid escape in higher's source
    import higher

logger = logging.getLogger("sgdl_wrap")

LossFn = Callable[[nn.Module, Any], Tensor]
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
)
_ALWAYS_COPIED = 65_536  # elements
# what every module has, and a functional twin must not take from its original again
_MODULE_ATTRIBUTES = set(vars(nn.Module())) - {"training"} | {"_compiled_call_impl"}


class _LossModule(nn.Module):
    """`loss_fn(model, batch)` as one forward, so that every way into the model is functional.

    A loss that calls submodules by hand, or a method other than forward, would silently read the
    original parameters on a functional model that is called any other way.
    """

    def __init__(self, model: nn.Module, loss_fn: LossFn) -> None:
        super().__init__()
        self.model = model
        self.loss_fn = loss_fn

    def forward(self, batch: Any) -> Tensor:
        return self.loss_fn(self.model, batch)


class Lookahead:
    """`loss_fn` at other parameters than the model's own, through `higher`'s functional model.

    The functional model is built once and reused: its parameters are replaced at each use, its
    buffers, flags and plain attributes are the original's, and nothing of the original changes by
    what happens here.

    Args:
        model: the user's model.
        loss_fn: per-sample losses, ``loss_fn(model, batch) -> (B,)``.

    Attributes:
        parameters: θ, the trainable parameters, each once however often it is shared.
        names: theirs.
    """

    def __init__(self, model: nn.Module, loss_fn: LossFn) -> None:
        wrapped = _LossModule(model, loss_fn)
        # the flags of a fresh wrapper are not the user's to have changed
        wrapped.training = model.training
        self._functional: Any = higher.monkeypatch(wrapped, copy_initial_weights=False)
        self._functional.track_higher_grads = False  # with it, every use would be kept
        self._all: list[Tensor] = list(wrapped.parameters())
        self._trainable = [i for i, p in enumerate(self._all) if p.requires_grad]
        self.parameters: list[Tensor] = [self._all[i] for i in self._trainable]
        self.names = [
            name.removeprefix("model.")
            for name, p in wrapped.named_parameters()
            if p.requires_grad
        ]
        self._tables = {
            number: p
            for number, p in enumerate(self.parameters)
            if p.ndim == 2 and p.numel() >= LARGE
        }
        self._twins = [
            _Twin(original, twin, self._all, root=original is wrapped)
            for original, twin in _pairs(wrapped, self._functional)
        ]
        # each submodule's parameters and children: the model's own dicts, and what they held
        self._registries: list[dict[str, Any]] = [
            registry
            for twin in self._twins
            for registry in (twin.original._parameters, twin.original._modules)
        ]
        self._registered = list(chain.from_iterable(self._registries)), _held(self._registries)
        self._learned = [p.requires_grad for p in self._all]
        self.follow()
        self.release()

    def is_current(self) -> bool:
        """Whether the model still has the parameters it was built with, frozen or not as then.

        Asked at every step, so of all submodules at once.
        """
        names, held = self._registered
        return (
            list(chain.from_iterable(self._registries)) == names
            and all(map(operator.is_, _held(self._registries), held))
            and [p.requires_grad for p in self._all] == self._learned
        )

    def follow(self) -> None:
        """Notes the original's flags, attributes and hooks as they are now.

        Called before the original's own forward: what that leaves on the model, propagated
        embeddings say, belongs to θ and would be stale at θ̂.
        """
        for twin in self._twins:
            twin.follow()

    @contextmanager
    def watching(self) -> Iterator[dict[int, list[Lookup]]]:
        """How the original's own forward inside looks up its large tables.

        Gives a dict that is filled at the end: the look-ups of each parameter, by its place, that
        was used by look-ups alone and can stand as a :class:`RowUpdate` in :meth:`losses`.
        """
        lookups: dict[int, list[Lookup]] = {}
        if not self._tables:
            yield lookups
            return
        with LookupWatch(self._tables) as watch:
            yield lookups
        lookups.update(watch.lookups())
        for number in set(self._tables) - set(lookups):
            self._copy_from_now_on(number)

    def losses(self, virtual: Sequence[Tensor | RowUpdate], batch: Any) -> Tensor:
        """L(θ̂): per-sample losses, (B,), with a graph to the virtual parameters.

        The model is as at the last :meth:`follow`, its buffers as they are now.

        Args:
            virtual: one tensor, or table of moved rows, for each of :attr:`parameters`.
            batch: what the user's loader gives.
        """
        values = [v.stand_in() if isinstance(v, RowUpdate) else v for v in virtual]
        losses = self._losses(values, batch)
        stand_ins = {n: v for n, v in enumerate(values) if isinstance(v, MovedTable)}
        unnoticed = reached(losses, stand_ins)
        if unnoticed:  # what used them did not see that they stand in for a table
            for number in unnoticed:
                self._copy_from_now_on(number)
                values[number] = stand_ins[number].update.whole()
            losses = self._losses(values, batch)
        return losses

    def _losses(self, values: list[Tensor], batch: Any) -> Tensor:
        parameters: list[Tensor] = [p.detach() for p in self._all]
        for place, value in zip(self._trainable, values, strict=True):
            parameters[place] = value
        self._place(parameters)
        losses: Tensor = self._functional(shallow_copy(batch))  # a loss may pop from it
        return losses

    def _copy_from_now_on(self, number: int) -> None:
        # a model that uses a table whole once will do so again
        if self._tables.pop(number, None) is not None:
            logger.info(
                "%s is used other than by F.embedding: steps that learn copy all of it",
                self.names[number],
            )

    def release(self) -> None:
        """Lets go of the last virtual parameters and their graph."""
        self._place([p.detach() for p in self._all])

    def _place(self, parameters: list[Tensor]) -> None:
        # What higher's update_params does by walking the tree, from a table made once.
        self._functional.fast_params = parameters
        for twin in self._twins:
            twin.place(parameters)


class _Twin:
    """One submodule, its functional counterpart, and what the second takes from the first.

    Args:
        original: a submodule of the user's model.
        functional: its counterpart in higher's functional model.
        parameters: of the whole model, each once.
        root: the outermost one keeps higher's forward, which resets what its RNNs share.
    """

    def __init__(
        self,
        original: nn.Module,
        functional: nn.Module,
        parameters: list[Tensor],
        *,
        root: bool = False,
    ) -> None:
        self.original = original
        self.functional = functional
        vars(functional).pop("_compiled_call_impl", None)  # module.compile(), of the original
        numbers = {id(p): i for i, p in enumerate(parameters)}
        self._slots = [
            (name, numbers[id(p)])
            for name, p in original._parameters.items()
            if p is not None
        ]
        if not root and not hasattr(original, "_flat_weights_names"):
            # higher sets every parameter again at each call of each submodule; they are placed
            # already, so the class's own forward will do. An RNN needs more than its parameters.
            true_forward = type(original).forward
            functional.__dict__["forward"] = MethodType(true_forward, functional)
        # what the functional module itself consists of, and keeps
        self._own = set(vars(functional)) - set(vars(original)) | _MODULE_ATTRIBUTES | {"forward"}
        self._attributes: dict[str, Any] = {}
        self._seen_versions: dict[str, tuple[int, int, int]] = {}

    def follow(self) -> None:
        """Notes the flag, the hooks and the plain attributes that the original has now."""
        for hooks in _HOOKS:
            self.functional.__dict__[hooks] = self.original.__dict__[hooks]
        own = self._own
        self._attributes = {k: v for k, v in vars(self.original).items() if k not in own}

    def place(self, parameters: list[Tensor]) -> None:
        """Sets the virtual parameters, the attributes noted, and the buffers of now."""
        placed: Any = self.functional._parameters
        for name, number in self._slots:
            placed[name] = parameters[number]
        ours = vars(self.functional)
        ours.update(self._attributes)
        if len(ours) > len(self._own) + len(self._attributes):
            for name in [n for n in ours if n not in self._own and n not in self._attributes]:
                del ours[name]  # left behind by the last use
        for name, buffer in self.original._buffers.items():
            self._follow_buffer(name, buffer)

    def _follow_buffer(self, name: str, buffer: Tensor | None) -> None:
        if buffer is None or buffer.layout != torch.strided:
            self.functional._buffers[name] = buffer  # a sparse matrix is shared, not copied
            return
        copy = self.functional._buffers.get(name)
        seen = (id(buffer), buffer._version, -1 if copy is None else copy._version)
        # batch_norm writes its running statistics without counting a version: small buffers are
        # copied always, large ones when their version tells of a change
        if buffer.numel() > _ALWAYS_COPIED and self._seen_versions.get(name) == seen:
            return
        # a new tensor, as a graph of the last use may still need the old one
        copy = buffer.detach().clone()
        self.functional._buffers[name] = copy
        self._seen_versions[name] = (id(buffer), buffer._version, copy._version)


def _held(registries: Sequence[dict[str, Any]]) -> list[Any]:
    """The parameters and children that some submodules have."""
    return [value for registry in registries for value in registry.values()]


def _pairs(original: nn.Module, functional: Any) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Each submodule beside its functional counterpart; a shared one as often as it is used."""
    yield original, functional
    for name, child in original._modules.items():
        if child is not None:
            yield from _pairs(child, functional._modules[name])


class Aside(Protocol):
    """A context in which calls leave no trace of their own with the user."""

    def __call__(self, *, advance: bool = True) -> AbstractContextManager[None]:
        """Draws come from other streams; they move on or, without `advance`, do not."""


@dataclass(frozen=True)
class Elsewhere:
    """How losses at other parameters are taken.

    Attributes:
        lookahead: the functional twin.
        aside: what each call of it runs in.
    """

    lookahead: Lookahead
    aside: Aside
