from __future__ import annotations

import gzip
import hashlib
import http.server
import struct
import tarfile
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf
from torch.utils.data import DistributedSampler

from experiments.data import CIFAR10, Augment, Digits, FashionMNIST, cifar10, fashion_mnist
from experiments.data.idx import read_idx
from experiments.data.loader import ImageBatches, ResumableDataLoader
from experiments.data.order import balanced_order

CONF = Path(__file__).parents[1] / "conf" / "data"


# --- files that look like the real ones ---------------------------------------------------------


# A gzip file has its time in it, and names of tests must be the same in each process.
compress = partial(gzip.compress, mtime=0)


def idx(values: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return compress(header + values.astype(np.uint8).tobytes())


def write_fashion_mnist(folder: Path, train: int = 60, test: int = 20) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for (images, labels), count in ((fashion_mnist.TRAIN, train), (fashion_mnist.TEST, test)):
        (folder / images).write_bytes(idx(random.integers(0, 256, (count, 28, 28))))
        (folder / labels).write_bytes(idx(np.arange(count) % 10))
    return folder


def write_cifar10(root: Path, images: int = 10) -> Path:
    folder = root / cifar10.FOLDER
    folder.mkdir(parents=True)
    for number, name in enumerate([*cifar10.TRAIN, *cifar10.TEST]):
        records = np.full((images, cifar10.RECORD), number, np.uint8)
        records[:, 0] = np.arange(images) % 10
        records[:, 1] = 100  # the first red pixel
        (folder / name).write_bytes(records.tobytes())
    return root


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return write_fashion_mnist(tmp_path / "files")


def fashion(root: Path, **arguments) -> FashionMNIST:
    return FashionMNIST(root=str(root), **{"batch_size": 5, "num_val": 20, **arguments})


def digits(**arguments) -> Digits:
    module = Digits(**{"batch_size": 64, **arguments})
    module.setup()
    return module


# --- splits -------------------------------------------------------------------------------------


def test_digits_are_split_once_and_stratified() -> None:
    module = digits()
    assert [len(module.train), len(module.val), len(module.test)] == [1197, 300, 300]
    images = [part.images[part.indices] for part in (module.train, module.val, module.test)]
    # Every image is in exactly one part: the parts together are scikit-learn's images.
    from sklearn.datasets import load_digits

    together = torch.cat(images).flatten(1).tolist()
    assert sorted(together) == sorted(load_digits().data.astype(int).tolist())
    for part in (module.train, module.val, module.test):
        counts = part.labels[part.indices].bincount() / len(part)
        assert counts.min() > 0.09
        assert counts.max() < 0.11


def test_split_depends_on_split_seed_alone() -> None:
    first = digits(seed=1)
    assert torch.equal(first.train.indices, digits(seed=2).train.indices)
    assert not torch.equal(first.train.indices, digits(split_seed=1).train.indices)


def test_train_size_takes_the_first_images_and_leaves_the_others() -> None:
    whole, small = digits(), digits(train_size=100)
    assert torch.equal(small.train.indices, whole.train.indices[:100])
    assert torch.equal(small.val.indices, whole.val.indices)
    counts = small.train.labels[small.train.indices].bincount()
    assert counts.tolist() == pytest.approx([10] * 10, abs=2)


def test_balanced_order_is_a_random_permutation_with_balanced_prefixes() -> None:
    labels = np.repeat(np.arange(4), 25)
    order = balanced_order(labels, 0)
    assert sorted(order) == list(range(100))
    assert not np.array_equal(order, balanced_order(labels, 1))
    for n in range(0, 101, 4):
        assert np.bincount(labels[order[:n]], minlength=4).tolist() == [n // 4] * 4


# --- arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number >= 1, got 0"),
        ({"num_val": 0}, "num_val must be a whole number >= 1, got 0"),
        ({"num_val": 1497}, "num_val must be < 1497, the images, got 1497"),
        ({"train_size": 0}, "train_size must be a whole number >= 1, got 0"),
        ({"train_size": 1198}, "train_size must be <= 1197, .* got 1198"),
        ({"shape": [1, 28, 28]}, r"shape must be \[1, 8, 8\], as the data, got \[1, 28, 28\]"),
        ({"num_classes": 9}, "num_classes must be 10, as the data, got 9"),
        ({"augment": 3}, "augment must be null or callable"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        digits(**arguments)


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must be <= 10, the training images"):
        digits(batch_size=11, train_size=10).train_dataloader()
    assert len(digits(batch_size=11, train_size=10, drop_last=False).train_dataloader()) == 1


# --- order --------------------------------------------------------------------------------------


def rows(loader) -> list[list[int]]:
    """The batches of a loader whose labels tell the images apart."""
    return [y.tolist() for _, y in loader]


def numbered(n: int = 20, batch_size: int = 4, seed: int = 0) -> ResumableDataLoader:
    images = torch.zeros(n, 1, 2, 2, dtype=torch.uint8)
    dataset = ImageBatches(images, torch.arange(n), torch.arange(n))
    sampler = DistributedSampler(dataset, num_replicas=1, rank=0, seed=seed)
    return ResumableDataLoader(dataset, batch_size, sampler)


def epoch(module, number: int) -> torch.Tensor:
    loader = module.train_dataloader()
    loader.sampler.set_epoch(number)
    return torch.cat([x for x, _ in loader])


def test_order_follows_from_seed_and_epoch() -> None:
    module = digits(seed=3)
    assert torch.equal(epoch(module, 1), epoch(digits(seed=3), 1))
    assert not torch.equal(epoch(module, 0), epoch(module, 1))
    assert not torch.equal(epoch(digits(seed=4), 0), epoch(module, 0))
    assert not torch.equal(epoch(digits(seed=4), 0), epoch(module, 1))


def test_two_devices_share_the_images() -> None:
    def part(rank: int) -> list[list[int]]:
        module = digits(batch_size=50)
        module.trainer = SimpleNamespace(world_size=2, global_rank=rank)
        loader = module.train_dataloader()
        return torch.cat([x for x, _ in loader]).flatten(1).tolist()

    first, second = ({tuple(image) for image in part(rank)} for rank in (0, 1))
    assert len(first) == len(second) == 550
    assert not first & second


def test_nothing_is_drawn_from_the_global_generators() -> None:
    module = digits()
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
        list(loader)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # noqa: NPY002


# --- going on in the middle ---------------------------------------------------------------------


@pytest.mark.parametrize("seen", range(6))
def test_the_next_pass_goes_on_after_the_batches_that_were_seen(seen: int) -> None:
    loader = numbered()
    loader.sampler.set_epoch(2)
    whole = rows(loader)
    iterator = iter(loader)
    for _ in range(seen):
        next(iterator)

    again = numbered()
    assert len(again) == 5
    again.load_state_dict(loader.state_dict())
    assert again.state_dict() == loader.state_dict()
    made_before_the_epoch_is_known = iter(again)
    again.sampler.set_epoch(2)
    rest = [y.tolist() for _, y in made_before_the_epoch_is_known]
    assert rest == whole[seen % 5 :]
    assert len(again) == 5
    assert rows(again) == whole


def test_state_of_an_epoch_that_is_over_skips_nothing() -> None:
    loader = numbered()
    loader.load_state_dict({"batches": 3, "epoch": 0})
    loader.sampler.set_epoch(1)
    assert len(rows(loader)) == 5


def test_skipped_batches_are_not_fetched() -> None:
    fetched = []

    class Watched(ImageBatches):
        def __getitems__(self, indices):
            fetched.append(indices)
            return super().__getitems__(indices)

    labels = torch.arange(20)
    loader = ResumableDataLoader(Watched(torch.zeros(20, 1, 2, 2), labels, labels), 4)
    loader.load_state_dict({"batches": 3, "epoch": 0})
    assert rows(loader) == [[12, 13, 14, 15], [16, 17, 18, 19]]
    assert len(fetched) == 2


def test_a_place_beyond_the_epoch_is_refused() -> None:
    loader = numbered()
    loader.load_state_dict({"batches": 6, "epoch": 0})
    with pytest.raises(ValueError, match="at batch 6 of its epoch, but an epoch now has 5"):
        next(iter(loader))


class Recorder(LightningModule):
    """Keeps what it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.seen: list[tuple[int, float]] = []

    def training_step(self, batch, batch_idx):
        x, y = batch
        # In float64 the sum of the weighted pixels tells batches and their augmentation apart.
        weights = torch.arange(x.numel(), dtype=torch.float64).view_as(x)
        self.seen.append((self.current_epoch, batch_idx, float((weights * x).sum())))
        return torch.nn.functional.cross_entropy(self.layer(x.flatten(1)), y)

    def validation_step(self, batch, batch_idx):
        self.log(
            "loss", torch.nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])
        )

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


class SaveAt(Callback):
    """Saves a checkpoint in ``hook``, once ``step`` steps are taken."""

    def __init__(self, hook: str, step: int, path: Path) -> None:
        def save(trainer, *_, **__):
            if trainer.global_step == step and not path.exists() and not trainer.sanity_checking:
                trainer.save_checkpoint(path)

        setattr(self, hook, save)


def train(path: Path, *callbacks: Callback, resume: Path | None = None, **arguments) -> list[tuple]:
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=path,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )
    model = Recorder()
    data = Digits(batch_size=30, train_size=150, seed=5, augment=Augment(shift=2, flip=True))
    trainer.fit(model, datamodule=data, ckpt_path=resume)
    return model.seen


BY_EPOCHS, BY_STEPS = {"max_epochs": 4}, {"max_epochs": -1, "max_steps": 20}
CUT_SHORT = {"max_epochs": 5, "limit_train_batches": 4}


@pytest.mark.parametrize(
    ("hook", "step", "arguments"),
    [
        ("on_train_batch_end", 3, BY_EPOCHS),
        ("on_train_batch_end", 7, BY_EPOCHS),
        ("on_train_batch_end", 10, BY_EPOCHS),
        ("on_validation_end", 10, BY_EPOCHS),
        ("on_train_epoch_end", 10, BY_EPOCHS),
        ("on_train_batch_end", 7, BY_STEPS),
        ("on_train_batch_end", 10, BY_STEPS),
        ("on_validation_end", 10, BY_STEPS),
        ("on_train_epoch_end", 10, BY_STEPS),
        ("on_train_batch_end", 6, CUT_SHORT),
        ("on_train_batch_end", 8, CUT_SHORT),
        ("on_validation_end", 8, CUT_SHORT),
        ("on_train_epoch_end", 8, CUT_SHORT),
        ("on_validation_end", 8, CUT_SHORT | BY_STEPS),
        ("on_train_epoch_end", 8, CUT_SHORT | BY_STEPS),
        ("on_validation_end", 7, BY_EPOCHS | {"val_check_interval": 2}),
    ],
)
def test_resumed_training_sees_the_same_images(tmp_path, hook, step, arguments) -> None:
    path = tmp_path / "saved.ckpt"
    seen = train(tmp_path, SaveAt(hook, step, path), **arguments)
    assert len(seen) == 20
    assert path.exists()
    resumed = train(tmp_path, resume=path, **arguments)
    assert resumed == seen[step:]


def test_lightnings_own_checkpoint_goes_on_in_the_middle(tmp_path: Path) -> None:
    def saver() -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=7, save_top_k=-1)

    seen = train(tmp_path, saver(), max_epochs=4)
    assert train(tmp_path, resume=tmp_path / "step=7.ckpt", max_epochs=4) == seen[7:]
    assert train(tmp_path, resume=tmp_path / "step=14.ckpt", max_epochs=4) == seen[14:]


# --- standardizing and augmenting ---------------------------------------------------------------


def test_batches_are_standardized_and_augmented_in_training_only(tmp_path: Path) -> None:
    def blank(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return torch.full_like(x, 7)

    batches = {}

    class Keep(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            batches["train"] = batch[0]

        def on_validation_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
            batches["val"] = batch[0]

    trainer = Trainer(
        accelerator="cpu",
        fast_dev_run=True,
        callbacks=[Keep()],
        enable_progress_bar=False,
        enable_model_summary=False,
        precision="64-true",
    )
    data = Digits(batch_size=300, augment=blank)
    trainer.fit(Recorder(), datamodule=data)
    assert (batches["train"] == 7).all()
    assert batches["val"].dtype == torch.float64  # as the precision of the run asks
    assert abs(batches["val"].mean()) < 0.1
    assert abs(batches["val"].std() - 1) < 0.1
    raw = data.val.images[data.val.indices]
    standard = (raw.double() / 16 - data.MEAN[0]) / data.STD[0]
    torch.testing.assert_close(batches["val"], standard, atol=1e-5, rtol=1e-5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_augmentation_follows_from_the_generator() -> None:
    augment, x = Augment(shift=2, flip=True, cutout=3), torch.randn(16, 3, 9, 9)
    original = x.clone()
    assert torch.equal(augment(x, generator()), augment(x, generator()))
    assert not torch.equal(augment(x, generator()), augment(x, generator(1)))
    assert torch.equal(x, original)
    assert torch.equal(Augment()(x, generator()), x)


def test_shift_moves_each_image_and_uncovers_zeros() -> None:
    x = torch.zeros(400, 2, 7, 7)
    x[:, 0, 3, 3], x[:, 1, 3, 3] = 1, 2
    moved = Augment(shift=2)(x, generator())
    places = moved[:, 0].nonzero()
    assert len(places) == 400
    offsets = {(int(row) - 3, int(column) - 3) for _, row, column in places}
    assert offsets == {(down, right) for down in range(-2, 3) for right in range(-2, 3)}
    assert torch.equal(moved[:, 1], 2 * moved[:, 0])
    # At an edge the pixels leave, and zeros come in.
    full = Augment(shift=1)(torch.ones(100, 1, 5, 4), generator())
    assert set(full.sum((1, 2, 3)).tolist()) == {20.0, 16.0, 15.0, 12.0}


def test_flip_mirrors_about_half_of_the_images() -> None:
    x = torch.arange(4.0).expand(1000, 1, 2, 4)
    flipped = Augment(flip=True)(x, generator())
    mirrored = flipped[:, 0, 0, 0] == 3
    assert torch.equal(flipped[mirrored], x.flip(3)[mirrored])
    assert torch.equal(flipped[~mirrored], x[~mirrored])
    assert 400 < mirrored.sum() < 600


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_cutout_clears_one_square(side: int) -> None:
    x = torch.ones(500, 2, 8, 6)
    holes = 1 - Augment(cutout=side)(x, generator())
    assert torch.equal(holes[:, 0], holes[:, 1])
    heights, widths = holes[:, 0].amax(2).sum(1), holes[:, 0].amax(1).sum(1)
    assert torch.equal(holes[:, 0].sum((1, 2)), heights * widths)
    assert heights.max() == widths.max() == side
    assert heights.min() >= max(1, side // 2)
    assert holes.any(0).all()  # every pixel is in some hole


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shift": -1}, "shift must be a whole number >= 0, got -1"),
        ({"cutout": 1.5}, "cutout must be a whole number >= 0, got 1.5"),
        ({"flip": "yes"}, "flip must be true or false, got 'yes'"),
    ],
)
def test_augment_refuses_bad_values(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augment(**arguments)


# --- Fashion-MNIST ------------------------------------------------------------------------------


def test_fashion_mnist_reads_its_files(files: Path) -> None:
    module = fashion(files)
    module.prepare_data()
    module.setup()
    assert [len(module.train), len(module.val), len(module.test)] == [40, 20, 20]
    assert not set(module.train.indices.tolist()) & set(module.val.indices.tolist())
    expected = np.random.default_rng(0).integers(0, 256, (60, 28, 28))
    assert np.array_equal(module.train.images[:, 0].numpy(), expected)
    assert module.test.labels.tolist() == list(range(10)) * 2
    assert fashion(files).read()[0][0] is module.train.images  # read once in a process


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"no gzip", "not a whole gzip file"),
        (idx(np.zeros((60, 28, 28)))[:-20], "not a whole gzip file"),
        (compress(b"\0\0\x0d\x03" + bytes(20)), "must begin with 00000803, got '00000d03'"),
        (idx(np.zeros(60)), "must begin with 00000803, got '00000801'"),
        (compress(b""), "must begin with 00000803, got ''"),
        (compress(b"\0\0\x08\x03\0\0"), "header of 16 bytes is cut off after 6"),
        (compress(b"\0\0\x08\x03" + struct.pack(">3I", 2, 3, 4) + bytes(23)), "2 x 3 x 4"),
        (compress(b"\0\0\x08\x03" + struct.pack(">3I", 2, 3, 4) + bytes(25)), "2 x 3 x 4"),
        (compress(b"\0\0\x08\x03" + struct.pack(">3I", 0, 3, 4)), "0 x 3 x 4"),
    ],
)
def test_corrupt_idx_files_are_named(files: Path, content: bytes, problem: str) -> None:
    path = files / fashion_mnist.TRAIN[0]
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is corrupt") as error:
        fashion(files).setup()
    assert str(path) in str(error.value)
    assert problem in str(error.value)


def test_bits_that_changed_are_found(files: Path) -> None:
    path = files / fashion_mnist.TRAIN[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"train-images.* is corrupt: not a whole gzip file"):
        read_idx(path, 3)


def test_labels_must_match_the_images(files: Path) -> None:
    (files / fashion_mnist.TEST[1]).write_bytes(idx(np.arange(19) % 10))
    with pytest.raises(ValueError, match=r"t10k-labels.* is corrupt: 19 labels for the 20 images"):
        fashion(files).setup()


def test_missing_files_are_found_before_anything_is_read(files: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"root must be a folder with train-images.*") as e:
        fashion(tmp_path / "nowhere").prepare_data()
    assert f"got '{tmp_path / 'nowhere'}' (there is no such folder)" in str(e.value)
    (files / fashion_mnist.TEST[0]).unlink()
    with pytest.raises(FileNotFoundError, match=r"\(t10k-images-idx3-ubyte.gz not in it\)"):
        fashion(files).prepare_data()


class Handler(http.server.SimpleHTTPRequestHandler):
    requests: list[str]

    def do_GET(self) -> None:
        self.requests.append(self.path)
        super().do_GET()

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def server(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A server with small files in place of the official address; gives the list of requests."""
    Handler.requests = []
    handler = partial(Handler, directory=str(files))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
        sums = {
            f: hashlib.sha256((files / f).read_bytes()).hexdigest() for f in fashion_mnist.FILES
        }
        address = f"http://127.0.0.1:{httpd.server_port}/"
        monkeypatch.setattr(fashion_mnist, "ADDRESS", address)
        monkeypatch.setattr(fashion_mnist, "SHA256", sums)
        monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", tmp_path / "none")
        monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache" / name)
        yield Handler.requests
        httpd.shutdown()


def downloaded(**arguments) -> FashionMNIST:
    module = FashionMNIST(batch_size=5, num_val=20, **arguments)
    module.prepare_data()
    module.setup()
    return module


def test_files_are_downloaded_once(server: list[str], tmp_path: Path) -> None:
    assert len(downloaded().train) == 40
    assert sorted(server) == sorted(f"/{name}" for name in fashion_mnist.FILES)
    downloaded()
    assert len(server) == 4
    folder = tmp_path / "cache" / "lightning-onecycle" / "fashion-mnist"
    assert sorted(p.name for p in folder.iterdir()) == sorted(fashion_mnist.FILES)


def test_a_wrong_checksum_is_refused(server: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fashion_mnist.SHA256, fashion_mnist.TRAIN[1], "0" * 64)
    with pytest.raises(ValueError, match=r"hash of downloaded file \(train-labels"):
        downloaded()


def test_without_a_network_the_error_says_what_to_do(server, files, monkeypatch) -> None:
    (files / fashion_mnist.TRAIN[0]).unlink()
    with pytest.raises(ConnectionError, match=r"cannot download http.*train-images.* as root"):
        downloaded()


def test_nothing_is_downloaded_when_a_folder_has_the_files(server, files, monkeypatch) -> None:
    downloaded(root=str(files))
    monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", files)
    downloaded()
    assert server == []


# --- CIFAR-10 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_cifar10_reads_folder_and_archive(tmp_path: Path, packed: bool) -> None:
    root = write_cifar10(tmp_path / "folder")
    if packed:
        (tmp_path / "archive").mkdir()
        with tarfile.open(tmp_path / "archive" / cifar10.ARCHIVE, "w:gz") as tar:
            tar.add(root / cifar10.FOLDER, cifar10.FOLDER)
        root = tmp_path / "archive"
    module = CIFAR10(root=str(root), batch_size=5, num_val=10)
    module.prepare_data()
    module.setup()
    assert [len(module.train), len(module.val), len(module.test)] == [40, 10, 10]
    images = module.train.images
    assert images.shape == (50, 3, 32, 32)
    assert images[:, 0, 0, 0].eq(100).all()
    assert images[:, 2, 31, 31].tolist() == [n for n in range(5) for _ in range(10)]
    assert module.train.labels.tolist() == list(range(10)) * 5
    assert module.test.images[:, 1].eq(5).all()


def test_cifar10_names_what_is_missing_or_corrupt(tmp_path: Path) -> None:
    def module() -> CIFAR10:
        return CIFAR10(root=str(tmp_path), batch_size=5, num_val=10)

    with pytest.raises(FileNotFoundError, match=r"root must be a folder with cifar-10-binary"):
        module().prepare_data()
    (tmp_path / cifar10.ARCHIVE).write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"cifar-10-binary.tar.gz is corrupt"):
        module().setup()
    write_cifar10(tmp_path)
    file = tmp_path / cifar10.FOLDER / "data_batch_3.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"data_batch_3.bin is corrupt: 30729 bytes are not whole"):
        module().setup()
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"\(cifar-10-batches-bin/data_batch_3.bin not in"):
        module().prepare_data()


# --- configs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "batch_size"),
    [("digits", Digits, 64), ("fashion_mnist", FashionMNIST, 128), ("cifar10", CIFAR10, 512)],
)
def test_configs(name: str, kind: type, batch_size: int) -> None:
    cfg = OmegaConf.create({"seed": 3, "data": OmegaConf.load(CONF / f"{name}.yaml")})
    module = instantiate(cfg.data, _convert_="all")
    assert isinstance(module, kind)
    assert (module.batch_size, module.seed, module.split_seed) == (batch_size, 3, 0)
    assert module.augment == (Augment(shift=4, flip=True) if kind is CIFAR10 else None)
