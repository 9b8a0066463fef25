"""MatGL: properties of crystals, by a graph network."""

from __future__ import annotations

from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from matgl.ext.pymatgen import Structure2Graph, get_element_list
from matgl.graph.data import MGLDataLoader, MGLDataset, collate_fn_graph
from matgl.models import MEGNet
from matgl.utils.training import ModelLightningModule
from pymatgen.core import Lattice, Structure


def fit(**options: Any) -> None:
    """Train on the length of the cells of rock salt."""
    lengths = np.random.default_rng(0).uniform(4.0, 6.0, size=96)
    crystals = [
        Structure.from_spacegroup(
            "Fm-3m", Lattice.cubic(a), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
        ).get_primitive_structure()
        for a in lengths
    ]
    elements = get_element_list(crystals)
    data = MGLDataset(
        structures=crystals,
        converter=Structure2Graph(element_types=elements, cutoff=4.0),
        labels={"length": [float(a) for a in lengths]},
        save_cache=False,
    )
    loader, _ = MGLDataLoader(
        train_data=data, val_data=data, collate_fn=collate_fn_graph, batch_size=16
    )
    net = MEGNet(dim_node_embedding=8, dim_edge_embedding=20, element_types=elements)
    Trainer(max_epochs=10, **options).fit(ModelLightningModule(net, decay_steps=10), loader)
