"""Random sequences of public calls, right and wrong, with a loss and scores that fail at times.

Only documented errors come: a `DenoiserError`, or what the user's own code raised. Training then
goes on for an epoch without an error, and parameters stay finite. If all steps were taken in Phase
I, the parameters are those of a plain loop that made the same steps.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sgdl_wrap import DenoiserError, Phase
from tests.stress.short_runs import (
    MODELS,
    PER_EPOCH,
    STEPS,
    Setup,
    ShortRun,
    difference,
    losses,
    penalty,
)
from tests.stress.trials import Trials, Wrong, told
from tests.support.models_zoo import seeded

TRIES = 400
SETUPS = tuple(
    Setup(model, pointwise=pointwise, explicit=explicit, penalty=penalty, config=config)
    for model, pointwise in (
        ("factors", False), ("factors", True), ("lightgcn", False), ("neumf", True),
        ("batchnorm", True),
    )
    for explicit, penalty, config in (
        (False, False, {}),
        (True, True, {"guidance_interval": 1, "history_length": 2}),
        (False, True, {"history_length": 50}),  # no switch
        (True, False, {"history_length": 50, "on_nonfinite": "skip"}),
        (False, False, {"guidance_interval": 1, "on_nonfinite": "skip"}),
        (False, False, {"audit_only": True}),
    )
)  # fmt: skip


class UsersOwnError(Exception):
    """What loss_fn or score_fn raises."""


SPOILS: dict[str, Callable[[Tensor], Any]] = {
    "mean": lambda losses: losses.mean(),
    "column": lambda losses: losses[:, None],
    "too few": lambda losses: losses[1:],
    "NaN": lambda losses: losses * torch.nan,
    "infinite": lambda losses: losses + torch.inf,
    "a list": lambda losses: losses.tolist(),
    "detached": lambda losses: losses.detach(),
    "None": lambda losses: None,
}
NO_BATCHES = (None, "batch", 3, (), {"user": "x"}, [torch.zeros(3)], (torch.zeros(3), "x"))


class Player:
    """One sequence, and what its steps were."""

    def __init__(self, setup: Setup, draw: random.Random) -> None:
        self.setup, self.draw = setup, draw
        self.run = ShortRun(setup)
        self.denoiser = self.run.denoiser
        self.step = draw.randrange(STEPS)
        self.in_hand: Any = None
        self.states: list[dict[str, Any]] = []
        self.done: list[tuple[Any, bool]] = []  # batch, and whether with a penalty
        self.guided = False
        self.said: list[str] = []
        self._fails_in = self._scores_fail_in = 0  # calls; 0 is never
        self._spoil: Callable[[Tensor], Any] | None = None
        self.run.before_score = self._before_score
        self.run.after_loss = self._after_loss

    def play(self, length: int) -> None:
        """Public calls at random."""
        moves = [
            (8, self.good_step), (3, self.begin), (3, self.end_step), (2, self.weighted),
            (1, self.other_batch), (1, self.denoiser.skip_batch), (1, self.weights),
            (2, self.denoiser.end_epoch), (1, self.denoiser.report), (1, self.keep),
            (1, self.put_back), (1, self.read), (1, self.bad_penalty), (1, self.no_batch),
            (1, self.no_state), (2, self.break_loss), (1, self.break_scores), (1, self.both_losses),
        ]  # fmt: skip
        often = [weight for weight, _ in moves]
        for _ in range(length):
            move = self.draw.choices(moves, often)[0][1]
            self.said.append(move.__name__)
            try:
                move()
            except (DenoiserError, UsersOwnError) as error:
                self.said[-1] += f" ({type(error).__name__})"
            except Exception as error:
                what = f"{self}: {told(error)}"
                raise Wrong(f"undocumented {type(error).__name__}", what) from error

    def __str__(self) -> str:
        return f"set-up {SETUPS.index(self.setup)}, {', '.join(self.said[-6:])}"

    # ------------------------------------------------------------------ moves

    def next_batch(self) -> Any:
        self.step = (self.step + 1) % STEPS
        return self.run.batch(self.step)

    def begin(self) -> None:
        batch = self.next_batch()
        self.denoiser.before_step(batch)
        self.in_hand = batch

    def end_step(self, penalty: Any = "own") -> None:
        with_penalty = isinstance(penalty, str) and self.setup.penalty
        given = self.run.penalty() if isinstance(penalty, str) else penalty
        self._trained(lambda: self.denoiser.step(self.in_hand, given), with_penalty)

    def good_step(self) -> None:
        self.begin()
        self.end_step()

    def weighted(self) -> None:
        self.begin()

        def own_step() -> None:
            self.run.optimizer.zero_grad()
            self.denoiser.weighted_loss(self.in_hand).backward()
            self.run.optimizer.step()

        self._trained(own_step, False)

    def both_losses(self) -> None:
        self.begin()
        self.denoiser.plain_and_weighted_loss(self.in_hand)

    def other_batch(self) -> None:
        self._trained(lambda: self.denoiser.step(self.next_batch()), False)

    def weights(self) -> None:
        found = self.denoiser.sample_weights(self.next_batch())
        if not torch.isfinite(found).all():
            raise Wrong("weights that are not finite", str(self))

    def keep(self) -> None:
        self.states.append(self.denoiser.state_dict())

    def put_back(self) -> None:
        if self.states:
            self.denoiser.load_state_dict(self.draw.choice(self.states))

    def read(self) -> None:
        found = self.denoiser
        str((found.phase, found.memorization_point, found.noise_rate, found.history))

    def bad_penalty(self) -> None:
        self.begin()
        nothing: list[Any] = [torch.tensor(torch.nan), torch.tensor(torch.inf), torch.ones(2), "x"]
        self.end_step(self.draw.choice(nothing))

    def no_batch(self) -> None:
        self.denoiser.before_step(self.draw.choice(NO_BATCHES))

    def no_state(self) -> None:
        self.denoiser.load_state_dict(self.draw.choice([None, {}, {"format": 7}, [1]]))

    def break_loss(self) -> None:
        """One of the next calls of the loss raises, or returns what it must not."""
        self._fails_in = self.draw.randrange(1, 4)
        name = self.draw.choice(["raises", *SPOILS])
        self._spoil = SPOILS.get(name)
        self.said[-1] += f" {name} in {self._fails_in}"
        self.good_step()

    def break_scores(self) -> None:
        """One of the next calls of the scores raises."""
        self._scores_fail_in = self.draw.randrange(1, 3)

    # ------------------------------------------------------------------ what they are made of

    def _after_loss(self, losses: Tensor) -> Any:
        if self._fails_in:
            self._fails_in -= 1
            if self._fails_in == 0:
                if self._spoil is not None:
                    return self._spoil(losses)
                raise UsersOwnError("the loss")
        return losses

    def _before_score(self) -> None:
        if self._scores_fail_in:
            self._scores_fail_in -= 1
            if self._scores_fail_in == 0:
                raise UsersOwnError("the scores")

    def _trained(self, step: Callable[[], Any], with_penalty: bool) -> None:
        """A step, which was made if parameters moved, whatever it said then."""
        before, phase = self.run.parameters(), self.denoiser.phase
        try:
            step()
        finally:
            if difference(self.run.parameters(), before):
                self.done.append((self.in_hand, with_penalty))
                self.guided = self.guided or phase is Phase.SELF_GUIDED

    def mend(self) -> None:
        self._fails_in = self._scores_fail_in = 0
        self._spoil = None

    def plain(self) -> dict[str, Tensor]:
        """Parameters after the same steps in a plain loop."""
        model = MODELS[self.setup.model]()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for batch, with_penalty in self.done:
            more = penalty(model) if with_penalty else None  # first, as sums are in this order
            loss = losses(self.setup, model, batch).mean()
            optimizer.zero_grad()
            (loss if more is None else loss + more).backward()
            optimizer.step()
        return {name: p.detach() for name, p in model.named_parameters()}


def prepare(seed: int, tries: int | None) -> Trials:
    """Every trial is a sequence."""

    def trial(number: int) -> None:
        draw = random.Random(f"sequences {seed} {number}")
        player = Player(draw.choice(SETUPS), draw)
        with seeded(number):
            player.play(draw.randrange(8, 40))
            _goes_on(player)
        found = player.run.parameters()
        if not all(torch.isfinite(parameter).all() for parameter in found.values()):
            raise Wrong("parameters that are not finite", str(player))
        draws = player.setup.model == "neumf"  # its masks are other ones after a failed step
        if not player.guided and not draws and (told := difference(found, player.plain())):
            raise Wrong("Phase I is not plain training", f"{player}: {told}")

    return Trials(range(TRIES if tries is None else tries), trial, alone=True)


def _goes_on(player: Player) -> None:
    """An epoch without an error."""
    player.mend()
    denoiser = player.denoiser
    denoiser.skip_batch()
    try:
        for step in range(PER_EPOCH):
            player.step = step - 1
            player.said.append("then step")
            player.good_step()
        player.said.append("then end_epoch")
        denoiser.end_epoch()
        player.said.append("then report")
        denoiser.report()
        player.said.append("then state_dict")
        denoiser.state_dict()
    except Exception as error:
        raise Wrong("training does not go on", f"{player}: {told(error)}") from error
