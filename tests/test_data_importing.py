"""Images in folders become a data set, and arrays of other types and shapes are the same data."""

from __future__ import annotations

import itertools
import json
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from bnstudy import cli
from bnstudy.config import project
from bnstudy.data import sources


def draw(path, side=4, value=0, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (side, side), value if mode == "L" else (value, 2 * value, 3 * value)).save(path)


def colours_of_16_bits(value, side=4):
    """A PNG file, which Pillow reads and does not write."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = (b"\0" + struct.pack(">H", value) * 3 * side) * side
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def imported(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", "import", *map(str, arguments)])
    return ended.value.code or 0


def test_images_in_folders_become_a_data_set_with_a_title(tmp_path, capsys):
    for split, number in (("train", 3), ("test", 2)):
        for label, name in enumerate(("cats", "dogs")):
            for index in range(number):
                draw(tmp_path / "pets" / split / name / f"{index}.png", value=10 * label + index)
    root = tmp_path / "data"
    assert imported(tmp_path / "pets", "--name=mine", "--title=Pets", f"--data-root={root}") == 0
    assert "mine: 6 + 4 images" in capsys.readouterr().out
    found = sources.locate("mine", root, download=False)
    assert (found.title, found.shape, found.num_classes) == ("Pets", (3, 4, 4), 2)
    arrays = sources.load(found)
    at = arrays.train_images[:, 0, 0, 0].tolist().index(11)
    assert sorted(arrays.train_labels) == [0, 0, 0, 1, 1, 1] and arrays.train_labels[at] == 1
    assert arrays.train_images[at, 0, 0].tolist() == [11, 22, 33]
    assert json.loads((root / "mine" / "SOURCE.json").read_text())["classes"] == ["cats", "dogs"]


def test_the_command_that_trains_on_an_import_names_the_folder(tmp_path, monkeypatch, capsys):
    """Also where it has it from the environment, as from make DATA_ROOT=FOLDER, whose own children alone know it."""
    for label, index in itertools.product(("cats", "dogs"), range(5)):
        draw(tmp_path / "pets" / label / f"{index}.png", value=index)
    root = tmp_path / "my data"
    for name, given in (("a", [f"--data-root={root}"]), ("b", []), ("c", [])):
        assert imported(tmp_path / "pets", "--name", name, *given) == 0
        assert f"data.name={name} train.epochs=10 --data-root '{root}'\n" in capsys.readouterr().out
        monkeypatch.setenv("BNSTUDY_DATA_ROOT", str(root))
    monkeypatch.setattr(project, "usual", tmp_path.joinpath)
    assert imported(tmp_path / "pets", f"--data-root={tmp_path / 'data'}") == 0
    assert "train.epochs=10\n" in capsys.readouterr().out


def test_without_a_split_every_fifth_image_of_a_class_is_a_test_image(tmp_path):
    for label, name in enumerate("ab"):
        for index in range(10):
            draw(tmp_path / "gray" / name / f"{index}.png", side=4 + index, value=100 * label + index, mode="L")
    assert imported(tmp_path / "gray", f"--data-root={tmp_path}", "--size=6", "--name=mine") == 0
    found = sources.locate("mine", tmp_path, download=False)
    assert (found.num_train, found.num_test, found.shape) == (16, 4, (1, 6, 6))
    assert sorted(sources.load(found).test_images[:, 0, 0, 0]) == [4, 9, 104, 109]


def test_the_first_images_of_an_import_are_of_all_classes_and_the_same_every_time(tmp_path):
    for label, name in enumerate("abc"):
        for index in range(50):
            draw(tmp_path / "pets" / name / f"{index}.png", value=50 * label + index, mode="L")
    for root in ("one", "two"):
        assert imported(tmp_path / "pets", f"--data-root={tmp_path / root}", "--name=mine") == 0
    found, again = (sources.locate("mine", tmp_path / root, download=False) for root in ("one", "two"))
    arrays = sources.load(found)
    assert set(arrays.train_labels[:20]) == set(arrays.test_labels[:10]) == {0, 1, 2}
    for images, labels in ((arrays.train_images, arrays.train_labels), (arrays.test_images, arrays.test_labels)):
        assert (images[:, 0, 0, 0] // 50 == labels).all()
    assert again.sha256 == found.sha256


@pytest.mark.parametrize(
    ("home", "empty", "named"),
    [
        ("train", "a-none", "a-none: this class has no training images"),
        ("train", "z-none", "z-none: this class has no training images"),
        ("test", "Cat", "Cat: "),
        (".", "rare", "rare: this class has no test images"),
    ],
)
def test_classes_without_images_are_refused_by_name_and_nothing_is_written(home, empty, named, tmp_path, capsys):
    pets = tmp_path / "pets"
    for split in ("train", "test") if home != "." else (".",):
        for name in ("cat", "dog"):
            for index in range(5):
                draw(pets / split / name / f"{index}.png", value=index)
    (pets / home / empty).mkdir()
    if home == ".":
        for index in range(4):
            draw(pets / empty / f"{index}.png")
    elif home == "test":
        draw(pets / home / empty / "0.png")
    there = (f"--data-root={tmp_path / 'data'}", "--name=mine")
    assert imported(pets, *there) == cli.EXIT_USAGE
    assert named in capsys.readouterr().err and not (tmp_path / "data").exists()
    shutil.rmtree(pets / home / empty)
    assert imported(pets, *there) == 0, "the first attempt blocks the next"


def test_a_class_that_was_never_tested_is_refused_by_name(tmp_path, capsys):
    for place in ("train/cat", "train/dog", "test/cat"):
        draw(tmp_path / "pets" / place / "0.png")
    (tmp_path / "pets" / "test" / "dog").mkdir()
    assert imported(tmp_path / "pets", f"--data-root={tmp_path / 'data'}") == cli.EXIT_USAGE
    assert "dog: this class has no test images" in capsys.readouterr().err


def test_folders_of_other_programs_are_no_classes_and_files_of_other_kinds_are_counted(tmp_path, capsys):
    for name in "ab":
        for index in range(5):
            draw(tmp_path / "pets" / name / f"{index}.png", value=index)
        (tmp_path / "pets" / name / "photo.heic").write_bytes(b"heic")
        (tmp_path / "pets" / name / ".DS_Store").write_bytes(b"")
    for other in (".ipynb_checkpoints", "__MACOSX"):
        draw(tmp_path / "pets" / other / "0.png")
    assert imported(tmp_path / "pets", f"--data-root={tmp_path}", "--name=mine") == 0
    assert "not read: 2, such as a/photo.heic" in capsys.readouterr().out
    assert sources.locate("mine", tmp_path, download=False).num_classes == 2


@pytest.mark.parametrize("beside", ["loose.png", "train/loose.png", "val/cat/0.png"])
def test_images_that_lie_beside_the_classes_are_said_to_be_left_out(beside, tmp_path, capsys):
    pets = tmp_path / "pets"
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            draw(pets / split / name / "0.png")
    draw(pets / beside)
    assert imported(pets, f"--data-root={tmp_path}", "--name=mine") == 0
    assert f"not read: 1, such as {beside.removesuffix('/cat/0.png')}" in capsys.readouterr().out


def test_images_are_upright_and_transparent_ones_refused(tmp_path, capsys):
    there = f"--data-root={tmp_path / 'data'}"
    for name in "ab":
        for index in range(5):
            (tmp_path / "pets" / name).mkdir(parents=True, exist_ok=True)
            image = Image.new("RGBA", (4, 2), (10, 20, 30, 255))
            image.putpixel((0, 0), (200, 0, 0, 255))
            lying = Image.Exif()
            lying[0x0112] = 6  # to be turned by 90 degrees clockwise
            image.save(tmp_path / "pets" / name / f"{index}.png", exif=lying)
    assert imported(tmp_path / "pets", there, "--name=mine") == 0
    arrays = sources.load(sources.locate("mine", tmp_path / "data", download=False))
    assert arrays.train_images.shape[1:] == (4, 2, 3) and (arrays.train_images[:, 0, 1, 0] == 200).all()
    image.putpixel((1, 0), (0, 0, 0, 0))
    image.save(tmp_path / "pets" / "b" / "3.png")
    capsys.readouterr()
    assert imported(tmp_path / "pets", there, "--name=other") == cli.EXIT_USAGE
    assert "3.png is transparent" in capsys.readouterr().err


@pytest.mark.parametrize("split", [True, False])
def test_images_of_both_sets_and_of_several_classes_are_counted(split, tmp_path, capsys):
    pets, names = tmp_path / "pets", [f"{index}.png" for index in range(10)]
    for label, cls in enumerate(("cat", "dog")):
        for index, name in enumerate(names):
            part = ("test" if index % 5 == 4 else "train") if split else "."
            draw(pets / part / cls / name, value=10 * label + index, mode="L")
    tested, trained = (pets / part for part in (("test", "train") if split else (".", ".")))
    shutil.copy(trained / "cat" / "0.png", tested / "cat" / "4.png")
    draw(tested / "dog" / "9.png", value=11, mode="L")  # as train/dog/1.png
    there = f"--data-root={tmp_path}"
    assert imported(pets, there, "--name=leaked") == 0
    told = capsys.readouterr().out
    assert "test images that are also training images: 2, such as" in told and "several classes" not in told
    Image.new("RGB", (4, 4), (2, 2, 2)).save(trained / "dog" / "3.png")  # the same pixels as train/cat/2.png
    assert imported(pets, there, "--name=torn") == 0
    told = capsys.readouterr().out
    assert "images in several classes: 1, such as" in told and "cat/2.png" in told and "dog/3.png" in told
    for path in (tested / "cat" / "4.png", tested / "dog" / "9.png", trained / "dog" / "3.png"):
        draw(path, value=50 + len(path.name) + int(path.stem), mode="L")
    assert imported(pets, there, "--name=clean") == 0
    assert capsys.readouterr().out.count("such as") == 0


def test_grey_images_have_one_channel_however_they_are_stored(tmp_path):
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    grey = Image.fromarray(pixels)
    palette = grey.convert("P")
    stored = (grey, palette, palette, grey.convert("LA"), grey.convert("RGB"))
    for name in "ab":
        (tmp_path / "pets" / name).mkdir(parents=True)
        for index, image in enumerate(stored):
            image.save(tmp_path / "pets" / name / f"{index}.{'gif' if index == 2 else 'png'}")
    assert imported(tmp_path / "pets", f"--data-root={tmp_path}", "--name=mine") == 0
    arrays = sources.load(sources.locate("mine", tmp_path, download=False))
    assert arrays.train_images.shape == (8, 4, 4, 1) and (arrays.train_images[..., 0] == pixels).all()


def test_images_in_folders_of_a_class_are_counted_and_frames_behind_the_first_are_named(tmp_path, capsys):
    for name in "ab":
        for index in range(5):
            draw(tmp_path / "pets" / name / f"{index}.png", value=index)
    for index in range(50):
        draw(tmp_path / "pets" / "a" / "more" / f"{index}.png")
    assert imported(tmp_path / "pets", f"--data-root={tmp_path}", "--name=mine") == 0
    told = capsys.readouterr().out
    assert "not read: 50, such as a/more/0.png" in told and "several frames" not in told
    frames = [Image.new("L", (4, 4), value) for value in (7, 80, 160)]
    frames[0].save(tmp_path / "pets" / "b" / "5.gif", save_all=True, append_images=frames[1:])
    content = (tmp_path / "pets" / "b" / "5.gif").read_bytes()
    (tmp_path / "pets" / "b" / "6.gif").write_bytes(content[:-8])  # whole in its first frame alone
    frames[0].save(tmp_path / "pets" / "b" / "7.tif", save_all=True, append_images=frames[1:])
    assert imported(tmp_path / "pets", f"--data-root={tmp_path}", "--name=moving") == 0
    assert "images of several frames: 3, such as b/" in capsys.readouterr().out
    assert 7 in sources.load(sources.locate("moving", tmp_path, download=False)).train_images[:, 0, 0, 0]


def test_an_image_with_broken_notes_is_read_as_it_lies(tmp_path):
    for name in "ab":
        for index in range(5):
            path = tmp_path / "pets" / name / f"{index}.png"
            draw(path, value=index)
            content, kind = path.read_bytes(), b"eXIf" + b"no TIFF file"
            note = struct.pack(">I", len(kind) - 4) + kind + struct.pack(">I", zlib.crc32(kind))
            path.write_bytes(content[:33] + note + content[33:])  # behind the signature and the header
    assert imported(tmp_path / "pets", f"--data-root={tmp_path}", "--name=mine") == 0
    assert sources.locate("mine", tmp_path, download=False).num_train == 8


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "train"):
        for index in range(5):
            draw(tmp_path / "pets" / name / f"{index}.png", value=index)
    assert imported(tmp_path / "pets", f"--data-root={tmp_path}", "--name=mine") == 0


def test_a_test_set_of_another_name_is_no_class(tmp_path, capsys):
    for place in ("train/cat", "train/dog", "val/cat", "val/dog"):
        draw(tmp_path / "pets" / place / "0.png")
    assert imported(tmp_path / "pets", f"--data-root={tmp_path}", "--name=mine") == cli.EXIT_USAGE
    assert "rename" in capsys.readouterr().err


def test_what_cannot_be_imported_is_named_and_leaves_nothing(tmp_path, capsys):
    assert imported(tmp_path / "nowhere", f"--data-root={tmp_path / 'data'}") == cli.EXIT_USAGE
    assert "nowhere: give a folder with train/CLASS/" in capsys.readouterr().err
    for index in range(10):
        draw(tmp_path / "odd" / f"{'ab'[index // 5]}" / f"{index}.png", side=4 + index % 2)
    assert imported(tmp_path / "odd", f"--data-root={tmp_path / 'data'}") == cli.EXIT_USAGE
    assert "is 5x5, others 4x4: give --size" in capsys.readouterr().err
    assert not any((tmp_path / "data").iterdir())
    for index in range(10):
        path = tmp_path / "deep" / "ab"[index // 5] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), 300 * index, dtype=np.uint16)).save(path)
    assert imported(tmp_path / "deep", f"--data-root={tmp_path / 'data'}") == cli.EXIT_USAGE
    assert "more than 8 bits" in capsys.readouterr().err
    for index in range(10):
        (path := tmp_path / "colour" / "ab"[index // 5] / f"{index}.png").parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(colours_of_16_bits(300 * index))
    assert imported(tmp_path / "colour", f"--data-root={tmp_path / 'data'}") == cli.EXIT_USAGE
    assert "more than 8 bits" in capsys.readouterr().err
    for name in ("cifar10", ".hidden", "a/b", "n" * 61):
        assert imported(tmp_path / "deep", f"--name={name}", f"--data-root={tmp_path / 'data'}") == cli.EXIT_USAGE
        assert "--name" in capsys.readouterr().err
    assert not any((tmp_path / "data").iterdir())


def test_colours_that_come_late_are_kept(tmp_path):
    for index in range(130):
        draw(tmp_path / "late" / "a" / f"{index:03d}.png", value=9, mode="L")
    for index in range(5):
        draw(tmp_path / "late" / "b" / f"{index}.png", value=50)
    assert imported(tmp_path / "late", f"--data-root={tmp_path}", "--name=mine") == 0
    found = sources.locate("mine", tmp_path, download=False)
    assert found.shape == (3, 4, 4) and [50, 100, 150] in sources.load(found).train_images[:, 0, 0].tolist()


def test_options_of_an_import_are_refused_without_one(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", "--size", "32"])
    assert ended.value.code == cli.EXIT_USAGE and "--size" in capsys.readouterr().err


def test_an_image_that_is_cut_off_is_named_and_not_the_folder_that_is_written_to(tmp_path, capsys):
    for index in range(10):
        draw(tmp_path / "pets" / f"{'ab'[index // 5]}" / f"{index}.bmp", side=20)
    cut = tmp_path / "pets" / "a" / "3.bmp"
    cut.write_bytes(cut.read_bytes()[:300])
    assert imported(tmp_path / "pets", f"--data-root={tmp_path / 'data'}") == cli.EXIT_USAGE
    assert f"{cut} cannot be read as an image" in (told := capsys.readouterr().err) and "written" not in told


def test_small_integers_and_images_without_channels_are_the_same_data(tmp_path):
    images, labels = np.arange(4 * 6 * 6, dtype=np.uint8).reshape(4, 6, 6), np.array([0, 1, 0, 1])
    for name, pixels, kind in (("full", images[..., None], np.int64), ("short", images, np.int32)):
        (tmp_path / name).mkdir()
        for split in ("train", "test"):
            np.save(tmp_path / name / f"{split}_images.npy", pixels)
            np.save(tmp_path / name / f"{split}_labels.npy", labels.astype(kind))
    full, short = (sources.locate(name, tmp_path, download=False) for name in ("full", "short"))
    assert full.sha256 == short.sha256 and full.shape == short.shape == (1, 6, 6)
    assert sources.load(short).train_labels.dtype == np.int64
