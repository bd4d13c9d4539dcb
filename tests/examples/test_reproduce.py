"""The papers' training, on tiny trees of the three data sets made of the shipped glyphs."""

import copy
import csv
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from kit import glyphs

pytest.importorskip("torchvision", reason='torchvision is missing: pip install -e ".[reproduce]"')

from scipy.io import savemat
from torchvision import models

from examples.papers import backbones, reproduce
from examples.papers import batches as image_batches
from examples.papers import datasets as image_datasets
from examples.papers import losses as paper_losses
from examples.papers import options as reproduce_options
from examples.papers.datasets import LAYOUTS, Split
from examples.papers.processes import Process

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CLASSES, IMAGES = 8, 3  # half of the classes to train on
# Two steps of two classes in an epoch.
SMALL = shlex.split(
    "--image-size 64 --embed-dim 16 --batch-size 4 --instances-per-class 2 --workers 0 "
    "--device cpu --recall-at 1,2 --eval-every 1 --epochs 3 --lr-decay-epochs 1,2"
)
METRICS = ["recall_at_1", "recall_at_2", "map_at_r", "nmi", "clustering_f1"]


# --- data --------------------------------------------------------------------------------------


def write_images(folder: Path, names: list[str]) -> None:
    """A glyph for each name; images of a class follow each other."""
    data = glyphs.load("train")
    for number, name in enumerate(names):
        label, instance = divmod(number, IMAGES)
        row = (data.labels == 20 * label).nonzero()[instance, 0]
        image = (255 * data.images[row, 0]).to(torch.uint8).numpy()
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize((90, 70)).save(folder / name)


def numbered() -> list[tuple[int, int]]:
    """Number and class of each image, both from 1."""
    return [(number + 1, number // IMAGES + 1) for number in range(CLASSES * IMAGES)]


def cub200(folder: Path) -> None:
    names = [f"{label:03}.Bird/Bird_{number}.jpg" for number, label in numbered()]
    write_images(folder / "images", names)
    lines = [f"{number} {name}\n" for (number, _), name in zip(numbered(), names, strict=True)]
    (folder / "images.txt").write_text("".join(lines))
    lines = [f"{number} {label}\n" for number, label in numbered()]
    (folder / "image_class_labels.txt").write_text("".join(lines))


def cars196(folder: Path) -> None:
    names = [f"car_ims/{number:06}.jpg" for number, _ in numbered()]
    write_images(folder, names)
    fields = ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test")
    rows = [
        (name, 1, 1, 9, 9, label, number % 2)
        for (number, label), name in zip(numbered(), names, strict=True)
    ]
    annotations = np.array(rows, dtype=[(field, object) for field in fields])
    savemat(folder / "cars_annos.mat", {"annotations": annotations})


def sop(folder: Path) -> None:
    names = [f"chair_final/{label}_{number}.JPG" for number, label in numbered()]
    write_images(folder, names)
    lines = [
        f"{number} {label} 1 {name}\n"
        for (number, label), name in zip(numbered(), names, strict=True)
    ]
    half = len(lines) // 2
    for split, part in (("train", lines[:half]), ("test", lines[half:])):
        header = "image_id class_id super_class_id path\n"
        (folder / f"Ebay_{split}.txt").write_text(header + "".join(part))


MAKERS = {"cub200": cub200, "cars196": cars196, "sop": sop}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The folder above all three data sets."""
    root = tmp_path_factory.mktemp("data")
    for name, make in MAKERS.items():
        make(root / LAYOUTS[name].folder)
    return root


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """A run that nothing interrupted, and its options."""
    folder = tmp_path_factory.mktemp("straight")
    options = [*SMALL, "--dataset", "cub200", "--data-dir", str(data)]
    reproduce.main([*options, "--save-dir", str(folder)])
    return folder, options


def read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def logged(folder: Path, name: str) -> list[int]:
    """The epochs in which TensorBoard shows a number; several event files may hold them."""
    return [scalar.step for scalar in EventAccumulator(str(folder)).Reload().Scalars(name)]


@pytest.mark.parametrize("name", MAKERS)
def test_trains_and_tests(name, data, tmp_path, capsys):
    """From the data set's folder or the one above; on the second of two epochs it is tested."""
    root = data / LAYOUTS[name].folder if name == "sop" else data
    options = ["--dataset", name, "--data-dir", str(root), "--epochs", "3", "--eval-every", "2"]
    reproduce.main([*SMALL, *options, "--synthesis", "loop", "--save-dir", str(tmp_path)])
    printed = capsys.readouterr().out
    (images, classes), _ = LAYOUTS[name].counts
    assert f"{name} has {images:,} training images of {classes:,} classes" in printed
    assert "found 12 of 4 and 12 of 4. Results are not comparable with published ones" in printed
    assert "random weights" in printed
    rows = read_rows(tmp_path)
    assert list(rows[0]) == ["epoch", "learning_rate", "train_loss", *METRICS]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [bool(row["nmi"]) for row in rows] == [False, True, True]
    assert all(0 <= float(row[name]) <= 1 for row in rows[1:] for name in METRICS)
    assert all(float(row["train_loss"]) > 0 for row in rows)
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    assert best["recall_at_1"] == max(float(row["recall_at_1"]) for row in rows[1:])
    assert logged(tmp_path, "train_loss") == [1, 2, 3]
    assert logged(tmp_path, "recall_at_1") == [2, 3]


@pytest.mark.parametrize("name", MAKERS)
def test_splits_share_no_class_and_lose_no_image(name, data):
    train, test = image_datasets.load(name, data)
    assert set(train.labels) == {1, 2, 3, 4}
    assert set(test.labels) == {5, 6, 7, 8}
    assert len({*train.files, *test.files}) == CLASSES * IMAGES
    assert all((train.folder / file).is_file() for file in train.files)


def test_published_counts_are_no_surprise():
    def split(images, classes):
        return Split(Path(), ("",) * images, tuple(i % classes for i in range(images)))

    expected = {
        "cub200": ((5864, 100), (5924, 100)),
        "cars196": ((8054, 98), (8131, 98)),
        "sop": ((59551, 11318), (60502, 11316)),
    }
    for name, (train, test) in expected.items():
        assert image_datasets.surprise(name, split(*train), split(*test)) is None
        warning = image_datasets.surprise(name, split(*train), split(test[0] - 1, test[1]))
        assert f"found {train[0]:,} of {train[1]:,} and {test[0] - 1:,} of {test[1]:,}" in warning


@pytest.mark.parametrize("name", MAKERS)
def test_missing_data_says_where_to_get_it(name, tmp_path):
    options = ["--dataset", name, "--data-dir", str(tmp_path), "--save-dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stopped:
        reproduce.main(options)
    for part in (*LAYOUTS[name].files, LAYOUTS[name].source, str(tmp_path / LAYOUTS[name].folder)):
        assert part in str(stopped.value)
    assert not (tmp_path / "out").exists()


def test_broken_lists_are_named(tmp_path):
    cub200(tmp_path)
    (tmp_path / "images" / "003.Bird" / "Bird_7.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 12 .* first is images/003.Bird/Bird_7.jpg"):
        image_datasets.load("cub200", tmp_path)
    with (tmp_path / "images.txt").open("a") as file:
        file.write("25 new.jpg\n")
    with pytest.raises(ValueError, match=r"image_class_labels.txt in .* no class of image 25"):
        image_datasets.load("cub200", tmp_path)
    (tmp_path / "images.txt").write_text("1 a.jpg\n2\n")
    with pytest.raises(ValueError, match=r"images.txt, line 2: expected image_id image_name"):
        image_datasets.load("cub200", tmp_path)


# --- going on ----------------------------------------------------------------------------------

# Each kills the process in or after its second epoch of three.
KILLS = {
    "in an epoch": """
step = image_training.Training._step
calls = itertools.count(1)
image_training.Training._step = lambda *args: die() if next(calls) == 4 else step(*args)
""",
    "in the middle of a checkpoint": """
save = torch.save
def half(state, path):
    if state["epoch"] == 2 and "optimizer" in state:
        save(state, path)
        os.truncate(path, os.path.getsize(path) // 2)
        die()
    save(state, path)
torch.save = half
""",
    "before a checkpoint has its name": """
replace = os.replace
names = []
def late(source, target):
    names.append(target.name)
    die() if names.count("last.pt") == 3 else replace(source, target)
os.replace = late
""",
    "after a checkpoint": """
write = reproduce.write_csv
reproduce.write_csv = lambda path, rows: die() if len(rows) == 2 else write(path, rows)
""",
}
WITH_REMAINS = ("in the middle of a checkpoint", "before a checkpoint has its name")


@pytest.mark.slow
@pytest.mark.parametrize("moment", KILLS)
def test_killed_run_goes_on_as_if_nothing_had_been(moment, straight, tmp_path):
    """Weights, optimiser and metrics are bit for bit those of a run that was not killed."""
    expected, options = straight
    code = f"""
import itertools, os, signal, sys
import torch
from examples.papers import reproduce, training as image_training
torch.set_num_threads(1)
def die(): os.kill(os.getpid(), signal.SIGKILL)
{KILLS[moment]}
reproduce.main(sys.argv[1:])
"""
    options = [*options, "--save-dir", str(tmp_path)]
    done = subprocess.run(
        # Loading processes make no difference.
        [sys.executable, "-c", code, *options, "--workers", "1"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    saved = torch.load(tmp_path / "last.pt", weights_only=True)["epoch"]
    assert saved == (2 if moment == "after a checkpoint" else 1)
    assert (tmp_path / "last.pt.tmp").exists() == (moment in WITH_REMAINS)

    reproduce.main([*options, "--resume"])
    for name in ("last.pt", "best.pt"):
        one, other = (torch.load(f / name, weights_only=True) for f in (tmp_path, expected))
        assert one.pop("settings", None) == other.pop("settings", None)
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert (tmp_path / "metrics.csv").read_bytes() == (expected / "metrics.csv").read_bytes()
    assert logged(tmp_path, "train_loss") == logged(tmp_path, "nmi") == [1, 2, 3]
    assert not list(tmp_path.glob("*.tmp"))


def test_finished_run_is_left_and_a_longer_one_goes_on(straight, tmp_path, monkeypatch):
    """Resuming before there is anything begins; --epochs is no part of what is trained."""
    expected, options = straight
    options = [*options, "--save-dir", str(tmp_path), "--resume", "--epochs"]
    reproduce.main([*options, "2"])
    (tmp_path / "metrics.csv").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("examples.papers.training.Training.run_epoch", None)
        reproduce.main([*options, "2"])
    assert len(read_rows(tmp_path)) == 2
    reproduce.main([*options, "3"])
    assert read_rows(tmp_path) == read_rows(expected)


def test_run_is_not_overwritten(straight):
    folder, options = straight
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(SystemExit, match=r"there is a run in .* give --resume"):
        reproduce.main([*options, "--save-dir", str(folder)])
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "change", ["--lr 0.1", "--synthesis loop", "--seed 1", "--image-size 65", "--dataset cars196"]
)
def test_resuming_another_training_is_refused(change, straight):
    folder, options = straight
    name, value = change.split()
    with pytest.raises(SystemExit, match=rf"--resume: .* other options: {name} was .*, is {value}"):
        reproduce.main([*options, "--save-dir", str(folder), "--resume", name, value])


def test_resuming_on_other_images_is_refused(straight, data, tmp_path):
    """The folder may have moved, but it must hold the same images."""
    folder, options = straight
    cub200(tmp_path)
    options = [*options, "--save-dir", str(folder), "--resume", "--data-dir", str(tmp_path)]
    reproduce.main(options)
    lines = (tmp_path / "images.txt").read_text().splitlines()
    (tmp_path / "images.txt").write_text("\n".join(lines[1:]))
    with pytest.raises(SystemExit, match="images of --data-dir was"):
        reproduce.main(options)


# --- several processes -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights as torchvision saves them, whose features need no batch statistics."""
    torch.manual_seed(0)
    net = models.googlenet(weights=None, init_weights=False)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    path = tmp_path_factory.mktemp("weights") / "googlenet.pth"
    torch.save(net.state_dict(), path)
    return path


@pytest.mark.slow
def test_two_processes_train_as_one(data, weights, tmp_path):
    """With frozen batch normalisation a step is that of the joined batch."""
    options = [*SMALL, "--dataset", "cub200", "--data-dir", str(data), "--epochs", "1"]
    options += ["--weights", str(weights), "--freeze-batch-norm", "--loss", "triplet"]
    reproduce.main([*options, "--save-dir", str(tmp_path / "one")])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "examples.papers.reproduce", *options, "--save-dir"]
    command += [str(tmp_path / "two")]
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("random weights") == 0
    assert done.stdout.count("Results are not comparable") == 1
    one, two = (read_rows(tmp_path / name)[0] for name in ("one", "two"))
    for name in ("train_loss", "recall_at_1", "map_at_r"):
        assert float(two[name]) == pytest.approx(float(one[name]), rel=1e-4), name


def test_batches_that_processes_cannot_share_are_refused(data):
    train, _ = image_datasets.load("cub200", data)
    process = Process(0, 3, torch.device("cpu"))
    options = reproduce_options.parse(SMALL)
    with pytest.raises(ValueError, match="2 classes of 2 images, which 3 processes cannot share"):
        reproduce.check_batch(options, train, process)
    lone = Split(train.folder, train.files[:3], train.labels[:3])
    with pytest.raises(ValueError, match=r"needs 2 classes or more .* has 1 to train on"):
        reproduce.check_batch(options, lone, Process(0, 1, torch.device("cpu")))


def test_too_few_classes_make_smaller_batches(data, capsys):
    train, test = image_datasets.load("cub200", data)
    options = reproduce_options.parse([*SMALL, "--batch-size", "12"])
    process = Process(0, 1, torch.device("cpu"))
    reproduce.check_batch(options, train, process)
    assert "batches hold 8 images, not 12" in capsys.readouterr().out
    training = reproduce.Training(options, train, test, process)
    (batch,) = training.train_loader
    assert batch[1].unique(return_counts=True)[1].tolist() == [2] * 4


# --- batches and augmentation ------------------------------------------------------------------

LABELS = [label for label in range(7) for _ in range(label + 1)]


def batches(rank=0, world=1, epoch=0, seed=0):
    sampler = image_batches.ClassBatches(LABELS, 4, 3, seed, rank, world)
    sampler.epoch = epoch
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == 1  # 7 classes of 3 images hold one batch of 12
    return drawn[0]


def test_batches_hold_whole_classes_and_processes_share_them():
    whole = batches()
    labels = np.array([LABELS[draw.index] for draw in whole]).reshape(4, 3)
    assert (labels == labels[:, :1]).all()
    assert len(set(labels[:, 0])) == 4
    assert batches(0, 2) + batches(1, 2) == whole


def test_batches_depend_on_seed_and_epoch_alone():
    first = batches()
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    assert batches() == first
    others = [batches(epoch=1), batches(seed=1), batches(epoch=1, seed=1)]
    indices = [[draw.index for draw in drawn] for drawn in (first, *others)]
    assert all(one != other for one, other in itertools.combinations(indices, 2))
    assert len({draw.seed for drawn in (first, *others) for draw in drawn}) == 4 * 12


def test_augmentation_depends_on_the_draw_alone(data):
    train, _ = image_datasets.load("cub200", data)
    images = image_batches.Images(train, image_batches.train_transform(32))
    drawn = image_batches.DrawnImages(images)
    state = torch.get_rng_state()
    seen = [drawn[image_batches.Draw(0, seed)][0] for seed in range(24)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(drawn[image_batches.Draw(0, 3)][0], seen[3])

    whole = image_batches.Images(train, image_batches.test_transform(32))[0][0]
    unmoved = [any(torch.equal(image, same) for same in (whole, whole.flip(2))) for image in seen]
    assert 4 < sum(unmoved) < 20  # one of two on average
    assert any(torch.equal(image, whole.flip(2)) for image in seen)
    assert any(torch.equal(image, whole) for image in seen)


def test_images_are_normalised_as_for_imagenet(tmp_path):
    Image.new("L", (9, 5), 255).save(tmp_path / "white.png")  # grey images become RGB
    split = Split(tmp_path, ("white.png",), (7,))
    image, label = image_batches.Images(split, image_batches.test_transform(4))[0]
    expected = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(image, expected[:, None, None].expand(3, 4, 4))
    assert label == 7


# --- network, loss, step -----------------------------------------------------------------------


@pytest.mark.parametrize("name", backbones.BACKBONES)
def test_backbones_end_in_embeddings_of_length_one(name):
    net = backbones.Embedder(name, 8).eval()
    with torch.no_grad():
        embeddings = net(torch.randn(2, 3, 64, 64))
    assert embeddings.shape == (2, 8)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))
    assert not any(value.shape[0] == 1000 for value in net.state_dict().values() if value.ndim)


def test_weights_are_the_features_of_torchvision(weights):
    net = backbones.Embedder("googlenet", 8).eval()
    net.load_weights(weights)
    theirs = models.googlenet(weights=None, init_weights=False, transform_input=True)
    theirs.load_state_dict(torch.load(weights, weights_only=True))
    theirs.fc = theirs.dropout = nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net.trunk(images), theirs.eval()(images))


def test_weights_of_another_network_are_refused(weights, data, tmp_path):
    options = ["--dataset", "cub200", "--data-dir", str(data), "--save-dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=r"not of this backbone: .* torchvision's state dict"):
        reproduce.main([*SMALL, *options, "--backbone", "resnet50", "--weights", str(weights)])


def test_frozen_batch_norm_stays():
    net = backbones.Embedder("googlenet", 8, frozen_batch_norm=True).train()
    norms = {name: value.clone() for name, value in net.state_dict().items() if ".bn." in name}
    net(torch.randn(2, 3, 64, 64)).sum().backward()
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad])
    optimizer.step()
    assert norms
    assert all(torch.equal(net.state_dict()[name], value) for name, value in norms.items())
    with pytest.raises(ValueError, match="convnext_tiny has no batch normalisation"):
        backbones.Embedder("convnext_tiny", 8, frozen_batch_norm=True)


def loss_of(loss, synthesis, **changes):
    options = {"margin": 0.1, "soft_margin": False, "inner_points": 2, "on_sphere": True}
    options |= {"pairing": "consecutive"}
    return paper_losses.make_loss(loss, synthesis, **{**options, **changes})


@pytest.mark.parametrize("on_sphere", [True, False])
@pytest.mark.parametrize("synthesis", paper_losses.SYNTHESES)
@pytest.mark.parametrize("loss", paper_losses.LOSSES)
def test_every_combination_has_a_gradient(loss, synthesis, on_sphere):
    x = torch.randn(8, 6, requires_grad=True)
    embeddings, labels = nn.functional.normalize(x), torch.arange(4).repeat_interleave(2)
    value = loss_of(loss, synthesis, on_sphere=on_sphere)(embeddings, labels)
    value.backward()
    assert value.isfinite()
    assert x.grad.abs().sum() > 0


def test_options_reach_the_loss():
    embeddings = nn.functional.normalize(torch.randn(16, 6))
    labels = torch.arange(4).repeat_interleave(4)

    def value(loss, synthesis, **changes):
        return loss_of(loss, synthesis, **changes)(embeddings, labels).item()

    for loss in paper_losses.WITH_MARGIN:
        assert value(loss, "none", margin=0.9) > value(loss, "none")
    for loss in paper_losses.WITH_SOFT_MARGIN:
        assert value(loss, "none", soft_margin=True, margin=5) == value(
            loss, "none", soft_margin=True
        )
        assert value(loss, "none", soft_margin=True) != value(loss, "none", margin=0)
    assert value("hphn", "expansion", inner_points=0) < value("hphn", "expansion")
    assert value("hphn", "expansion") <= value("hphn", "loop")
    assert value("hphn", "loop") < value("hphn", "loop", pairing="all")
    for synthesis in ("expansion", "loop"):
        assert value("hphn", synthesis) != value("hphn", synthesis, on_sphere=False)


def test_step_adds_up_the_gradients_of_a_batch(data):
    """As the papers' code; the gradient of the mean would drown in the weight decay."""
    options = reproduce_options.parse([*SMALL, "--lr", "0.001", "--weight-decay", "0.01"])
    train, test = image_datasets.load("cub200", data)
    training = reproduce.Training(options, train, test, Process(0, 1, torch.device("cpu")))
    images, labels = next(iter(training.train_loader))
    net = copy.deepcopy(training.net)
    mean = training.loss(net(images), labels)
    torch.autograd.backward(mean * 4)  # a batch of four
    value = training._step(images, labels)
    assert value.item() == pytest.approx(mean.item(), rel=1e-5)
    torch.testing.assert_close(training.net.head.weight.grad, net.head.weight.grad)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_random_layers_depend_on_epoch_and_process(data, monkeypatch):
    """Not on loading processes or earlier draws; a step that draws stands for dropout."""

    def draw(training, *_):
        training.optimizer.step()
        return torch.rand(())

    monkeypatch.setattr("examples.papers.training.Training._step", draw)
    train, test = image_datasets.load("cub200", data)

    def means(rank, workers):
        process = Process(rank, 1, torch.device("cpu"))
        options = reproduce_options.parse([*SMALL, "--workers", workers])
        training = reproduce.Training(options, train, test, process)
        training.batches.share = slice(None)  # there is no other process to share with
        return [training.run_epoch() for _ in range(2)]

    first = means(rank=0, workers="0")
    torch.rand(7)
    assert means(rank=0, workers="1") == first
    assert len({*first, *means(rank=1, workers="0")}) == 4


@pytest.mark.parametrize("flag", ["--amp", "--soft-margin"])
def test_other_ways_to_train(flag, data, tmp_path):
    options = ["--dataset", "cub200", "--data-dir", str(data), "--epochs", "1"]
    reproduce.main([*SMALL, *options, flag, "--save-dir", str(tmp_path)])
    assert float(read_rows(tmp_path)[0]["train_loss"]) > 0


# --- options -----------------------------------------------------------------------------------


def test_defaults_are_those_of_the_papers_code():
    options = vars(reproduce_options.parse([]))
    expected = {
        "dataset": "cars196",
        "backbone": "googlenet",
        "embed_dim": 512,
        "loss": "hphn",
        "synthesis": "expansion",
        "inner_points": 2,
        "l2norm_synthetic": True,
        "seed": 0,
        "batch_size": 128,
        "image_size": 227,
        "optim": "adam",
        "lr": 1e-4,
        "lr_decay_factor": 0.5,
        "lr_decay_epochs": [400, 800, 1200, 1600],
        "epochs": 4000,
        "eval_every": 5,
        "instances_per_class": 32,
        "margin": 1e-5,
        "soft_margin": False,
        "recall_at": [1, 2, 4, 8],
        "weight_decay": 5e-4,
    }
    assert {name: options[name] for name in expected} == expected


def test_learning_rate_decays_as_told(data):
    options = reproduce_options.parse([*SMALL, "--lr-decay-epochs", "2,3"])
    train, test = image_datasets.load("cub200", data)
    training = reproduce.Training(options, train, test, Process(0, 1, torch.device("cpu")))
    rates = []
    for _ in range(4):
        rates.append(training.scheduler.get_last_lr()[0])
        training.optimizer.step()
        training.scheduler.step()
    assert rates == [1e-4, 1e-4, 5e-5, 2.5e-5]


def test_presets_are_every_combination_of_the_papers():
    rows = itertools.product(LAYOUTS, paper_losses.LOSSES, paper_losses.SYNTHESES)
    names = {"-".join(row): row for row in rows}
    assert set(reproduce_options.presets()) == set(names)
    for name, row in names.items():
        options = reproduce_options.parse(["--preset", name])
        assert (options.dataset, options.loss, options.synthesis) == row


def test_the_page_of_published_results_names_presets():
    published = (DOCS / "published.md").read_text()
    presets = reproduce_options.presets()
    assert f"all {len(presets)} presets" in published
    named = re.findall(r"--preset (\S+)", published)
    assert named
    assert set(named) <= set(presets)


def test_flags_override_a_preset(capsys):
    options = reproduce_options.parse(["--synthesis", "none", "--preset", "sop-hphn-loop"])
    assert (options.dataset, options.synthesis) == ("sop", "none")
    with pytest.raises(SystemExit, match="0"):
        reproduce_options.parse(["--list-presets"])
    listed = capsys.readouterr().out.splitlines()
    assert "cub200-hphn-loop: --dataset cub200 --loss hphn --synthesis loop" in listed


def test_help_says_what_an_epoch_is(capsys):
    with pytest.raises(SystemExit, match="0"):
        reproduce_options.parse(["--help"])
    printed = capsys.readouterr().out
    assert "98 x 32 = 3,136 images" in " ".join(printed.split())
    documented = (DOCS / "reproduce.md").read_text()
    for word in printed.split():
        name = word.strip("[],")
        if name.startswith("--") and not name.startswith("--no-") and name != "--help":
            assert f"`{name}" in documented, name


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("--batch-size 100", "got 100 and 32"),
        ("--batch-size 32", "two classes or more"),
        ("--batch-size 9 --instances-per-class 3", "must be even"),
        ("--loss n_pair --soft-margin", "--soft-margin is of hphn and triplet, not n_pair"),
        ("--epochs 0", "at least 1"),
        ("--recall-at 1,x", "invalid"),
        ("--preset nothing", "invalid choice"),
        ("--backbone vgg", "invalid choice"),
    ],
)
def test_wrong_options_end_with_usage(wrong, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        reproduce_options.parse(wrong.split())
    assert message in capsys.readouterr().err
