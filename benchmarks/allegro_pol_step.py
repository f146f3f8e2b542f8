"""The peer of ``training_speed.py``: one training step of allegro-pol, run by the Python of its own environment.

    PYTHONPATH=<checkout of allegro-pol> python allegro_pol_step.py '<JSON>'

It answers each line on its standard input with the seconds of one step, and prints its memory at the end.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import ase.io
import torch
from allegro_pol.model import AllegroPolarizationModel
from allegro_pol.train import EnergyForcePolarizationLoss
from nequip.data import AtomicDataDict, from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.utils.global_state import set_global_state

LABELS = ("total_energy", "forces", "stress", "polarization", "born_effective_charges", "polarizability")


def prepared(atoms: ase.Atoms, species: list[str], cutoff: float) -> dict[str, torch.Tensor]:
    """A frame as the peer's tutorial reads it.

    Raises:
        SystemExit: it has no stress that ASE reads.
    """
    if atoms.calc is None or "stress" not in atoms.calc.results:
        raise SystemExit("a frame has no stress that ASE reads")
    atoms.info["total_energy"] = atoms.info.get("total_energy", atoms.calc.results.get("energy"))
    data = from_ase(
        atoms,
        key_mapping={"total_energy": "total_energy", "born_charge": "born_effective_charges"},
        include_keys=["polarization", "polarizability"],
    )
    data = ChemicalSpeciesToAtomTypeMapper(model_type_names=species)(data)
    return AtomicDataDict.batched_from_list([NeighborListTransform(r_max=cutoff)(data)])


def build_model(settings: dict[str, Any], neighbours: float, shift: float = 0.0, scale: float = 1.0) -> torch.nn.Module:
    """The model of the peer's tutorial with the hyperparameters of the comparison."""
    width = settings["scalars"]
    return AllegroPolarizationModel(
        seed=0,
        model_dtype="float32",
        type_names=settings["species"],
        r_max=settings["cutoff"],
        l_max=settings["l_max"],
        parity=True,
        num_layers=settings["layers"],
        num_scalar_features=width,
        num_tensor_features=settings["tensors"],
        radial_chemical_embed={
            "_target_": "allegro.nn.TwoBodyBesselScalarEmbed",
            "num_bessels": settings["radial"],
            "bessel_trainable": False,
            "polynomial_cutoff_p": 6,
        },
        radial_chemical_embed_dim=width,
        scalar_embed_mlp_hidden_layers_width=width,
        allegro_mlp_hidden_layers_width=width,
        readout_mlp_hidden_layers_width=width,
        tp_path_channel_coupling=True,
        avg_num_neighbors=neighbours,
        per_type_energy_shifts=dict.fromkeys(settings["species"], shift),
        per_type_energy_scales=dict.fromkeys(settings["species"], scale),
    )


def main() -> None:
    """Answer requests until the input ends."""
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(settings["threads"])
    set_global_state(allow_tf32=False)
    data = prepared(ase.io.read(settings["frame"]), settings["species"], settings["cutoff"])
    edges = data[AtomicDataDict.EDGE_INDEX_KEY].shape[1]
    model = build_model(settings, edges / data[AtomicDataDict.POSITIONS_KEY].shape[0])
    model.train()
    flags = {"do_stress": True, "do_born_charge": True, "do_polarizability": True}
    loss = EnergyForcePolarizationLoss(coeffs=dict.fromkeys(LABELS, 1.0), type_names=settings["species"], **flags)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        predicted = model({key: value.clone() for key, value in data.items()})
        loss(predicted, data)["weighted_sum"].backward()
        optimizer.step()

    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    ready = {"edges": edges, "parameters": sum(p.numel() for p in model.parameters()), "resident": resident}
    print(json.dumps(ready), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), flush=True)
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024), flush=True)


if __name__ == "__main__":
    main()
