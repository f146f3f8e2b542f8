"""What the page on stability lists is what the code has."""

import re
from pathlib import Path

import fieldloop
import pytest
import typer.main
from fieldloop.dft_inputs.records import SCHEMA_VERSION
from fieldloop.model.dynamics.trajectory import TrajectoryMeta
from fieldloop.model.files import FORMAT_VERSION
from fieldloop.workflows import sqlite_file
from fieldloop.workflows.cli import app
from fieldloop.workflows.config import CampaignConfig
from fieldloop.workflows.lammps_files import LammpsSection
from fieldloop.workflows.md_files import MdSection
from fieldloop.workflows.train_files import TrainSection

PAGE = (Path(__file__).parents[2] / "docs" / "stability.md").read_text()


def section(name: str) -> str:
    return PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]


def row(part: str, begin: str) -> str:
    (found,) = [line for line in section(part).splitlines() if line.startswith(f"| {begin}")]
    return found


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_every_command_has_a_status():
    rows = "".join(line for line in section("Commands").splitlines() if line.startswith("| `fieldloop"))
    words = {word for cell in quoted(rows) for word in cell.split()}
    command = typer.main.get_command(app)
    groups = {name: set(getattr(group, "commands", {})) for name, group in command.commands.items()}
    assert words - {"fieldloop", "--vasp"} == set(groups).union(*groups.values())


@pytest.mark.parametrize(
    ("begin", "model"),
    [
        ("campaign", CampaignConfig),
        ("`train --settings`", TrainSection),
        ("`md --settings`", MdSection),
        ("`lammps run --settings`", LammpsSection),
    ],
)
def test_every_section_of_a_settings_file_is_listed(begin, model):
    assert set(quoted(row("YAML", begin).split("|")[2])) == set(model.model_fields)


@pytest.mark.parametrize(
    ("begin", "number"),
    [
        ("store", sqlite_file.SCHEMA_VERSION),
        ("records", SCHEMA_VERSION),
        ("model", FORMAT_VERSION),
        ("trajectory", TrajectoryMeta.model_fields["schema_version"].default),
    ],
)
def test_format_numbers_are_those_of_the_code(begin, number):
    assert row("Files", begin).split("|")[2].split()[1] == str(number)


def test_the_names_of_the_package_are_listed():
    assert set(fieldloop.__all__) <= set(quoted(section("Python")))


def test_every_name_is_there():
    listed = quoted(section("Python").split("and from their modules")[0])
    for name in set(listed) - {"fieldloop"}:
        assert hasattr(fieldloop, name)
