"""CUB-200-2011, CARS196 and Stanford Online Products from their folders, split for zero-shot tests.

    train, test = datasets.load("cub200", Path("data"))

No class is in both splits. CUB-200-2011 and CARS196 train on the first half of their classes and
test on the second, Stanford Online Products comes with its lists. Nothing is downloaded: `LAYOUTS`
says where each set is to be had and which of its files are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from scipy.io import loadmat


@dataclass(frozen=True)
class Split:
    """The images of training or of testing.

    Attributes:
        folder: where the files are.
        files: the path of each image within the folder.
        labels: the class of each image.
    """

    folder: Path
    files: tuple[str, ...]
    labels: tuple[int, ...]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(set(self.labels))

    def fingerprint(self) -> str:
        """Equal for the same files with the same classes, wherever the folder is."""
        listing = "\n".join(map("{} {}".format, self.files, self.labels))
        return hashlib.sha256(listing.encode()).hexdigest()[:16]


Listing = list[tuple[str, int]]  # path within the folder, class


class Layout(NamedTuple):
    """A data set as its authors distribute it.

    Attributes:
        folder: the name of its folder.
        read: lists the images of both splits.
        files: what `read` needs, within the folder.
        counts: images and classes of training and of testing.
        source: the page that offers it.
    """

    folder: str
    read: Callable[[Path], tuple[Listing, Listing]]
    files: tuple[str, ...]
    counts: tuple[tuple[int, int], tuple[int, int]]
    source: str


def load(name: str, root: Path) -> tuple[Split, Split]:
    """The training and the test split of a data set.

    Args:
        name: a key of `LAYOUTS`.
        root: the data set's folder, or the one that it is in.

    Raises:
        FileNotFoundError: a list or an image is missing.
        ValueError: a list cannot be understood.
    """
    layout = LAYOUTS[name]
    folder = root / layout.folder if (root / layout.folder).is_dir() else root
    missing = [file for file in layout.files if not (folder / file).exists()]
    if missing:
        raise FileNotFoundError(
            f"{name} needs {', '.join(layout.files)} in {root} or {root / layout.folder}; "
            f"there is no {missing[0]}. Get the data from {layout.source} and unpack it as it is."
        )
    train, test = (_split(folder, listing) for listing in layout.read(folder))
    return train, test


def surprise(name: str, train: Split, test: Split) -> str | None:
    """What differs from the published numbers of images and classes, if anything does."""
    expected = LAYOUTS[name].counts
    found = tuple((len(split.files), split.classes) for split in (train, test))
    if found == expected:
        return None
    (of_train, of_test), (found_train, found_test) = expected, found
    return (
        f"{name} has {of_train[0]:,} training images of {of_train[1]:,} classes and "
        f"{of_test[0]:,} test images of {of_test[1]:,} classes; found {found_train[0]:,} of "
        f"{found_train[1]:,} and {found_test[0]:,} of {found_test[1]:,}. "
        "Results are not comparable with published ones."
    )


def _split(folder: Path, listing: Listing) -> Split:
    if not listing:
        raise ValueError(f"{folder} lists no image for one of training and testing")
    files, labels = zip(*listing, strict=True)
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing):,} of {len(files):,} listed images are missing in {folder}, "
            f"the first is {missing[0]}"
        )
    return Split(folder, files, labels)


def _halves(listing: Listing) -> tuple[Listing, Listing]:
    """The images of the first half of the classes, by number, and those of the second."""
    classes = sorted({label for _, label in listing})
    first = set(classes[: len(classes) // 2])
    train = [image for image in listing if image[1] in first]
    return train, [image for image in listing if image[1] not in first]


def _columns(path: Path, names: Sequence[str]) -> list[list[str]]:
    """The lines of a text file, each with as many words as there are names."""
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    for number, words in enumerate(lines, 1):
        if len(words) != len(names):
            raise ValueError(
                f"{path}, line {number}: expected {' '.join(names)}, got {' '.join(words)!r}"
            )
    return lines


def _read_cub(folder: Path) -> tuple[Listing, Listing]:
    files = _columns(folder / "images.txt", ("image_id", "image_name"))
    labels = _columns(folder / "image_class_labels.txt", ("image_id", "class_id"))
    label_of = {image: int(label) for image, label in labels}
    without = [image for image, _ in files if image not in label_of]
    if without:
        raise ValueError(f"image_class_labels.txt in {folder} has no class of image {without[0]}")
    return _halves([(f"images/{file}", label_of[image]) for image, file in files])


def _read_cars(folder: Path) -> tuple[Listing, Listing]:
    annotations = loadmat(folder / "cars_annos.mat", simplify_cells=True)["annotations"]
    return _halves([(str(row["relative_im_path"]), int(row["class"])) for row in annotations])


def _read_sop(folder: Path) -> tuple[Listing, Listing]:
    names = ("image_id", "class_id", "super_class_id", "path")
    train, test = (
        [
            (path, int(label))
            for _, label, _, path in _columns(folder / f"Ebay_{split}.txt", names)[1:]
        ]
        for split in ("train", "test")
    )
    return train, test


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "cub200": Layout(
            "CUB_200_2011",
            _read_cub,
            ("images.txt", "image_class_labels.txt", "images"),
            ((5864, 100), (5924, 100)),
            "https://www.vision.caltech.edu/datasets/cub_200_2011/",
        ),
        "cars196": Layout(
            "CARS_196",
            _read_cars,
            ("cars_annos.mat", "car_ims"),
            ((8054, 98), (8131, 98)),
            "https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        ),
        "sop": Layout(
            "Stanford_Online_Products",
            _read_sop,
            ("Ebay_train.txt", "Ebay_test.txt"),
            ((59551, 11318), (60502, 11316)),
            "https://cvgl.stanford.edu/projects/lifted_struct/",
        ),
    }
)
