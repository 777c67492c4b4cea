"""Where images come from: what is found first, what is refused, and that nothing is left half-made."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnstudy.data import archives, sources, synthetic
from bnstudy.data.sources import DataError, locate

Arrays = dict[str, np.ndarray[Any, Any]]


def some_arrays(shape: tuple[int, int, int] = (32, 32, 3), num_classes: int = 10) -> Arrays:
    draw = np.random.default_rng(1)
    made: Arrays = {}
    for split, count in (("train", 40), ("test", 20)):
        made[f"{split}_images"] = draw.integers(0, 256, (count, *shape), dtype=np.uint8)
        made[f"{split}_labels"] = np.arange(count, dtype=np.int64) % num_classes
    return made


def lay_out(folder: Path, arrays: Arrays, about: dict[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True)
    for part, array in arrays.items():
        np.save(folder / f"{part}.npy", array)
    if about is not None:
        (folder / "SOURCE.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


def digest(*arrays: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def find(name: str, root: Path, **options: Any) -> sources.Source:
    return locate(name, root, **{"download": False, "report": lambda text: None, **options})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A synthetic of a few images."""
    monkeypatch.setitem(sources.KNOWN, "cifar10", sources.Known((3, 32, 32), 40, 20, 10))


# What is found


def test_arrays_are_found_with_the_checksum_of_their_bytes(tmp_path: Path) -> None:
    arrays = some_arrays()
    lay_out(tmp_path / "cifar10", arrays)
    source = find("cifar10", tmp_path)
    expected = digest(*(arrays[p] for p in ("train_images", "train_labels", "test_images", "test_labels")))
    assert source.identity == {"name": "cifar10", "source": "arrays", "sha256": expected}
    assert (source.num_train, source.num_test, source.shape, source.num_classes) == (40, 20, (3, 32, 32), 10)
    assert not source.synthetic and source.folder == tmp_path / "cifar10"
    assert pickle.loads(pickle.dumps(source)) == source


def test_the_order_in_memory_is_not_part_of_the_checksum(tmp_path: Path) -> None:
    arrays = some_arrays()
    lay_out(tmp_path / "c" / "cifar10", arrays)
    lay_out(tmp_path / "fortran" / "cifar10", {part: np.asfortranarray(array) for part, array in arrays.items()})
    assert find("cifar10", tmp_path / "c").sha256 == find("cifar10", tmp_path / "fortran").sha256


def test_loaded_arrays_are_those_saved_and_cannot_be_written(tmp_path: Path) -> None:
    arrays = some_arrays()
    lay_out(tmp_path / "cifar10", arrays)
    loaded = sources.load(find("cifar10", tmp_path))
    for part, array in arrays.items():
        np.testing.assert_array_equal(getattr(loaded, part), array)
    with pytest.raises(ValueError, match="read-only"):
        loaded.train_images[0] = 0


def test_a_folder_of_another_name_may_hold_other_shapes_and_classes(tmp_path: Path) -> None:
    lay_out(tmp_path / "mine", some_arrays((20, 24, 1), num_classes=4))
    source = find("mine", tmp_path)
    assert (source.shape, source.num_classes) == ((1, 20, 24), 4)


def test_a_relative_root_is_found_from_another_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path / "data" / "cifar10", some_arrays())
    monkeypatch.chdir(tmp_path)
    source = find("cifar10", Path("data"))
    monkeypatch.chdir("/")
    assert len(sources.load(source).train_labels) == 40


def test_checksums_are_verified_for_the_arrays_that_have_one(tmp_path: Path) -> None:
    arrays = some_arrays()
    about = {"sha256": {"train_images": digest(arrays["train_images"])}}
    assert find("cifar10", lay_out(tmp_path / "cifar10", arrays, about).parent).kind == "arrays"


def test_the_title_is_read_and_is_no_part_of_the_identity(tmp_path: Path) -> None:
    arrays, title = some_arrays(), "CIFAR-10 (59,889 of 60,000 images exact)"
    lay_out(tmp_path / "plain" / "cifar10", arrays)
    lay_out(tmp_path / "titled" / "cifar10", arrays, {"name": title, "inexact": {"train": [3]}, "note": "x"})
    plain, titled = (find("cifar10", tmp_path / folder) for folder in ("plain", "titled"))
    assert (plain.title, titled.title) == ("", title)
    assert titled.identity == plain.identity
    assert titled.record == {**plain.identity, "title": title}


def test_files_are_checked_again_once_they_change(tmp_path: Path) -> None:
    arrays = some_arrays()
    folder = lay_out(tmp_path / "cifar10", arrays)
    before = find("cifar10", tmp_path)
    np.save(folder / "train_images.npy", 255 - arrays["train_images"])
    assert find("cifar10", tmp_path).sha256 != before.sha256
    with pytest.raises(DataError, match="changed since they were checked"):
        sources.load(before)


# What is refused


def changed(part: str, change: Callable[[np.ndarray[Any, Any]], Any]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        np.save(folder / f"{part}.npy", change(np.load(folder / f"{part}.npy")))

    return act


def labelled(part: str, value: int) -> Callable[[Path], None]:
    return changed(part, lambda labels: np.where(np.arange(len(labels)) == 3, value, labels))


def overwritten(file: str, content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / file).write_bytes(content)


def truncated(part: str) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / f"{part}.npy", (folder / f"{part}.npy").stat().st_size - 100)


def replaced_by_folder(folder: Path) -> None:
    (folder / "test_labels.npy").unlink()
    (folder / "test_labels.npy").mkdir()


def archived(folder: Path) -> None:
    with (folder / "test_labels.npy").open("wb") as file:
        np.savez(file, labels=np.zeros(20, np.int64))


BAD: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "truncated images": (truncated("train_images"), "train_images.npy", "truncated.*copy it again"),
    "truncated labels": (truncated("test_labels"), "test_labels.npy", "truncated.*copy it again"),
    "empty file": (overwritten("test_images.npy", b""), "test_images.npy", "truncated.*copy it again"),
    "text": (overwritten("train_labels.npy", b"3 1 4 1 5"), "train_labels.npy", "not a .npy file.*copy it again"),
    "several arrays": (archived, "test_labels.npy", "archive of several.*numpy.save"),
    "missing": (lambda f: (f / "test_labels.npy").unlink(), "test_labels.npy", "missing.*add it"),
    "a folder": (replaced_by_folder, "test_labels.npy", "cannot be read.*permissions"),
    "objects": (changed("train_labels", lambda a: a.astype(object)), "train_labels.npy", "copy it again"),
    "float images": (changed("train_images", lambda a: a / 255), "train_images.npy", "float64.*uint8"),
    "signed images": (changed("test_images", lambda a: a.astype(np.int8)), "test_images.npy", "int8.*uint8"),
    "flat images": (changed("train_images", lambda a: a.reshape(40, -1)), "train_images.npy", "shape.*save"),
    "no channels": (changed("train_images", lambda a: a[..., 0]), "test_images.npy", "make them alike"),
    "channels first": (changed("train_images", lambda a: a.transpose(0, 3, 1, 2)), "train_images.npy", "transpose"),
    "other shape": (changed("test_images", lambda a: a[:, :28, :28]), "test_images.npy", "make them alike"),
    "column of labels": (changed("test_labels", lambda a: a[:, None]), "test_labels.npy", "one label per image"),
    "too few labels": (changed("train_labels", lambda a: a[1:]), "train_labels.npy", "40 images.*one label per image"),
    "label 10": (labelled("train_labels", 10), "train_labels.npy", "0 to 10, out of range: number.*0..9"),
    "label 10 in the test": (labelled("test_labels", 10), "test_labels.npy", "out of range: number.*0..9"),
    "label -1": (labelled("test_labels", -1), "test_labels.npy", "from -1.*out of range: number"),
    "not JSON": (overwritten("SOURCE.json", b"{"), "SOURCE.json", "JSON.*restore or delete"),
    "a list": (overwritten("SOURCE.json", b"[]"), "SOURCE.json", "restore or delete"),
    "unknown source": (overwritten("SOURCE.json", b'{"source": "hearsay"}'), "SOURCE.json", "restore or delete"),
    "checksum text": (overwritten("SOURCE.json", b'{"sha256": "abc"}'), "SOURCE.json", "restore or delete"),
    "a number for a name": (overwritten("SOURCE.json", b'{"name": 10}'), "SOURCE.json", "name.*restore or delete"),
    "other checksum": (
        overwritten("SOURCE.json", b'{"sha256": {"test_images": "0123"}}'),
        "test_images.npy",
        "sha256 differs.*copy it again",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("allow_synthetic", [False, True])
def test_bad_arrays_are_an_error_that_names_file_and_remedy(tmp_path: Path, case: str, allow_synthetic: bool) -> None:
    spoil, file, remedy = BAD[case]
    spoil(lay_out(tmp_path / "cifar10", some_arrays()))
    with pytest.raises(DataError, match=f"(?s){tmp_path / 'cifar10' / file}.*{remedy}"):
        find("cifar10", tmp_path, allow_synthetic=allow_synthetic)


def test_images_of_another_shape_are_not_passed_off_under_a_known_name(tmp_path: Path) -> None:
    lay_out(tmp_path / "cifar10", some_arrays((28, 28, 3)))
    with pytest.raises(DataError, match=r"train_images.npy has images of shape \(28, 28, 3\).*data.name"):
        find("cifar10", tmp_path)


def test_no_images_at_all(tmp_path: Path) -> None:
    lay_out(tmp_path / "mine", {part: array[:0] for part, array in some_arrays().items()})
    with pytest.raises(DataError, match=r"train_images.npy"):
        find("mine", tmp_path)


@pytest.mark.parametrize(
    "train, test, says",
    [
        (np.arange(1, 41) % 10 + 1, 1, r"never has the label 0, but has 10: number the classes 0\.\.9"),
        (np.arange(40) % 3 * 2, 4, r"never has the label 1, but has 4: number the classes 0\.\.2"),
        (np.arange(40) % 5, 9, r"test_labels.npy has labels from 9 to 9, out of range: number the classes 0\.\.4"),
    ],
)
def test_classes_of_unknown_data_leave_no_gap(
    tmp_path: Path, train: np.ndarray[Any, Any], test: int, says: str
) -> None:
    labels = {"train_labels": train.astype(np.int64), "test_labels": np.full(20, test, np.int64)}
    lay_out(tmp_path / "mine", some_arrays() | labels)
    with pytest.raises(DataError, match=says):
        find("mine", tmp_path)


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.write_text("")
    with pytest.raises(DataError, match=rf"{root}/cifar10 cannot be read \(Not a directory\).*DATA_ROOT"):
        find("cifar10", root, allow_synthetic=True)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind this user")
@pytest.mark.parametrize("mode", [0o000, 0o444])
def test_a_folder_without_permissions(tmp_path: Path, mode: int) -> None:
    folder = lay_out(tmp_path / "cifar10", some_arrays())
    folder.chmod(mode)
    try:
        with pytest.raises(DataError, match=rf"{folder}.* cannot be read .*permissions"):
            find("cifar10", tmp_path)
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize("function", ["os.listdir", "numpy.load"])
def test_what_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    folder = lay_out(tmp_path / "cifar10", some_arrays())

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(function, refuse)
    with pytest.raises(DataError, match=rf"{folder}.* cannot be read \(Permission denied\).*permissions"):
        find("cifar10", tmp_path)


def test_a_root_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(DataError, match=rf"{tmp_path} cannot be written to \(Permission denied\).*DATA_ROOT"):
        find("cifar10", tmp_path)


@pytest.mark.usefixtures("small")
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.save", refuse)
    with pytest.raises(DataError, match=rf"{tmp_path} cannot be written to \(No space left on device\).*large enough"):
        find("cifar10", tmp_path, allow_synthetic=True)
    assert not list(tmp_path.glob(".*.part"))


def test_nothing_there_says_what_was_tried_and_both_remedies(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        find("fashion_mnist", tmp_path)
    text = str(caught.value)
    assert "'fashion_mnist' is not available" in text.splitlines()[0]
    tried, remedies = text.split("Remedies:")
    assert f"{tmp_path}/fashion_mnist/train_images.npy" in tried
    assert f"{tmp_path}/FashionMNIST/raw is not there, and downloading is switched off" in tried
    assert f"into {tmp_path}/fashion_mnist (images uint8 (N, 28, 28, 1), labels int64 (N,))" in remedies
    assert "network" in remedies and f"{tmp_path}/FashionMNIST/raw" in remedies


def test_an_unknown_name_has_no_synthetic_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)'mine' is not available.*put train_images.npy.*cifar10, fashion_mnist"):
        find("mine", tmp_path, allow_synthetic=True)


# Synthetics


@pytest.mark.usefixtures("small")
def test_synthetic_data_is_made_only_if_allowed_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError):
        find("cifar10", tmp_path)
    said: list[str] = []
    source = find("cifar10", tmp_path, allow_synthetic=True, report=said.append)
    assert said == ["cifar10: generating synthetic images"]
    assert source.synthetic and source.identity["source"] == "synthetic"
    assert (source.num_train, source.num_test, source.shape, source.num_classes) == (40, 20, (3, 32, 32), 10)
    assert source.folder == tmp_path / "synthetic" / "cifar10"
    assert json.loads((source.folder / "SOURCE.json").read_text())["source"] == "synthetic"
    assert sources.load(source).train_images.shape == (40, 32, 32, 3)
    monkeypatch.setattr(synthetic, "images", None)  # it is there now
    assert find("cifar10", tmp_path, allow_synthetic=True) == source
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic"]


@pytest.mark.usefixtures("small")
def test_real_data_comes_before_a_synthetic_data(tmp_path: Path) -> None:
    find("cifar10", tmp_path, allow_synthetic=True)
    lay_out(tmp_path / "cifar10", some_arrays())
    assert find("cifar10", tmp_path, allow_synthetic=True).kind == "arrays"


@pytest.mark.usefixtures("small")
def test_synthetic_data_cannot_pass_for_real_data(tmp_path: Path) -> None:
    made = find("cifar10", tmp_path, allow_synthetic=True)
    made.folder.rename(tmp_path / "cifar10")
    with pytest.raises(DataError, match=r"cifar10/SOURCE.json says that these images are synthetic.*move"):
        find("cifar10", tmp_path)
    moved = find("cifar10", tmp_path, allow_synthetic=True)
    assert moved.synthetic and moved.identity == made.identity


@pytest.mark.usefixtures("small")
def test_a_damaged_or_unlabelled_stand_in_is_refused(tmp_path: Path) -> None:
    folder = find("cifar10", tmp_path, allow_synthetic=True).folder
    (folder / "SOURCE.json").rename(tmp_path / "kept")
    with pytest.raises(DataError, match=f"does not say that these images are synthetic data: delete {folder}"):
        find("cifar10", tmp_path, allow_synthetic=True)
    (tmp_path / "kept").rename(folder / "SOURCE.json")
    np.save(folder / "test_labels.npy", np.zeros(20, np.int64))
    with pytest.raises(DataError, match=r"test_labels\.npy is not the file"):
        find("cifar10", tmp_path, allow_synthetic=True)


# Two at once, and what killed ones leave


@pytest.mark.usefixtures("small")
def test_two_that_make_a_data_set_at_once_end_with_one_whole_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, make = threading.Barrier(2), synthetic.images

    def make_together(*args: Any) -> Arrays:
        both.wait(timeout=30)
        made = make(*args)
        both.wait(timeout=30)
        return made

    monkeypatch.setattr(synthetic, "images", make_together)
    found: list[sources.Source] = []
    threads = [
        threading.Thread(target=lambda: found.append(find("cifar10", tmp_path, allow_synthetic=True))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and found[0] == found[1]
    assert sources.load(found[0]).train_images.any()
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic"]
    assert [path.name for path in (tmp_path / "synthetic").iterdir()] == ["cifar10"]


def prepared(name: str, root: Path, work: Path, **options: Any) -> Path:
    return lay_out(work / "arrays", some_arrays())


def test_what_torchvision_had_is_laid_out_as_arrays_for_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "prepare", prepared)
    source = find("cifar10", tmp_path)
    assert source.kind == "torchvision" and source.folder == tmp_path / "cifar10"
    assert set(json.loads((source.folder / "SOURCE.json").read_text())["sha256"]) == set(sources.PARTS)
    monkeypatch.setattr(archives, "prepare", None)
    assert find("cifar10", tmp_path) == source
    assert [path.name for path in tmp_path.iterdir()] == ["cifar10"]


def test_another_folder_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "prepare", prepared)
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=rf"{tmp_path / 'cifar10'} is in the way.*move it away"):
        find("cifar10", tmp_path)
    assert (tmp_path / "cifar10" / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["cifar10"]


def test_an_empty_folder_is_not_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "prepare", prepared)
    (tmp_path / "cifar10").mkdir()
    assert find("cifar10", tmp_path).num_train == 40


def test_damaged_archives_are_an_error_even_where_synthetic_data_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*args: Any, **options: Any) -> Path:
        raise archives.Damaged("/some/file.gz is truncated: fetch it again")

    monkeypatch.setattr(archives, "prepare", damaged)
    with pytest.raises(DataError, match=r"cifar10: /some/file\.gz is truncated: fetch it again"):
        find("cifar10", tmp_path, allow_synthetic=True)
    assert not list(tmp_path.iterdir())


def test_work_folders_of_killed_processes_go_those_at_work_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "prepare", prepared)
    for name, age_sec in (("old", 3 * 86400), ("new", 60)):
        lay_out(tmp_path / f".cifar10-{name}.part", {})
        os.utime(tmp_path / f".cifar10-{name}.part", (time.time() - age_sec,) * 2)
    find("cifar10", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"cifar10", ".cifar10-new.part"}
