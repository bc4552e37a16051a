from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bench.data.movielens import default_cache_dir, download_ml100k, split_ratings

NO_SUCH_URL = "file:///no/such/folder/ml-100k.zip"


def fake_archive(cache: Path) -> str:
    """A zip with two active users (60 and 100 ratings) and one of 59; returns its MD5."""
    generator = np.random.default_rng(0)
    lines = [
        f"{user}\t{item}\t{generator.integers(1, 6)}\t88{item:04d}\n"
        for user, count in ((7, 60), (9, 59), (12, 100))
        for item in generator.permutation(np.arange(1, 121))[:count]
    ]
    with zipfile.ZipFile(cache / "ml-100k.zip", "w") as archive:
        archive.writestr("ml-100k/u.data", "".join(lines))
    return hashlib.md5((cache / "ml-100k.zip").read_bytes()).hexdigest()


def test_cached_archive_is_read_and_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    md5 = fake_archive(tmp_path)
    data = download_ml100k(tmp_path, url=NO_SUCH_URL, md5=md5)
    assert data.n_users == 2
    assert np.bincount(data.train_users).tolist() == [48, 80]
    assert np.bincount(data.valid_users).tolist() == [6, 10]
    assert data.test_clean.all()
    assert 0 < len(data.test_users) < 16
    assert "no redistribution" in capsys.readouterr().out


def test_download_fetches_the_archive_into_the_cache(tmp_path: Path) -> None:
    source, cache = tmp_path / "source", tmp_path / "cache"
    source.mkdir()
    md5 = fake_archive(source)
    data = download_ml100k(cache, url=(source / "ml-100k.zip").as_uri(), md5=md5)
    assert data.n_users == 2
    assert [path.name for path in cache.iterdir()] == ["ml-100k.zip"]


def test_archive_with_another_checksum_is_refused(tmp_path: Path) -> None:
    found = fake_archive(tmp_path)
    with pytest.raises(
        ValueError,
        match=r"^Expected .*ml-100k\.zip to have the published MD5 0e33842e24a9c977be4e0107933c0723"
        rf", got {found}\. Delete that file and try again\.$",
    ):
        download_ml100k(tmp_path)


def test_failed_download_tells_where_to_put_the_archive(tmp_path: Path) -> None:
    with pytest.raises(
        ConnectionError,
        match=r"^Expected to download file:///no/such.*, got: .* Download it by hand and put it "
        r"at .*ml-100k\.zip\.$",
    ):
        download_ml100k(tmp_path, url=NO_SUCH_URL)


def test_cache_folder_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGDL_WRAP_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path


def ratings() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    users = np.repeat([4, 2], [20, 10])
    items = np.concatenate([np.arange(20), np.arange(10)])
    return users, items, np.tile([1, 2, 3, 4, 5], 6)


def test_split_keeps_every_rating_but_noisy_test_ones_and_flags_those_below_three() -> None:
    users, items, stars = ratings()
    data = split_ratings(users, items, stars, least_ratings=10)
    # Users 2 and 4 become 0 and 1.
    truth = {
        (int(user == 4), item): star >= 3
        for user, item, star in zip(users, items, stars, strict=True)
    }
    found = {}
    for split in ("train", "valid", "test"):
        columns = (getattr(data, f"{split}_{name}") for name in ("users", "items", "clean"))
        found.update({(user, item): clean for user, item, clean in zip(*columns, strict=True)})
    assert found.items() <= truth.items()
    assert not any(truth[pair] for pair in truth.keys() - found.keys())
    assert len(data.train_users) == 24
    assert len(data.valid_users) == 3


def test_seed_decides_the_split() -> None:
    one, again, other = (
        split_ratings(*ratings(), seed=seed, least_ratings=10) for seed in (0, 0, 1)
    )
    assert np.array_equal(one.train_items, again.train_items)
    assert not np.array_equal(np.sort(one.train_items), np.sort(other.train_items))


def test_no_active_user_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"^Expected users with at least 60 ratings, got none\. Lower least_ratings\.$",
    ):
        split_ratings(*ratings())
