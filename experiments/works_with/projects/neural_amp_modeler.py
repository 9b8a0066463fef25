"""Neural Amp Modeler: the sound of a guitar amplifier, by a WaveNet."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import wavio
from nam.data import Split, init_dataset
from nam.train.lightning_module import LightningModule
from pytorch_lightning import Trainer
from torch.utils.data import DataLoader

LAYERS = {
    "condition_size": 1,
    "input_size": 1,
    "channels": 4,
    "kernel_size": 3,
    "dilations": [1, 2, 4, 8],
    "activation": "Tanh",
    "head": {"out_channels": 1, "kernel_size": 1, "bias": True},
}
CONFIG = {
    "net": {"name": "WaveNet", "config": {"layers_configs": [LAYERS], "head_scale": 0.02}},
    "loss": {"val_loss": "esr"},
    "optimizer": {"lr": 0.004},
    "lr_scheduler": {"class": "ExponentialLR", "kwargs": {"gamma": 0.993}},
}


def fit(**options: Any) -> None:
    """Train on two seconds of a tone and its distortion."""
    seconds, rng = np.arange(96_000) / 48_000, np.random.default_rng(0)
    clean = 0.5 * np.sin(2 * np.pi * 110 * seconds) * np.sin(9 * seconds)
    clean += 0.05 * rng.normal(size=len(clean))
    model = LightningModule.init_from_config(CONFIG)
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name, sound in (("x_path", clean), ("y_path", np.tanh(3 * clean) / 2)):
            files[name] = str(Path(folder) / f"{name}.wav")
            whole = (sound.clip(-1, 1) * (2**23 - 1)).astype(np.int32)
            wavio.write(files[name], whole, 48_000, sampwidth=3)
        config = {
            "train": {"stop_seconds": -0.5, "ny": 1024},
            "validation": {"start_seconds": -0.5, "ny": None},
            "common": {
                **files,
                "delay": 0,
                "require_input_pre_silence": None,
                "nx": model.net.receptive_field,
            },
        }
        data = [init_dataset(config, split) for split in (Split.TRAIN, Split.VALIDATION)]
    model.net.sample_rate = data[0].sample_rate
    for dataset in data:
        dataset.handshake(model.net)
        model.net.handshake(dataset)
    train = DataLoader(data[0], batch_size=8, shuffle=True, drop_last=True)
    Trainer(max_epochs=8, **options).fit(model, train, DataLoader(data[1]))
