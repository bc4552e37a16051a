"""Settings: what is refused, what is kept, and the presets."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import io
import pickle

import numpy as np
import pytest
import torch

from sgdl_wrap import DenoiserConfig, DenoiserError

CHOICES = {
    "ranking": ("sampled", "full"),
    "loss_normalization": ("user", "global"),
    "denoising_scheduler": ("lstm", "mlp", "top_f", "none"),
    "similarity": ("alignment", "paper"),
    "weight_normalization": ("none", "mean"),
    "guidance_labels": ("both", "observed"),
    "denoising_learning": (True, False),
    "on_nonfinite": ("raise", "skip"),
    "memorized_data": ("auto", "switch", "current", "steady"),
    "audit_only": (True, False),
    "evidence_weights": (True, False),
}
# name: values at the edge that are allowed, values just past it
EDGES = {
    "history_length": ([1, 1000], [0, 1001, -1]),
    "ranking_chunk": ([1, 2**40], [0, -5]),
    "noise_rate": ([None, 0, 0.0, 0.999], [1, 1.0, -0.01]),
    "noise_rate_shift": ([-1, 1, 0.0], [-1.001, 1.001]),
    "noise_rate_sample": ([10, 10**9], [9, 0]),
    "switch_timeout": ([None, 1, 10**6], [0, -1]),
    "assumed_lr": ([None, 0.0, 100.0], [-1e-9, float("inf")]),
    "meta_lr": ([None, 0.0, 100.0], [-1e-9, float("inf")]),
    "denoising_scheduler_lr": ([0.0, 100.0], [-1e-9, float("inf")]),
    "denoising_scheduler_entropy": ([0.0, 100.0], [-1e-9, float("inf")]),
    "weighting_entropy": ([None, 0.0, 100.0], [-1e-9, float("inf")]),
    "weight_hidden": ([1, 4096], [0]),
    "loss_smoothing": ([0, 0.0, 0.999], [1, 1.0, -0.1]),
    "denoising_scheduler_hidden": ([1, 4096], [0]),
    "factor_history": ([1, 1000], [0, 1001]),
    "gumbel_tau": ([1e-6, 50.0], [0, 9e-7, float("inf")]),
    "gumbel_draws": ([None, 1, 10**6], [0]),
    "guidance_size": ([None, 1, 10**9], [0, -1]),
    "max_guidance_batch": ([None, 1, 10**9], [0, -1]),
    "guidance_interval": ([1, 10**6], [0]),
    "seed": ([0, 2**63 - 1], [-1, 2**63]),
}
OPTIONAL = {
    "meta_lr", "weighting_entropy", "noise_rate", "switch_timeout", "assumed_lr", "guidance_size",
    "max_guidance_batch", "gumbel_draws",
}  # fmt: skip
WHOLE = {
    "history_length", "ranking_chunk", "noise_rate_sample", "switch_timeout", "weight_hidden",
    "denoising_scheduler_hidden", "factor_history", "gumbel_draws", "guidance_size",
    "max_guidance_batch", "guidance_interval", "seed",
}  # fmt: skip
FIELDS = {field.name for field in dataclasses.fields(DenoiserConfig)}


def test_every_field_has_its_range_or_choices_here():
    assert {*CHOICES, *EDGES, "weight_inputs"} == FIELDS


@pytest.mark.parametrize(("name", "values"), CHOICES.items())
def test_each_choice_is_taken(name, values):
    for value in values:
        assert getattr(DenoiserConfig(**{name: value}), name) == value


@pytest.mark.parametrize(("name", "values"), CHOICES.items())
@pytest.mark.parametrize("value", ["other", None, "", 3, []], ids=repr)
def test_any_other_choice_is_refused(name, values, value):
    listed = ", ".join(map(repr, values))
    with pytest.raises(
        DenoiserError,
        match=rf"Expected {name} to be one of {listed}, got .*\. Choose one of them\.",
    ) as caught:
        DenoiserConfig(**{name: value})
    assert f"got {value!r}." in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (good, _) in EDGES.items() for value in good]
)
def test_values_at_the_edge_of_their_range_are_taken(name, value):
    assert getattr(DenoiserConfig(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (_, bad) in EDGES.items() for value in bad]
)
def test_values_past_their_range_are_refused(name, value):
    with pytest.raises(
        DenoiserError, match=rf"Expected {name} (in \[.*[\])]|to be a whole number), got "
    ) as caught:
        DenoiserConfig(**{name: value})
    assert f"got {value!r}. Give " in str(caught.value)


@pytest.mark.parametrize("name", sorted(EDGES))
def test_nan_is_in_no_range(name):
    with pytest.raises(DenoiserError, match=rf"Expected {name} .*, got nan\. Give "):
        DenoiserConfig(**{name: float("nan")})


@pytest.mark.parametrize("name", sorted(EDGES))
@pytest.mark.parametrize("value", ["1", True, [1], 1j], ids=repr)
def test_what_is_no_number_is_refused(name, value):
    with pytest.raises(
        DenoiserError, match=rf"Expected {name} to be a number, got .*\. Give one\."
    ):
        DenoiserConfig(**{name: value})


@pytest.mark.parametrize("name", sorted(EDGES))
def test_none_is_taken_where_it_means_something_and_refused_elsewhere(name):
    if name in OPTIONAL:
        assert getattr(DenoiserConfig(**{name: None}), name) is None
        return
    with pytest.raises(
        DenoiserError, match=rf"Expected {name} to be a number, got None\. Give one\."
    ):
        DenoiserConfig(**{name: None})


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_fractions_are_refused_where_whole_numbers_count(name):
    with pytest.raises(
        DenoiserError,
        match=rf"Expected {name} to be a whole number, got 12\.0\. Give an int\.",
    ):
        DenoiserConfig(**{name: 12.0})


@pytest.mark.parametrize("name", sorted(set(EDGES) - WHOLE))
def test_fractions_are_taken_elsewhere(name):
    assert getattr(DenoiserConfig(**{name: 0.5}), name) == 0.5


@pytest.mark.parametrize(
    "value",
    [(), ("loss", "loss"), ("loss", "other"), "loss", ("",), ([],)],
    ids=["none", "twice", "unknown", "a string", "empty name", "list inside"],
)
def test_weight_inputs_must_be_distinct_known_names(value):
    with pytest.raises(
        DenoiserError,
        match=r"Expected weight_inputs to be 'auto' or distinct names out of \('loss', "
        r"'smoothed_loss', 'memorization_rate', 'suspicion', 'observed'\), got .*\. "
        r"Name at least one, each once\.",
    ):
        DenoiserConfig(weight_inputs=value)


def test_weight_inputs_become_a_tuple():
    assert DenoiserConfig(weight_inputs=["observed", "loss"]).weight_inputs == ("observed", "loss")


@pytest.mark.parametrize("value", [None, 3])
def test_weight_inputs_that_are_no_sequence_are_refused(value):
    with pytest.raises(DenoiserError, match="Expected weight_inputs to be 'auto' or distinct"):
        DenoiserConfig(weight_inputs=value)


# ------------------------------------------------------------------ the object


def test_is_frozen():
    config = DenoiserConfig()
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'seed'"):
        config.seed = 3


@pytest.mark.parametrize("value", [10, {"seed": 3}], ids=["number", "dict"])
def test_fields_are_given_by_name_alone(value):
    with pytest.raises(DenoiserError) as caught:
        DenoiserConfig(value)
    assert str(caught.value) == (
        f"Expected fields of DenoiserConfig by name, got {value!r} without one. Write "
        "DenoiserConfig(field=value); of a dict, DenoiserConfig(**settings)."
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"history": 5}, "got 'history'. Did you mean history_length?"),
        ({"Seed": 5}, "got 'Seed'. Did you mean seed?"),
        ({"gumbel": 1, "noise_rates": 0.2}, "got 'gumbel', 'noise_rates'. Did you mean "
         "gumbel_tau, noise_rate?"),
        ({"seed": 1, "histroy_length": 1, "xyz": 2}, "got 'histroy_length', 'xyz'. Did you mean "
         "history_length?"),
        ({"lr": 1}, "got 'lr'. Did you mean assumed_lr, meta_lr, denoising_scheduler_lr?"),
    ],
    ids=["prefix", "case", "several", "one near to none", "a part"],
)  # fmt: skip
@pytest.mark.parametrize(
    "make",
    [
        lambda given: DenoiserConfig(**given),
        lambda given: DenoiserConfig().but(**given),
        lambda given: dataclasses.replace(DenoiserConfig(), **given),
        lambda given: DenoiserConfig(**{**DenoiserConfig().as_dict(), **given}),
    ],
    ids=["construction", "but", "replace", "a stored dict"],
)
def test_a_name_that_is_no_field_is_refused_with_the_nearest_one(make, given, words):
    with pytest.raises(DenoiserError) as caught:
        make(given)
    assert str(caught.value) == f"Expected fields of DenoiserConfig, {words}"


def test_a_name_that_is_near_to_none_is_refused_with_all_fields():
    with pytest.raises(
        DenoiserError,
        match=r"^Expected fields of DenoiserConfig, got 'xyz'\. Choose among history_length, .*, "
        r"seed\.$",
    ):
        DenoiserConfig(xyz=1)


def test_the_signature_names_every_field_and_its_default():
    parameters = inspect.signature(DenoiserConfig).parameters
    assert set(parameters) == FIELDS
    assert {parameter.kind for parameter in parameters.values()} == {
        inspect.Parameter.KEYWORD_ONLY
    }
    assert parameters["history_length"].default == 20


def test_copies_and_pickles_are_equal():
    config = DenoiserConfig(weight_inputs=("loss", "observed"), noise_rate=0.25)
    for again in (copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert again == config
        assert again.but(seed=9).seed == 9


def test_equal_settings_are_equal_and_hash_alike():
    assert DenoiserConfig(seed=3) == DenoiserConfig().but(seed=3)
    names = ["loss", "observed"]
    found = hash(DenoiserConfig(weight_inputs=names))
    assert found == hash(DenoiserConfig(weight_inputs=tuple(names)))


def test_but_changes_a_copy():
    config = DenoiserConfig(seed=4)
    other = config.but(history_length=5, ranking="full")
    assert (config.history_length, config.ranking) == (20, "sampled")
    assert (other.history_length, other.ranking, other.seed) == (5, "full", 4)


def test_but_checks_what_it_changes():
    with pytest.raises(
        DenoiserError,
        match=r"Expected history_length in \[1, 1000\], got 0\. Give a value in that range\.",
    ):
        DenoiserConfig().but(history_length=0)


def changed(preset: DenoiserConfig) -> dict[str, object]:
    return {
        name: value for name, value in preset.as_dict().items()
        if value != DenoiserConfig().as_dict()[name]
    }  # fmt: skip


def test_the_paper_preset_ranks_every_item_and_takes_the_printed_cosine():
    assert changed(DenoiserConfig.paper()) == {
        "ranking": "full", "switch_timeout": 60,
        "noise_rate_sample": 1_000_000_000,
        "gumbel_draws": 1, "similarity": "paper", "guidance_size": None, "guidance_interval": 1,
        "assumed_lr": 0.001, "meta_lr": 0.001, "denoising_scheduler_lr": 0.001,
        "denoising_scheduler_entropy": 0.0, "weighting_entropy": 0.0, "memorized_data": "switch",
        "weight_inputs": ["loss"], "weight_normalization": "none", "evidence_weights": False,
    }  # fmt: skip


def test_the_authors_preset_samples_and_has_no_factor_history():
    assert changed(DenoiserConfig.authors()) == {
        "factor_history": 1, "similarity": "paper", "gumbel_draws": 64,
        "guidance_size": None, "guidance_interval": 1,
        "assumed_lr": 0.001, "meta_lr": 0.001, "denoising_scheduler_lr": 0.001,
        "denoising_scheduler_entropy": 0.0, "weighting_entropy": 0.0, "memorized_data": "switch",
        "weight_inputs": ["loss"], "weight_normalization": "none", "evidence_weights": False,
    }  # fmt: skip


def test_both_presets_keep_what_the_paper_fixes():
    for preset in (DenoiserConfig.paper(), DenoiserConfig.authors()):
        assert preset.weight_hidden == preset.denoising_scheduler_hidden == 64
        assert preset.gumbel_tau == 0.05
        assert preset.denoising_scheduler == "lstm"
        assert preset.weight_inputs == ("loss",)
        assert preset.weight_normalization == "none"
        assert preset.noise_rate_shift == 0


# ------------------------------------------------------------------ what suits the loss


def test_what_is_left_open_is_settled_by_the_kind_of_loss():
    ranking = DenoiserConfig().settled(pointwise=False)
    assert ranking.weight_inputs == ("suspicion",)
    assert (ranking.memorized_data, ranking.meta_lr) == ("current", 0.02)
    assert ranking.weighting_entropy == 0.5
    pointwise = DenoiserConfig().settled(pointwise=True)
    assert pointwise.weight_inputs == ("loss",)
    assert (pointwise.memorized_data, pointwise.meta_lr) == ("steady", 0.005)
    assert pointwise.weighting_entropy == 0.5
    alone = DenoiserConfig(evidence_weights=False)
    found = [alone.settled(pointwise=pointwise).weighting_entropy for pointwise in (False, True)]
    assert found == [0.02, 0.0]


@pytest.mark.parametrize("pointwise", [False, True])
def test_what_was_chosen_stays_chosen(pointwise):
    config = DenoiserConfig(
        weight_inputs=("observed",), memorized_data="switch", meta_lr=0.1, weighting_entropy=0.3
    )
    assert config.settled(pointwise=pointwise) == config


# ------------------------------------------------------------------ as a dict


def is_plain(value: object) -> bool:
    if type(value) is list:
        return all(map(is_plain, value))
    return type(value) in (type(None), bool, int, float, str)


@pytest.mark.parametrize("preset", [DenoiserConfig, DenoiserConfig.paper, DenoiserConfig.authors])
def test_as_dict_is_plain_and_rebuilds_the_same(preset):
    config = preset().but(weight_inputs=("observed", "loss"))
    values = config.as_dict()
    assert set(values) == FIELDS
    assert all(map(is_plain, values.values()))
    assert DenoiserConfig(**values) == config


def test_numpy_numbers_become_plain_ones():
    config = DenoiserConfig(meta_lr=np.float64(0.25), noise_rate=np.float64(0.5))
    stored = io.BytesIO()
    torch.save(config.as_dict(), stored)
    stored.seek(0)
    assert torch.load(stored, weights_only=True)["meta_lr"] == 0.25


def test_numpy_choices_become_plain_ones():
    config = DenoiserConfig(
        ranking=np.str_("full"), audit_only=np.bool_(True), weight_inputs=[np.str_("loss")]
    )
    stored = io.BytesIO()
    torch.save(config.as_dict(), stored)
    stored.seek(0)
    assert torch.load(stored, weights_only=True) == config.as_dict()
    assert type(config.ranking) is str
    assert config.audit_only is True


def test_several_choices_at_once_are_refused():
    with pytest.raises(DenoiserError, match=r"^Expected ranking to be one of .* Choose one"):
        DenoiserConfig(ranking=np.array(["full", "sampled"]))


def test_a_number_too_large_for_a_float_is_refused():
    with pytest.raises(DenoiserError, match=r"^Expected meta_lr in \[0, inf\), got 1000"):
        DenoiserConfig(meta_lr=10**400)


@pytest.mark.parametrize("name", sorted(EDGES))
def test_a_setting_is_of_one_type_however_it_was_written(name):
    # a stored 0 beside 0.0 would read as another setting where text is compared
    expected = int if name in WHOLE else float
    for value in EDGES[name][0]:
        if value is not None:
            assert type(getattr(DenoiserConfig(**{name: value}), name)) is expected


def test_fast_differs_in_how_often_and_from_how_much_it_learns():
    assert changed(DenoiserConfig.fast()) == {"guidance_interval": 12}
