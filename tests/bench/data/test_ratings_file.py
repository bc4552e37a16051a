from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from bench.data.interaction_data import InteractionData
from bench.data.load import load_data
from bench.data.ratings_file import frequent, read_ratings_file

SPLITS = ("train", "valid", "test")
Rows = list[tuple[str, str, float]]


def some_ratings() -> Rows:
    """Users a to f with 20 of 25 items each, ratings from 0.5 to 5 in halves."""
    generator = np.random.default_rng(0)
    return [
        (user, f"m{item}", float(generator.integers(1, 11)) / 2)
        for user in "abcdef"
        for item in generator.permutation(25)[:20]
    ]


def write(
    path: Path, rows: Rows, separator: str = ",", header: str | None = "userId,movieId,rating"
) -> Path:
    lines = [separator.join(map(str, (*row, 964982703))) for row in rows]
    if header is not None:
        lines.insert(0, header.replace(",", separator) + separator + "timestamp")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def same(one: InteractionData, other: InteractionData) -> bool:
    return all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name))
        for field in fields(InteractionData)
    )


def found(data: InteractionData) -> dict[tuple[int, int], bool]:
    """The flag of every pair in the three splits."""
    flags = {}
    for split in SPLITS:
        columns = (getattr(data, f"{split}_{name}") for name in ("users", "items", "clean"))
        for user, item, clean in zip(*columns, strict=True):
            assert (user, item) not in flags
            flags[int(user), int(item)] = bool(clean)
    return flags


def test_every_rating_is_in_one_split_but_the_noisy_ones_of_test(tmp_path: Path) -> None:
    rows = some_ratings()
    data = read_ratings_file(write(tmp_path / "a.csv", rows), least_interactions=1)
    users = {name: place for place, name in enumerate(sorted({row[0] for row in rows}))}
    items = {name: place for place, name in enumerate(sorted({row[1] for row in rows}))}
    truth = {(users[user], items[item]): rating >= 3 for user, item, rating in rows}
    flags = found(data)
    assert (data.n_users, data.n_items) == (6, 25)
    assert flags.items() <= truth.items()
    assert not any(truth[pair] for pair in truth.keys() - flags.keys())
    assert len(flags) < len(truth)
    assert data.test_clean is not None
    assert data.test_clean.all()
    assert np.bincount(data.train_users).tolist() == [16] * 6
    assert np.bincount(data.valid_users).tolist() == [2] * 6


def test_threshold_defines_noise(tmp_path: Path) -> None:
    rows, file = some_ratings(), tmp_path / "a.csv"
    write(file, rows)
    for least in (0.5, 2.5, 4.0):
        data = read_ratings_file(file, least_clean_rating=least, least_interactions=1)
        noisy = sum(not clean for clean in found(data).values())
        left_out = len(rows) - len(found(data))
        assert noisy + left_out == sum(rating < least for _, _, rating in rows)


def test_seed_decides_the_split(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", some_ratings())
    one, again, other = (
        read_ratings_file(file, least_interactions=1, seed=seed) for seed in (0, 0, 1)
    )
    assert same(one, again)
    assert not np.array_equal(one.train_items, other.train_items)


@pytest.mark.parametrize(
    ("separator", "header"),
    [
        ("\t", None),
        ("::", None),
        (";", None),
        (",", None),
        ("::", "user,item,rating"),
        ("\t", "User_Id,ITEM, Stars"),
    ],
)
def test_separators_and_header_are_recognised(
    tmp_path: Path, separator: str, header: str | None
) -> None:
    (tmp_path / "one").mkdir()
    rows = some_ratings()
    expected = read_ratings_file(write(tmp_path / "a", rows), least_interactions=1)
    data = read_ratings_file(
        write(tmp_path / "one" / ".." / "a", rows, separator, header), least_interactions=1
    )
    assert same(expected, data)
    assert data.name == f"{tmp_path.name}/a"


def test_columns_are_found_by_the_names_of_a_header(tmp_path: Path) -> None:
    expected = read_ratings_file(write(tmp_path / "a.csv", some_ratings()), least_interactions=1)
    lines = ["rating,title,asin,user"]
    lines += [f'{rating},"x, y",{item},{user}' for user, item, rating in some_ratings()]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.csv").write_text("\n".join(lines), encoding="utf-8")
    data = read_ratings_file(tmp_path / "b" / "a.csv", least_interactions=1)
    assert found(data) == found(expected)


def test_repeated_pair_counts_once_with_its_last_rating(tmp_path: Path) -> None:
    rows = some_ratings()
    turned = [(user, item, 5.5 - rating) for user, item, rating in rows]
    expected = read_ratings_file(write(tmp_path / "a.csv", rows), least_interactions=1)
    data = read_ratings_file(write(tmp_path / "a.csv", turned + rows), least_interactions=1)
    assert same(expected, data)


def test_frequent_equals_taking_out_one_at_a_time() -> None:
    generator = np.random.default_rng(0)
    pairs = np.unique(generator.geometric(0.1, size=(300, 2)) % 40, axis=0)
    left = {(user, item) for user, item in pairs.tolist()}
    rare = True
    while rare:
        rare = False
        for place in (0, 1):
            for name in range(40):
                of_name = {pair for pair in left if pair[place] == name}
                if 0 < len(of_name) < 4:
                    left -= of_name
                    rare = True
    assert 0 < len(left) < len(pairs)
    kept = frequent(pairs[:, 0], pairs[:, 1], 4)
    assert {(user, item) for user, item in pairs[kept].tolist()} == left
    assert not frequent(pairs[:, 0], pairs[:, 1], 200).any()


def test_rarely_seen_users_and_items_are_left_out_and_ids_have_no_gaps(tmp_path: Path) -> None:
    rows = [*some_ratings(), ("rare", "m3", 5.0), ("a", "seldom", 5.0)]
    data = read_ratings_file(write(tmp_path / "a.csv", rows), least_interactions=2)
    whole = read_ratings_file(write(tmp_path / "a.csv", rows), least_interactions=1)
    assert (whole.n_users, whole.n_items) == (7, 26)
    assert (data.n_users, data.n_items) == (6, 25)
    pairs = np.array(list(found(data)))
    assert set(pairs[:, 0]) == set(range(6))
    assert pairs[:, 1].max() < 25


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (" \n", r"^Expected ratings in .*a\.csv, got an empty file\. Add lines to it\.$"),
        (
            "user,item,rating\n",
            r"^Expected ratings in .*a\.csv, got only a header\. Add lines to it\.$",
        ),
        (
            "user,item\n1,2\n",
            r"^Expected user, item and rating in the first line of .*a\.csv, or a header that "
            r"names them, got: user, item\. Separate the columns by one of .* and name them user, "
            r"item and rating\.$",
        ),
        (
            "user,item,rating\n\n1,2,3\n1,3,good\n",
            r"^Expected user, item and a number as rating in line 4 of .*a\.csv, got: 1, 3, good\. "
            r"Mend that line\.$",
        ),
        ("1,2,3\n1,3\n", r"^Expected user, item and a number as rating in line 2 of .* got: 1, 3"),
        ("1,2,3\n1,3,nan\n", r"^Expected user, item and a number as rating in line 2 of .* nan\."),
        (
            "1,2,3\n",
            r"^Expected users and items with at least 2 interactions each in .*a\.csv, got none\. "
            r"Lower least_interactions\.$",
        ),
        (
            "1,2,3\n1,3,3\n2,2,3\n2,3,3\n",
            r"^Expected validation interactions in .*a\.csv, got none of 4 ratings, 4 of them "
            r"kept\. Take a larger file, or lower least_clean_rating\.$",
        ),
        (
            "\n".join(f"{user},{item},1" for user in range(10) for item in range(10)),
            r"^Expected clean test interactions in .*a\.csv, got none of 100 ratings",
        ),
    ],
)
def test_bad_file_is_refused_with_what_to_do(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=sentence):
        read_ratings_file(tmp_path / "a.csv", least_interactions=2)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"^Expected a file of ratings at .*a\.csv, got none\. Name one with lines of user, "
        r"item and rating\.$",
    ):
        read_ratings_file(tmp_path / "a.csv")


def test_quickstart_takes_a_file_of_ratings_or_a_folder_with_ratings_csv(tmp_path: Path) -> None:
    file = write(tmp_path / "ratings.csv", some_ratings())
    by_file = load_data(str(file), least_clean_rating=4.0, least_interactions=2)
    by_folder = load_data(str(tmp_path), least_clean_rating=4.0, least_interactions=2)
    assert same(by_file, by_folder)
    assert same(
        by_file, read_ratings_file(file, least_clean_rating=4.0, least_interactions=2)
    )
    for split in SPLITS:
        (tmp_path / f"{split}.tsv").write_text("0\t1\n", encoding="utf-8")
    assert load_data(str(tmp_path)).n_items == 2
