"""The adaptive denoising scheduler s(factors; φ): which memorized samples guide (Sec. 3.2.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sgdl_wrap.guiding.weighting import draw_xavier_, linear

N_FACTORS = 2  # the loss and the gradient similarity


class LSTMScheduler(nn.Module):
    """o_m = v·h_T, h the LSTM's state after the last visits of sample m (Eq. 10).

    Args:
        hidden: d units; the LSTM has 4d² + 12d weights, counting its biases once (Sec. 3.3.3).
        generator: draws the initial weights.
        device, dtype: where and in what precision it computes.
    """

    def __init__(
        self, hidden: int, *, generator: torch.Generator, device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        # made on no device, so that its own initialisation draws nothing
        blank = nn.LSTM(N_FACTORS, hidden, device=torch.device("meta"), dtype=dtype)
        self.lstm: nn.LSTM = blank.to_empty(device=device)
        for name, weight in self.lstm.named_parameters():
            if "weight" in name:
                draw_xavier_(weight, generator)
            else:
                nn.init.zeros_(weight)
        self.output = linear(hidden, 1, generator, device, dtype)

    def forward(self, factors: Tensor, visits: Tensor) -> Tensor:
        """Logits o, (n,).

        Args:
            factors: (T, n, 2), oldest visit first; what follows a sample's last visit is ignored.
            visits: (n,) int64, how many of the T are lived, at least 1.
        """
        states, _ = self.lstm(factors)
        last = states[visits - 1, torch.arange(len(visits), device=visits.device)]
        logits: Tensor = self.output(last).squeeze(-1)
        return logits


class MLPScheduler(nn.Module):
    """o_m of a one-layer perceptron over the last visit's factors (Sec. 4.3.3, Table 5)."""

    def __init__(
        self, hidden: int, *, generator: torch.Generator, device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.hidden = linear(N_FACTORS, hidden, generator, device, dtype)
        self.output = linear(hidden, 1, generator, device, dtype)

    def forward(self, factors: Tensor, visits: Tensor) -> Tensor:
        """Logits o, (n,); arguments as of :class:`LSTMScheduler`."""
        latest = factors[visits - 1, torch.arange(len(visits), device=visits.device)]
        logits: Tensor = self.output(torch.relu(self.hidden(latest))).squeeze(-1)
        return logits
