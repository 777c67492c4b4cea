"""torchvision's files: only what has the published md5 is read, and no silent network is waited for."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import socket
import tarfile
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnstudy.data import archives, sources

# What is read. The archives are small ones, whose md5 torchvision is told.


@pytest.fixture
def fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with four archives of Fashion-MNIST's format: 6 and 4 images, the i-th of value i and label i."""
    from torchvision.datasets import FashionMNIST

    root = tmp_path / "data"
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    md5 = []
    for split, count in (("train", 6), ("t10k", 4)):
        labels = np.arange(count, dtype=np.uint8)
        images = np.broadcast_to(labels[:, None, None], (count, 28, 28))
        for file, array in ((f"{split}-images-idx3-ubyte.gz", images), (f"{split}-labels-idx1-ubyte.gz", labels)):
            head = (0x800 + array.ndim).to_bytes(4, "big") + b"".join(n.to_bytes(4, "big") for n in array.shape)
            (raw / file).write_bytes(gzip.compress(head + array.tobytes()))
            md5.append((file, hashlib.md5((raw / file).read_bytes()).hexdigest()))
    monkeypatch.setattr(FashionMNIST, "resources", md5)
    return root


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with an archive of CIFAR-10's format: five batches of 2 images and one of 4, red 1, green 2, blue 3."""
    from torchvision.datasets import CIFAR10

    root = tmp_path / "data"
    root.mkdir()
    planes = np.repeat(np.array([1, 2, 3], np.uint8), 32 * 32)

    def batch(count: int) -> bytes:
        return pickle.dumps({"data": np.tile(planes, (count, 1)), "labels": list(range(count))})

    contents = {f"data_batch_{i}": batch(2) for i in range(1, 6)}
    contents |= {"test_batch": batch(4), "batches.meta": pickle.dumps({"label_names": list("abcdefghij")})}
    with tarfile.open(root / CIFAR10.filename, "w:gz") as archive:
        for file, content in contents.items():
            entry = tarfile.TarInfo(f"{CIFAR10.base_folder}/{file}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    md5 = {file: hashlib.md5(content).hexdigest() for file, content in contents.items()}
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5((root / CIFAR10.filename).read_bytes()).hexdigest())
    monkeypatch.setattr(CIFAR10, "train_list", [[f"data_batch_{i}", md5[f"data_batch_{i}"]] for i in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5["batches.meta"]})
    return root


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "silent" in request.fixturenames:
        return

    def unreachable(*args: Any, **options: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", unreachable)
    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, max_hops: url)


def prepare(name: str, root: Path, *, download: bool = False) -> dict[str, np.ndarray[Any, Any]]:
    work = root.parent / "work"
    work.mkdir()
    before = contents(root)
    try:
        made = archives.prepare(name, root, work, download=download, report=lambda text: None)
    finally:
        assert contents(root) == before  # the user's files are left alone
    return {path.stem: np.load(path) for path in made.iterdir()}


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_fashion_mnist_from_its_archives(fashion: Path) -> None:
    arrays = prepare("fashion_mnist", fashion)
    assert {part: (array.shape, str(array.dtype)) for part, array in arrays.items()} == {
        "train_images": ((6, 28, 28, 1), "uint8"),
        "train_labels": ((6,), "int64"),
        "test_images": ((4, 28, 28, 1), "uint8"),
        "test_labels": ((4,), "int64"),
    }
    for split in ("train", "test"):
        assert (arrays[f"{split}_images"] == arrays[f"{split}_labels"][:, None, None, None]).all()


def test_an_archive_left_unpacked_wrongly_is_unpacked_again(fashion: Path) -> None:
    (fashion / "FashionMNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"cut off")
    assert prepare("fashion_mnist", fashion)["train_images"].shape == (6, 28, 28, 1)


def test_cifar_from_its_archive(cifar: Path) -> None:
    arrays = prepare("cifar10", cifar)
    assert arrays["train_images"].shape == (10, 32, 32, 3) and arrays["test_images"].shape == (4, 32, 32, 3)
    assert (arrays["train_images"] == np.array([1, 2, 3])).all()
    assert arrays["train_labels"].tolist() == [0, 1] * 5 and arrays["train_labels"].dtype == np.int64


def test_cifar_from_its_unpacked_batches(cifar: Path) -> None:
    archive = cifar / "cifar-10-python.tar.gz"
    with tarfile.open(archive) as packed:
        packed.extractall(cifar, filter="data")
    archive.unlink()
    assert prepare("cifar10", cifar)["train_images"].shape == (10, 32, 32, 3)


@pytest.mark.parametrize("download", [False, True])
def test_a_truncated_archive_is_named(fashion: Path, download: bool) -> None:
    archive = fashion / "FashionMNIST" / "raw" / "train-images-idx3-ubyte.gz"
    os.truncate(archive, archive.stat().st_size // 2)
    why = "Name or service not known" if download else "downloading is switched off"
    with pytest.raises(archives.Damaged, match=f"{archive} is truncated or damaged.*{why}.*Delete it and fetch"):
        prepare("fashion_mnist", fashion, download=download)


@pytest.fixture
def silent(fashion: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torchvision looks at a server that takes connections and never answers."""
    from torchvision.datasets import FashionMNIST

    monkeypatch.setattr(archives, "SILENCE_SEC", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{server.getsockname()[1]}/"])
        yield


@pytest.mark.parametrize("damaged", [False, True])
def test_a_network_that_is_silent_is_given_up(fashion: Path, silent: None, damaged: bool) -> None:
    archive = fashion / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"
    os.truncate(archive, 5) if damaged else archive.unlink()
    began = time.monotonic()
    with pytest.raises(archives.Damaged if damaged else archives.Unavailable, match=r"timed out|Error downloading"):
        prepare("fashion_mnist", fashion, download=True)
    assert time.monotonic() - began < 30 and socket.getdefaulttimeout() is None


def test_a_truncated_batch_is_named(cifar: Path) -> None:
    batch = cifar / "cifar-10-batches-py" / "data_batch_3"
    batch.parent.mkdir()
    batch.write_bytes(b"cut off")
    (cifar / "cifar-10-python.tar.gz").unlink()
    with pytest.raises(archives.Damaged, match=f"{batch} is truncated"):
        prepare("cifar10", cifar)


def test_only_what_is_missing_or_damaged_is_fetched(fashion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = fashion / "FashionMNIST" / "raw"
    whole = {path.name: path.read_bytes() for path in raw.iterdir()}
    os.truncate(raw / "train-images-idx3-ubyte.gz", 10)
    (raw / "t10k-labels-idx1-ubyte.gz").unlink()
    fetched = []

    def retrieve(url: str, path: str) -> None:
        fetched.append(os.path.basename(url))
        Path(path).write_bytes(whole[os.path.basename(url)])

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", retrieve)
    assert prepare("fashion_mnist", fashion, download=True)["test_labels"].tolist() == [0, 1, 2, 3]
    assert sorted(fetched) == ["t10k-labels-idx1-ubyte.gz", "train-images-idx3-ubyte.gz"]


def test_a_download_that_arrives_damaged_is_not_read(fashion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (fashion / "FashionMNIST" / "raw" / "train-images-idx3-ubyte.gz").unlink()
    monkeypatch.setattr(
        "torchvision.datasets.utils._urlretrieve", lambda url, path: Path(path).write_bytes(b"<html>log in</html>")
    )
    with pytest.raises(archives.Unavailable, match=r"torchvision could not get it: .*corrupted"):
        prepare("fashion_mnist", fashion, download=True)


@pytest.mark.parametrize("allow_synthetic", [False, True])
@pytest.mark.parametrize("where", ["arrays", "unpacking"])
def test_a_full_disk_is_no_missing_data(
    fashion: Path, monkeypatch: pytest.MonkeyPatch, where: str, allow_synthetic: bool
) -> None:
    """It was reported as unavailable data, and synthetic images took their place where these found room."""
    from torchvision.datasets import FashionMNIST

    def full(*args: Any, **options: Any) -> None:
        raise OSError("Not enough free space") if where == "arrays" else OSError(28, "No space left on device")

    target: Any = np if where == "arrays" else FashionMNIST
    with monkeypatch.context() as patch:
        patch.setattr(target, "save" if where == "arrays" else "download", full)
        with pytest.raises(sources.DataError, match=r"cannot be written to \(No.*large enough"):
            sources.locate("fashion_mnist", fashion, allow_synthetic=allow_synthetic)
    assert sorted(path.name for path in fashion.iterdir()) == ["FashionMNIST"]
    assert not sources.locate("fashion_mnist", fashion).synthetic


def test_no_network_is_a_plain_sentence(cifar: Path) -> None:
    (cifar / "cifar-10-python.tar.gz").unlink()
    with pytest.raises(archives.Unavailable) as caught:
        prepare("cifar10", cifar, download=True)
    assert str(caught.value) == (
        f"{cifar}/cifar-10-python.tar.gz or {cifar}/cifar-10-batches-py is not there or not complete, and torchvision "
        "could not get it: <urlopen error Name or service not known>"
    )


def test_a_truncated_archive_stops_a_sweep_in_earnest(tmp_path: Path) -> None:
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(b"\x1f\x8b cut off")
    with pytest.raises(sources.DataError, match=f"cifar10: {archive} is truncated or damaged.*Delete it and fetch"):
        sources.locate("cifar10", tmp_path, allow_synthetic=True, download=False, report=lambda text: None)
    assert [path.name for path in tmp_path.iterdir()] == [archive.name]
