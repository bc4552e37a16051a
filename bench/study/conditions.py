"""The kinds of noise that methods are compared under, by name."""

from __future__ import annotations

import re

from bench.data.interaction_data import InteractionData
from bench.study.noise_injection import clean_part, inject_noise

FORMS = "natural, clean, injected-PERCENT or injected-popular-PERCENT"


def under_condition(name: str, data: InteractionData, seed: int) -> InteractionData:
    """The data as a condition has it.

    natural: as it is. clean: what is flagged as noise is taken out of train and valid.
    injected-20: noise put into the clean part, as `inject_noise` does, 20 % of the clean count;
    injected-popular-20: the same, popularity-biased.

    Args:
        seed: decides the injected pairs, and only those. Runs of one seed share them.
    """
    check_condition(name)
    if name == "natural":
        return data
    if name == "clean":
        return clean_part(data)
    percent = float(name.rpartition("-")[2])
    return inject_noise(
        data, rate=percent / 100, seed=seed, popularity_biased="-popular-" in name
    )


def check_condition(name: str) -> str:
    """The name, if it names a condition.

    Raises:
        ValueError: it names none.
    """
    if name in ("natural", "clean") or re.fullmatch(r"injected-(popular-)?\d+(\.\d+)?", name):
        return name
    raise ValueError(f"Expected {FORMS}, got {name!r}. Name one of these, such as injected-20.")
