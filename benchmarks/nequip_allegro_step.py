"""The peer of ``dynamics.py``: E and F of nequip-allegro, compiled, run by the Python of its own environment.

    python nequip_allegro_step.py '<JSON>'

The model is exported as ``nequip-compile --mode aotinductor`` does it (TorchScript is not supported from PyTorch 2.10
on), for energies and forces alone; the compiled file is kept and used again. It answers each line on its standard input
with the seconds of one evaluation, and prints its memory at the end.
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
from allegro.model import AllegroModel
from nequip.data import from_ase
from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.utils.aot import aot_export_model
from nequip.utils.global_state import set_global_state
from torch.export import Dim

INPUTS = ["pos", "edge_index", "atom_types", "cell", "edge_cell_shift"]
OUTPUTS = ["atomic_energy", "total_energy", "forces"]


def read_system(path: str, species: list[str], cutoff: float) -> dict[str, torch.Tensor]:
    """Positions and neighbours of the structure."""
    data = ChemicalSpeciesToAtomTypeMapper(model_type_names=species)(from_ase(ase.io.read(path)))
    return {name: value for name, value in NeighborListTransform(r_max=cutoff)(data).items() if name in INPUTS}


def build_model(settings: dict[str, Any], neighbours: float) -> torch.nn.Module:
    """The model with the hyperparameters of the comparison.

    Without tensors of the other parity, as with two layers they cannot reach the energy.
    """
    width = settings["scalars"]
    return AllegroModel(
        seed=0,
        model_dtype="float32",
        type_names=settings["species"],
        r_max=settings["cutoff"],
        l_max=settings["l_max"],
        parity=False,
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
        per_type_energy_shifts=dict.fromkeys(settings["species"], 0.0),
        per_type_energy_scales=dict.fromkeys(settings["species"], 1.0),
    ).eval()


def compiled(model: torch.nn.Module, data: dict[str, torch.Tensor], settings: dict[str, Any]) -> Any:
    """The compiled model, from the file of an earlier run where there is one."""
    path = Path(settings["compiled"])
    if not path.exists():
        print(f"compiling nequip-allegro into {path}", file=sys.stderr, flush=True)
        sizes = {"node": Dim("num_nodes", min=2, max=torch.inf), "edge": Dim("num_edges", min=2, max=torch.inf)}
        shapes = {"graph": Dim.STATIC, **sizes}
        aot_export_model(model, settings["device"], INPUTS, OUTPUTS, data, shapes, str(path))
    return torch._inductor.aoti_load_package(str(path))


def main() -> None:
    """Answer requests until the input ends."""
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(settings["threads"])
    set_global_state(allow_tf32=False)
    data = read_system(settings["structure"], settings["species"], settings["cutoff"])
    edges, atoms = data["edge_index"].shape[1], data["pos"].shape[0]
    data = {name: value.to(settings["device"]) for name, value in data.items()}
    model = build_model(settings, edges / atoms).to(settings["device"])
    evaluate = compiled(model, data, settings)
    arguments = [data[name] for name in INPUTS]
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    ready = {"edges": edges, "parameters": sum(p.numel() for p in model.parameters()), "resident": resident}
    print(json.dumps(ready), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        evaluate(*arguments)
        if settings["device"] == "cuda":
            torch.cuda.synchronize()
        print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), flush=True)
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024), flush=True)


if __name__ == "__main__":
    main()
