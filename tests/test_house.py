"""The house stands as it was drawn: who may import whom, what is light, what a wheel holds."""

import ast
import json
import re
import shutil
import subprocess
import sys
import zipfile
from graphlib import TopologicalSorter
from importlib.util import find_spec
from pathlib import Path

import fieldloop
import pytest

REPO = Path(__file__).resolve().parent.parent
ROOMS = ("dft_inputs", "model", "active_learning", "workflows")  # each may import itself and those before it

ENGINES = {"jobflow", "maggma", "fireworks", "mongomock", "pymongo", "parsl", "atomate2", "typer"}
NETWORKS = {"torch", "e3nn", "safetensors", "vesin"}
ADAPTERS = {"fieldloop.model.interfaces.torchsim": "torch_sim"}  # which needs a later Python than we do

SOURCES = sorted(path for room in ROOMS for path in (REPO / room).rglob("*.py"))


def module_name(path: Path) -> str:
    """``model/layers/__init__.py`` -> ``fieldloop.model.layers``."""
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(["fieldloop", *(parts[:-1] if parts[-1] == "__init__" else parts)])


MODULES = {module_name(path): path for path in [REPO / "__init__.py", REPO / "version.py", *SOURCES]}


def relative(path: Path) -> str:
    return str(path.relative_to(REPO))


def imports_in(path: Path, tree: ast.AST) -> list[str]:
    """Modules of the package that the import statements of a tree name, as absolute names."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] == "fieldloop"]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            if base.split(".")[0] == "fieldloop":
                submodules = [f"{base}.{alias.name}" for alias in node.names]
                found += [name if name in MODULES else base for name in submodules]
    return found


def imported_by(modules: list[str], cwd: Path) -> set[str]:
    """Top-level packages that a fresh process gains by importing the modules."""
    code = (
        "import importlib, json, sys\n"
        "before = set(sys.modules)\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in set(sys.modules) - before})))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return set(json.loads(done.stdout.splitlines()[-1]))


def modules_of(room: str) -> list[str]:
    """Those that can be imported here."""
    found = [name for name in MODULES if name == f"fieldloop.{room}" or name.startswith(f"fieldloop.{room}.")]
    return [name for name in found if find_spec(ADAPTERS.get(name, "sys"))]


def test_importing_the_package_costs_nothing(tmp_path):
    gained = imported_by(["fieldloop"], tmp_path) - set(sys.stdlib_module_names)
    assert gained == {"fieldloop"}


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [("dft_inputs", ENGINES | NETWORKS), ("model", ENGINES), ("active_learning", ENGINES)],
)
def test_a_room_needs_nothing_from_the_floors_above(room, forbidden, tmp_path):
    modules = modules_of(room)
    assert modules
    assert imported_by(modules, tmp_path) & forbidden == set()


def test_every_module_of_the_workflows_imports(tmp_path):
    assert "fieldloop" in imported_by(modules_of("workflows"), tmp_path)


def test_every_public_name_is_there():
    assert [name for name in fieldloop.__all__ if getattr(fieldloop, name, None) is None] == []


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Enthalpy'"):
        _ = fieldloop.Enthalpy


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_imports_run_downwards_and_are_relative(path):
    floor = ROOMS.index(path.relative_to(REPO).parts[0])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            if not getattr(node, "level", 0):
                assert "fieldloop" not in {name.split(".")[0] for name in names}, (
                    f"line {node.lineno}: import relatively"
                )
    for target in imports_in(path, ast.parse(path.read_text())):
        assert target in MODULES, f"imports {target}, which does not exist"
        room = target.split(".")[1] if target.count(".") else ""
        assert room not in ROOMS[floor + 1 :], f"imports {target} from a floor above"


def test_there_are_no_circles():
    """Among imports that run when a module is imported, those for type checkers aside."""
    graph = {}
    for name, path in MODULES.items():
        body = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        graph[name] = set(imports_in(path, ast.Module(body=body, type_ignores=[]))) - {name}
    list(TopologicalSorter(graph).static_order())  # raises CycleError naming the circle


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_functions_stay_small(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            parameters = len(node.args.posonlyargs) + len(node.args.args) + len(node.args.kwonlyargs)
            assert lines <= 80, f"{node.name} has {lines} lines"
            assert parameters <= 10, f"{node.name} has {parameters} parameters"


def is_foreign(path: Path) -> bool:
    """Not of the repository: hidden folders, environments, builds, caches, runs."""
    return (
        (path.name.startswith(".") and path.name != ".ci")
        or path.name in {"__pycache__", "build", "dist", "run"}
        or path.name.endswith(".egg-info")
        or (path / "pyvenv.cfg").exists()
    )


def repository_files(folder: Path = REPO):
    for path in sorted(folder.iterdir()):
        if is_foreign(path):
            continue
        if path.is_dir():
            yield from repository_files(path)
        else:
            yield path


MACHINE_PATH = re.compile(r"(?<![\w.$}])/(?:home|Users|root|work|mnt|scratch|workspace)/\w+")


def test_no_file_names_a_path_of_somebodys_machine():
    """Raw outputs in ``tests/data`` keep the paths of those who made them."""
    text_files = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".sh", ".html", ".cfg", ""}
    found = []
    for path in repository_files():
        if path.suffix in text_files and not path.is_relative_to(REPO / "tests" / "data") and path != Path(__file__):
            found += [f"{relative(path)}: {hit}" for hit in MACHINE_PATH.findall(path.read_text(encoding="utf-8"))]
    assert found == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the repository under another name."""
    folder = tmp_path_factory.mktemp("wheel")
    clone = folder / "some-clone"
    shutil.copytree(REPO, clone, ignore=lambda at, names: [name for name in names if is_foreign(Path(at) / name)])
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "-w", folder, clone], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return path, set(archive.namelist()), archive.read(f"fieldloop-{fieldloop.__version__}.dist-info/METADATA")


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    path, names, _ = wheel
    assert path.name == f"fieldloop-{fieldloop.__version__}-py3-none-any.whl"
    package = {name for name in names if ".dist-info/" not in name}
    rooms = {relative(file) for room in ROOMS for file in repository_files(REPO / room)}
    assert package == {f"fieldloop/{name}" for name in rooms | {"__init__.py", "version.py", "py.typed"}}


def test_the_wheel_ships_protocols_and_licence(wheel):
    _, names, metadata = wheel
    assert "fieldloop/py.typed" in names
    assert [name for name in names if re.fullmatch(r"fieldloop/dft_inputs/protocols/\w+\.yaml", name)]
    assert f"fieldloop-{fieldloop.__version__}.dist-info/licenses/LICENSE" in names
    assert b"License-Expression: MIT" in metadata
