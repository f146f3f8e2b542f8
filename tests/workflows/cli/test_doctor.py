"""The doctor finds what is missing and says what to do."""

import stat

import pytest
from fieldloop.dft_inputs.espresso.code import PwCode
from fieldloop.workflows.cli import app
from fieldloop.workflows.config import load_config
from fieldloop.workflows.doctor import (
    check_cores,
    check_disk,
    check_file_system,
    check_memory,
    check_packages,
    check_program,
    examine,
    ready,
)
from typer.testing import CliRunner


def by_name(findings):
    return {finding.name: finding for finding in findings}


def script(folder, text):
    path = folder / "pw.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(stat.S_IRWXU)
    return PwCode(command=str(path))


def test_this_machine_is_fit_for_the_campaign(place):
    findings = by_name(examine(load_config(place.file)))
    assert ready(findings.values()), findings
    assert findings["pw.x"].detail.startswith("version ")
    assert "Al: Al.pz-vbc.UPF (PZ), As: As.pz-bhs.UPF (PZ)" in findings["pseudopotentials"].detail
    assert place.calls() == [] or len(place.calls()) == 1


def test_without_pw(monkeypatch):
    monkeypatch.setenv("PATH", "")
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    line = next(line for line in result.stdout.splitlines() if "pw.x" in line)
    assert line.split() == ["FAIL", "pw.x", "pw.x", "not", "found"]
    assert "-> load the module of Quantum ESPRESSO" in result.stdout


def test_everything_is_looked_at():
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    for name in ("Python", "packages", "pw.x", "pseudopotentials", "cores", "memory", "torch", "store", "disk"):
        assert f" {name} " in result.stdout


@pytest.mark.parametrize(("text", "detail"), [("exit 0", "no banner"), ("kill -9 $$", "no banner")])
def test_a_program_that_is_not_pw(tmp_path, text, detail):
    finding = check_program("pw.x", script(tmp_path, text))
    assert finding.state == "fail"
    assert detail in finding.detail
    assert finding.fix


def test_a_launcher_is_named_but_not_started(tmp_path):
    code = script(tmp_path, "echo ' Program PWSCF v.7.4.1 starts on 1Jan2026'")
    (tmp_path / "srun").write_text("#!/bin/sh\necho called >> $0.log\n")
    (tmp_path / "srun").chmod(stat.S_IRWXU)
    finding = check_program("pw.x", code.model_copy(update={"launcher": (str(tmp_path / "srun"), "-n", "4")}))
    assert finding.state == "ok"
    assert "7.4.1" in finding.detail
    assert "-n 4" in finding.detail
    assert not (tmp_path / "srun.log").exists()


def test_a_program_that_its_own_environment_finds(tmp_path):
    script(tmp_path, 'echo " Program PWSCF v.$RELEASE starts on 1Jan2026"')
    code = PwCode(command="pw.sh", environment={"PATH": f"{tmp_path}:/bin", "RELEASE": "7.4.1"})
    finding = check_program("pw.x", code)
    assert (finding.state, finding.detail) == ("ok", f"version 7.4.1 ({tmp_path / 'pw.sh'})")


def test_a_missing_potcar_is_named_in_the_settings(place):
    place.change("pw: {", f"vasp: {{potcar_dir: {place.folder}}}, pw: {{")
    place.change("protocol: fast\n  pseudopotentials: {Al: Al.pz-vbc.UPF, As: As.pz-bhs.UPF}", "code: vasp")
    finding = by_name(examine(load_config(place.file)))["pseudopotentials"]
    assert finding.state == "fail"
    assert finding.fix == "see codes.vasp.potcar_dir and label.settings.potcars in the YAML"


def test_a_missing_pseudopotential(place):
    place.change("Al.pz-vbc.UPF", "nothing.UPF")
    finding = by_name(examine(load_config(place.file)))["pseudopotentials"]
    assert finding.state == "fail"
    assert "nothing.UPF" in finding.detail
    assert "pseudo_dir" in finding.fix


def test_a_missing_structure(place):
    (place.folder / "AlAs.vasp").unlink()
    assert by_name(examine(load_config(place.file)))["pseudopotentials"].state == "fail"


def test_limits():
    assert check_cores(10_000).state == "warn"
    assert check_memory(1, needed=1e6).state == "warn"
    assert check_memory(1, needed=0.01).state == "ok"


def test_places(tmp_path, monkeypatch):
    deep = tmp_path / "not" / "there" / "yet"
    assert check_disk(deep, needed=0.001).state == "ok"
    assert check_disk(deep, needed=1e6).state == "fail"
    assert check_file_system(deep).state == "ok"
    assert not deep.exists()
    monkeypatch.setattr("fieldloop.workflows.sqlite_file.file_system", lambda path: "nfs4")
    finding = check_file_system(deep)
    assert (finding.state, "nfs4" in finding.detail) == ("warn", True)
    assert "local disk" in finding.fix


def test_packages():
    assert check_packages().state == "ok"
