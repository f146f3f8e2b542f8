"""One level of theory in a data set; strained cells, base fields and stencils may differ."""

import numpy as np
import pytest
from fieldloop.dft_inputs.consistency import MixedLabelsError, check_one_level
from fieldloop.dft_inputs.records import ElectricResponse, Frame, LabelledFrame, Provenance

CELL = np.diag([4.0, 5.0, 6.0])


def label(name, *, cell=CELL, **provenance):
    settings = {"code": "pw.x", "protocol": "fast", "settings_hash": "a", "kpoints": (4, 4, 2),
                "pseudopotentials": {"Al": "1", "As": "2"}}  # fmt: skip
    return LabelledFrame(
        label_id=name,
        frame=Frame(species=("Al",), positions=np.zeros((1, 3)), cell=cell),
        response=ElectricResponse(enthalpy=1.0),
        provenance=Provenance(**{**settings, **provenance}),
    )


def test_labels_of_one_level_pass():
    check_one_level([])
    check_one_level(
        [
            label("one"),
            label("strained", cell=1.03 * CELL),
            label("supercell", cell=np.diag([2, 1, 2]) @ CELL, kpoints=(2, 4, 1)),
            label("other elements", pseudopotentials={"As": "2", "Ga": "3"}),
            label("other stencil or base field", inputs_hash="x"),
            label("same settings by another name", protocol="mine"),
        ]
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"settings_hash": "b", "protocol": "standard"}, r"settings \(protocols fast and standard\)"),
        ({"pseudopotentials": {"Al": "1", "As": "9"}}, "the pseudopotential of As"),
        ({"code": "vasp"}, r"code \(pw.x and vasp\)"),
        ({"kpoints": (4, 4, 3)}, "density of their k-meshes"),
        ({"settings_hash": "", "protocol": "import"}, "settings"),
    ],
)
def test_mixed_labels_are_refused_with_two_names(changed, message):
    with pytest.raises(MixedLabelsError, match=rf"labels one and other differ in .*{message}") as error:
        check_one_level([label("one"), label("strained", cell=1.02 * CELL), label("other", **changed)])
    assert "\n" not in str(error.value)


def test_labels_of_unknown_inputs_are_judged_by_their_protocol():
    check_one_level([label("old", settings_hash="", kpoints=None), label("new")])
