"""Settings: what is refused, what is kept, and the presets."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from sgdl_wrap import DenoiserConfig, DenoiserError, Variants
from sgdl_wrap.fields import Kind, kinds

CHOICES = {
    "ranking": ("sampled", "full"),
    "loss_normalization": ("user", "global"),
    "denoising_scheduler": ("lstm", "mlp", "top_f", "none"),
    "similarity": ("alignment", "paper"),
    "weight_normalization": ("none", "mean"),
    "guidance_labels": ("both", "observed"),
    "denoising_learning": (True, False),
    "on_nonfinite": ("raise", "skip"),
    "memorized_data": ("switch", "current", "steady"),
    "loss_kind": ("auto", "ranking", "pointwise"),
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
    "meta_lr", "weighting_entropy", "memorized_data", "noise_rate", "switch_timeout", "assumed_lr",
    "guidance_size", "max_guidance_batch", "gumbel_draws",
}  # fmt: skip
WHOLE = {
    "history_length", "ranking_chunk", "noise_rate_sample", "switch_timeout", "weight_hidden",
    "denoising_scheduler_hidden", "factor_history", "gumbel_draws", "guidance_size",
    "max_guidance_batch", "guidance_interval", "seed",
}  # fmt: skip
OWN = {field.name for field in dataclasses.fields(DenoiserConfig)} - {"variants"}
INSIDE = {field.name for field in dataclasses.fields(Variants)}


def setting(name: str, value: object) -> DenoiserConfig | Variants:
    return (Variants if name in INSIDE else DenoiserConfig)(**{name: value})


def test_every_field_has_its_range_or_choices_here():
    assert {*CHOICES, *EDGES, "weight_inputs"} == OWN | INSIDE
    assert not OWN & INSIDE


def test_a_user_meets_sixteen_settings_at_most():
    assert len(dataclasses.fields(DenoiserConfig)) <= 16


@pytest.mark.parametrize(("name", "values"), CHOICES.items())
def test_each_choice_is_taken(name, values):
    for value in values:
        assert getattr(setting(name, value), name) == value


@pytest.mark.parametrize(("name", "values"), CHOICES.items())
@pytest.mark.parametrize("value", ["other", "", 3, []], ids=repr)
def test_any_other_choice_is_refused(name, values, value):
    listed = ", ".join(map(repr, (*values, None) if name in OPTIONAL else values))
    with pytest.raises(
        DenoiserError,
        match=rf"Expected {name} to be one of {listed}, got .*\. Choose one of them\.",
    ) as caught:
        setting(name, value)
    assert f"got {value!r}." in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (good, _) in EDGES.items() for value in good]
)
def test_values_at_the_edge_of_their_range_are_taken(name, value):
    assert getattr(setting(name, value), name) == value


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (_, bad) in EDGES.items() for value in bad]
)
def test_values_past_their_range_are_refused(name, value):
    with pytest.raises(
        DenoiserError, match=rf"Expected {name} (in \[.*[\])]|to be a whole number.*), got "
    ) as caught:
        setting(name, value)
    assert f"got {value!r}. Give " in str(caught.value)


@pytest.mark.parametrize("name", sorted(EDGES))
def test_nan_is_in_no_range(name):
    with pytest.raises(DenoiserError, match=rf"Expected {name} .*, got nan\. Give "):
        setting(name, float("nan"))


@pytest.mark.parametrize("name", sorted(EDGES))
@pytest.mark.parametrize("value", ["1", True, [1], 1j], ids=repr)
def test_what_is_no_number_is_refused(name, value):
    with pytest.raises(
        DenoiserError, match=rf"Expected {name} to be a number( or None)?, got .*\. Give one\."
    ):
        setting(name, value)


@pytest.mark.parametrize("name", sorted(EDGES))
def test_none_is_taken_where_it_means_something_and_refused_elsewhere(name):
    if name in OPTIONAL:
        assert getattr(setting(name, None), name) is None
        return
    with pytest.raises(
        DenoiserError, match=rf"Expected {name} to be a number, got None\. Give one\."
    ):
        setting(name, None)


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_fractions_are_refused_where_whole_numbers_count(name):
    with pytest.raises(
        DenoiserError,
        match=rf"Expected {name} to be a whole number( or None)?, got 12\.0\. Give an int\.",
    ):
        setting(name, 12.0)


@pytest.mark.parametrize("name", sorted(set(EDGES) - WHOLE))
def test_fractions_are_taken_elsewhere(name):
    assert getattr(setting(name, 0.5), name) == 0.5


@pytest.mark.parametrize(
    "value",
    [(), ("loss", "loss"), ("loss", "other"), "loss", ("",), ([],), 3],
    ids=["none", "twice", "unknown", "a string", "empty name", "list inside", "a number"],
)
def test_weight_inputs_must_be_distinct_known_names(value):
    with pytest.raises(
        DenoiserError,
        match=r"Expected weight_inputs to be distinct names out of \('loss', 'smoothed_loss', "
        r"'memorization_rate', 'suspicion', 'observed'\) or None, got .*\. Name at least one, "
        r"each once\.",
    ):
        Variants(weight_inputs=value)


def test_weight_inputs_become_a_tuple():
    assert Variants(weight_inputs=["observed", "loss"]).weight_inputs == ("observed", "loss")


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
        ({"lr": 1}, "got 'lr'. Did you mean meta_lr, assumed_lr, denoising_scheduler_lr?"),
    ],
    ids=["prefix", "case", "several", "one near to none", "a part"],
)  # fmt: skip
@pytest.mark.parametrize(
    "make",
    [
        lambda given: DenoiserConfig(**given),
        lambda given: DenoiserConfig().but(**given),
        lambda given: dataclasses.replace(DenoiserConfig(), **given),
        lambda given: DenoiserConfig().but(**{**DenoiserConfig().as_dict(), **given}),
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
        r"variants\.$",
    ):
        DenoiserConfig(xyz=1)


def test_the_signature_names_every_field_and_its_default():
    parameters = inspect.signature(DenoiserConfig).parameters
    assert set(parameters) == OWN | {"variants"}
    assert {parameter.kind for parameter in parameters.values()} == {
        inspect.Parameter.KEYWORD_ONLY
    }
    assert parameters["history_length"].default == 20


def test_copies_and_pickles_are_equal():
    config = DenoiserConfig(variants=Variants(weight_inputs=("loss", "observed")), noise_rate=0.25)
    for again in (copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert again == config
        assert again.but(seed=9).seed == 9


def test_equal_settings_are_equal_and_hash_alike():
    assert DenoiserConfig(seed=3) == DenoiserConfig().but(seed=3)
    names = ["loss", "observed"]
    found = hash(DenoiserConfig(variants=Variants(weight_inputs=names)))
    assert found == hash(DenoiserConfig(variants=Variants(weight_inputs=tuple(names))))


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
        variants = preset.variants
        assert variants.weight_hidden == variants.denoising_scheduler_hidden == 64
        assert variants.gumbel_tau == 0.05
        assert variants.denoising_scheduler == "lstm"
        assert variants.weight_inputs == ("loss",)
        assert variants.weight_normalization == "none"
        assert variants.noise_rate_shift == 0


# ------------------------------------------------------------------ what suits the loss


def test_what_is_left_open_is_settled_by_the_kind_of_loss():
    ranking = DenoiserConfig().settled(pointwise=False)
    assert (ranking.loss_kind, ranking.inputs) == ("ranking", ("suspicion",))
    assert (ranking.variants.memorized_data, ranking.meta_lr) == ("current", 0.02)
    assert ranking.variants.weighting_entropy == 0.5
    pointwise = DenoiserConfig().settled(pointwise=True)
    assert (pointwise.loss_kind, pointwise.inputs) == ("pointwise", ("loss",))
    assert (pointwise.variants.memorized_data, pointwise.meta_lr) == ("steady", 0.005)
    assert pointwise.variants.weighting_entropy == 0.5
    alone = DenoiserConfig(evidence_weights=False)
    found = [alone.settled(pointwise=pointwise).variants for pointwise in (False, True)]
    assert [variants.weighting_entropy for variants in found] == [0.02, 0.0]


def test_without_denoising_learning_the_memorized_data_are_those_of_the_switch():
    config = DenoiserConfig(variants=Variants(denoising_learning=False))
    assert config.settled(pointwise=False).variants.memorized_data == "switch"


@pytest.mark.parametrize("kind", ["ranking", "pointwise"])
@pytest.mark.parametrize("shown", [False, True])
def test_a_kind_of_loss_that_is_named_counts_whatever_batches_show(kind, shown):
    named = DenoiserConfig(loss_kind=kind).settled(pointwise=shown)
    assert named == DenoiserConfig().settled(pointwise=kind == "pointwise")
    assert named.settled(pointwise=shown) == named


@pytest.mark.parametrize("given", [{"weight_hidden": 32}, {"gumbel_tau": 1, "similarity": "paper"}])
def test_a_variant_that_is_given_as_a_field_is_told_its_place(given):
    inside = ", ".join(f"{name}=..." for name in given)
    with pytest.raises(DenoiserError) as caught:
        DenoiserConfig(**given)
    assert str(caught.value) == (
        f"Expected fields of DenoiserConfig, got {', '.join(map(repr, given))}. Write "
        f"DenoiserConfig(variants=Variants({inside}))."
    )


@pytest.mark.parametrize("value", [None, {"gumbel_tau": 1}, Variants])
def test_variants_are_variants(value):
    with pytest.raises(DenoiserError) as caught:
        DenoiserConfig(variants=value)
    assert str(caught.value) == (
        f"Expected variants to be Variants(...), got {value!r}. Write "
        "variants=Variants(field=value)."
    )


def test_but_changes_variants_by_their_own_names():
    config = DenoiserConfig(seed=4, variants=Variants(gumbel_tau=0.5))
    other = config.but(seed=5, gumbel_draws=8)
    assert other == DenoiserConfig(seed=5, variants=Variants(gumbel_tau=0.5, gumbel_draws=8))
    assert config.but(variants=Variants(), weight_hidden=3).variants == Variants(weight_hidden=3)


@pytest.mark.parametrize("pointwise", [False, True])
def test_what_was_chosen_stays_chosen(pointwise):
    config = DenoiserConfig().but(
        weight_inputs=("observed",), memorized_data="switch", weighting_entropy=0.3, meta_lr=0.1
    )
    assert config.settled(pointwise=pointwise).but(loss_kind="auto") == config


# ------------------------------------------------------------------ as a dict


def is_plain(value: object) -> bool:
    if type(value) is list:
        return all(map(is_plain, value))
    return type(value) in (type(None), bool, int, float, str)


@pytest.mark.parametrize("preset", [DenoiserConfig, DenoiserConfig.paper, DenoiserConfig.authors])
def test_as_dict_is_plain_and_rebuilds_the_same(preset):
    config = preset().but(weight_inputs=("observed", "loss"))
    values = config.as_dict()
    assert set(values) == OWN | INSIDE
    assert all(map(is_plain, values.values()))
    assert DenoiserConfig().but(**values) == config


def test_numpy_numbers_become_plain_ones():
    config = DenoiserConfig(meta_lr=np.float64(0.25), noise_rate=np.float64(0.5))
    stored = io.BytesIO()
    torch.save(config.as_dict(), stored)
    stored.seek(0)
    assert torch.load(stored, weights_only=True)["meta_lr"] == 0.25


def test_numpy_choices_become_plain_ones():
    config = DenoiserConfig(
        ranking=np.str_("full"), audit_only=np.bool_(True),
        variants=Variants(weight_inputs=[np.str_("loss")]),
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
            assert type(getattr(setting(name, value), name)) is expected


def test_fast_differs_in_how_often_and_from_how_much_it_learns():
    assert changed(DenoiserConfig.fast()) == {"guidance_interval": 12}


# ------------------------------------------------------------------ the page


def test_the_page_has_every_field_with_its_values_and_its_default():
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    table = page[page.index("| field | values | default |") :].strip().splitlines()
    rows = {
        name: f"| `{name}` | {as_on_the_page(kind)} | {default(name)} |"
        for name, kind in kinds(DenoiserConfig).items()
    }
    assert table[2:] == list(rows.values())


def as_on_the_page(kind: Kind) -> str:
    if kind.nested is not None:
        return f"{kind.nested.__name__}(...)"
    if kind.choices:
        return ", ".join(map(repr, kind.choices)).replace("'", '"')
    number = f"{'whole' if kind.whole else 'real'} in {kind.numbers}"
    return f"{number}, or None" if kind.optional else number


def default(name: str) -> str:
    value = getattr(DenoiserConfig(), name)
    if name == "variants":
        return "Variants()"
    return f'"{value}"' if isinstance(value, str) else str(value)
