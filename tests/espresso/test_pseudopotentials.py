"""Headers of real files in three formats, and every way in which a choice can go wrong."""

import hashlib

import pytest
from fieldloop.dft_inputs.pseudopotentials import (
    PseudopotentialError,
    family_hash,
    find_pseudopotentials,
    read_pseudopotential,
)

UPF1 = """<PP_INFO>
</PP_INFO>
<PP_HEADER>
   0                   Version Number
  {element}                   Element
   {kind}                  {kind} pseudopotential
    F                  Nonlinear Core Correction
 {functional}   Exchange-Correlation functional
    4.00000000000      Z valence
    0.00000000000      Total energy
</PP_HEADER>
"""
UPF2 = """<UPF version="2.0.1">
<PP_HEADER
  element="{element}"
  pseudo_type="{kind}"
  functional="{functional}"
  z_valence="4.000000000000E+000"/>
"""


def write(folder, name, template=UPF2, element="Si", kind="NC", functional="SLA PZ NOGX NOGC"):
    (folder / name).write_text(template.format(element=element, kind=kind, functional=functional))


def test_files_of_the_distribution(code):
    found = code.find_pseudopotentials(["As", "Al", "Al"])
    assert list(found) == ["Al", "As"]
    assert [found[e].z_valence for e in ("Al", "As")] == [3, 5]
    assert {p.functional for p in found.values()} == {"PZ"}
    assert {p.kind for p in found.values()} == {"NC"}
    assert found["Al"].sha256 == hashlib.sha256(found["Al"].path.read_bytes()).hexdigest()


def test_goedecker_files(goedecker):
    found = find_pseudopotentials(goedecker, ["O", "Si"])
    assert [(p.element, p.z_valence, p.functional, p.kind) for p in found.values()] == [
        ("O", 6, "PZ", "NC"),
        ("Si", 4, "PZ", "NC"),
    ]


@pytest.mark.parametrize("template", [UPF1, UPF2])
@pytest.mark.parametrize(
    ("functional", "name"), [("SLA  PZ   NOGX NOGC", "PZ"), ("SLA PW PBX PBC", "PBE"), ("SLA-PW-PSX-PSC", "PBESOL")]
)
def test_both_versions_say_the_same(tmp_path, template, functional, name):
    write(tmp_path, "Si.upf", template, functional=functional)
    found = read_pseudopotential(tmp_path / "Si.upf")
    assert (found.element, found.z_valence, found.functional, found.kind) == ("Si", 4, name, "NC")


def test_an_element_is_not_mistaken_for_another(tmp_path):
    write(tmp_path, "C.UPF", element="C")
    write(tmp_path, "Co.UPF", element="Co")
    write(tmp_path, "Cu.UPF", element="Cu")
    assert find_pseudopotentials(tmp_path, ["C"])["C"].path.name == "C.UPF"


def test_norm_conserving_is_preferred(tmp_path):
    write(tmp_path, "Si.pz-rrkj.UPF", kind="US")
    write(tmp_path, "Si.pz-vbc.UPF")
    assert find_pseudopotentials(tmp_path, ["Si"])["Si"].path.name == "Si.pz-vbc.UPF"


def test_a_name_settles_the_choice(tmp_path):
    write(tmp_path, "Si.a.UPF")
    write(tmp_path, "Si.b.UPF", template=UPF1)
    assert find_pseudopotentials(tmp_path, ["Si"], {"Si": "Si.b.UPF"})["Si"].path.name == "Si.b.UPF"
    with pytest.raises(
        PseudopotentialError, match=r"several pseudopotentials for Si .*Si\.a\.UPF \(PZ\), Si\.b\.UPF.*name one"
    ):
        find_pseudopotentials(tmp_path, ["Si"])


@pytest.mark.parametrize(("kind", "words"), [("US", "ultrasoft"), ("USPP", "ultrasoft"), ("PAW", "PAW")])
def test_ultrasoft_and_paw_are_refused(tmp_path, kind, words):
    write(tmp_path, "Si.UPF", kind=kind)
    with pytest.raises(PseudopotentialError, match=f"{words}; labels in a field need norm-conserving"):
        find_pseudopotentials(tmp_path, ["Si"])


def test_missing(tmp_path):
    with pytest.raises(PseudopotentialError, match=r"no pseudopotential for Si in .*put a Si"):
        find_pseudopotentials(tmp_path, ["Si"])
    with pytest.raises(PseudopotentialError, match="does not exist; set pseudo_dir"):
        find_pseudopotentials(tmp_path / "nowhere", ["Si"])
    with pytest.raises(PseudopotentialError, match="cannot read"):
        find_pseudopotentials(tmp_path, ["Si"], {"Si": "gone.UPF"})


def test_wrong_element_inside(tmp_path):
    write(tmp_path, "Si.UPF", element="Ge")
    with pytest.raises(PseudopotentialError, match="is for Ge, not Si"):
        find_pseudopotentials(tmp_path, ["Si"])


def test_mixed_functionals(tmp_path):
    write(tmp_path, "Si.UPF")
    write(tmp_path, "O.UPF", element="O", functional="SLA PW PBX PBC")
    with pytest.raises(PseudopotentialError, match=r"different functionals: O\.UPF \(PBE\), Si\.UPF \(PZ\)"):
        find_pseudopotentials(tmp_path, ["Si", "O"])


@pytest.mark.parametrize("name", ["Si.UPF", "Si.gth"])
@pytest.mark.parametrize("text", ["", "not a pseudopotential", "<PP_HEADER>\n1\n2\n", "a\n14 4 0\n8 1 0\n"])
def test_rubbish(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(PseudopotentialError, match=r"no readable UPF or \.gth"):
        find_pseudopotentials(tmp_path, ["Si"])


def test_copies_of_one_file_are_one_file(tmp_path):
    write(tmp_path, "Si.UPF")
    write(tmp_path, "Si_again.UPF")
    assert find_pseudopotentials(tmp_path, ["Si"])["Si"].path.name == "Si.UPF"
    write(tmp_path, "Si_other.UPF", functional="SLA PW PBX PBC")
    with pytest.raises(PseudopotentialError, match=r"several .*Si\.UPF \(PZ\), Si_other\.UPF \(PBE\); name one"):
        find_pseudopotentials(tmp_path, ["Si"])


def test_a_family_is_known_by_content(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, f"Si_{folder}.UPF")
        write(tmp_path / folder, "O.UPF", element="O")
    one, two = (find_pseudopotentials(tmp_path / folder, elements) for folder, elements in
                (("one", ["Si", "O"]), ("two", ["O", "Si"])))  # fmt: skip
    assert family_hash(one) == family_hash(two)
    write(tmp_path / "two", "O.UPF", element="O", template=UPF1)
    assert family_hash(one) != family_hash(find_pseudopotentials(tmp_path / "two", ["Si", "O"]))
    assert family_hash(one) != family_hash({"Si": one["Si"]})
    swapped = {"Si": one["O"], "O": one["Si"]}
    assert family_hash(swapped) != family_hash(one)


@pytest.mark.parametrize("name", ["Si.rel-pbe-rrkj.UPF", "Si_r.upf"])
def test_spin_orbit_files_are_refused(code, name):
    """Both versions of the format, as Quantum ESPRESSO ships them."""
    with pytest.raises(PseudopotentialError, match=r"fully relativistic .* scalar-relativistic file for Si"):
        find_pseudopotentials(code.pseudo_dir, ["Si"], {"Si": name})


def test_relativity_of_the_header(code):
    found = find_pseudopotentials(code.pseudo_dir, ["Al", "Si"], {"Si": "Si.pz-vbc.UPF"})
    assert {p.relativistic for p in found.values()} == {"no"}
    assert not any(p.spin_orbit for p in found.values())


@pytest.mark.parametrize(("pspxc", "functional"), [(1, "PZ"), (11, "PBE"), (18, "BLYP"), (-101130, "PBE")])
def test_functional_of_a_goedecker_file(goedecker, tmp_path, pspxc, functional):
    text = (goedecker / "Si.gth").read_text().replace("10  1  1", f"10 {pspxc}  1", 1)
    (tmp_path / "Si.gth").write_text(text)
    assert find_pseudopotentials(tmp_path, ["Si"])["Si"].functional == functional


def test_a_functional_that_pw_does_not_know(goedecker, tmp_path):
    (tmp_path / "Si.gth").write_text((goedecker / "Si.gth").read_text().replace("10  1  1", "10  2  1", 1))
    with pytest.raises(PseudopotentialError, match=r"pspxc 2, which pw\.x does not know"):
        find_pseudopotentials(tmp_path, ["Si"])
