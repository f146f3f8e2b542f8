"""Records keep paths relative to the root of their campaign."""

from fieldloop.workflows.paths import ROOT_VARIABLE, located, recorded


def test_paths_are_relative_also_where_the_root_is_a_link(tmp_path, monkeypatch):
    """A job's working directory comes without links, the root as the user named it."""
    real, link = tmp_path / "scratch disk", tmp_path / "run"
    (real / "labels" / "a").mkdir(parents=True)
    link.symlink_to(real)
    monkeypatch.setenv(ROOT_VARIABLE, str(link))
    assert recorded(real / "labels" / "a") == "labels/a"
    assert recorded(link / "labels" / "a") == "labels/a"
    assert located("labels/a") == link / "labels" / "a"
    assert recorded(tmp_path) == str(tmp_path)


def test_other_engines_have_no_root(tmp_path, monkeypatch):
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    assert recorded(tmp_path / "x") == str(tmp_path / "x")
    assert located(str(tmp_path)) == tmp_path
