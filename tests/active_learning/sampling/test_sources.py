"""The list of sources, as a campaign file gives it."""

from pathlib import Path

import numpy as np
import pytest
from ase.io import write
from fieldloop.active_learning.sampling.frames import SeedError
from fieldloop.active_learning.sampling.seeds import SeedSettings, seed_frames
from fieldloop.active_learning.sampling.sources import located, sample
from pydantic import ValidationError


def seeds(*sources) -> SeedSettings:
    return SeedSettings(sources=sources)


def test_sources_follow_the_parent_in_their_order(batio3):
    settings = seeds(
        {"kind": "rattle", "count": 3},
        {"kind": "polar-path", "count": 4},
        {"kind": "strain", "count": 2, "strain": 0.02},
        {"kind": "domain-wall", "supercell": [4, 1, 1], "centres": ["Ba", "Ti"], "count": 2},
    )
    frames = seed_frames(batio3, settings)
    origins = [proposal.origin for _, proposal in frames]
    assert origins == ["parent"] + ["rattle"] * 3 + ["polar-path"] * 4 + ["strain"] * 2 + ["domain-wall"] * 2
    assert len(frames) == settings.most == len({frame.frame_id for frame, _ in frames})
    assert all(proposal.parent_frame_id == batio3.frame_id for _, proposal in frames)
    assert frames[1:4] == sample(batio3, settings.sources[0])


def test_no_frame_comes_twice(alas, tmp_path):
    made = seed_frames(alas, seeds({"kind": "rattle", "count": 3}))
    write(tmp_path / "old.extxyz", [frame.to_atoms() for frame, _ in made[:2]])
    trajectory = {"kind": "trajectory", "file": tmp_path / "old.extxyz"}
    both = seed_frames(alas, seeds({"kind": "rattle", "count": 3}, {"kind": "rattle", "count": 5}))
    assert [frame.frame_id for frame, _ in both[:4]] == [frame.frame_id for frame, _ in made]
    assert len({frame.frame_id for frame, _ in both}) == len(both) == 6
    with pytest.raises(SeedError, match=r"source 2 \(rattle\) makes no frame that is not there already"):
        seed_frames(alas, seeds({"kind": "rattle", "count": 3}, {"kind": "rattle", "count": 2}))
    with pytest.raises(SeedError, match=r"source 2 \(trajectory\)"):
        seed_frames(alas, seeds({"kind": "rattle", "count": 3}, trajectory))


def test_an_error_names_its_source(alas):
    with pytest.raises(SeedError, match=r"source 2 \(polar-path\): .*no distortions"):
        seed_frames(alas, seeds({"kind": "rattle"}, {"kind": "polar-path"}))


def test_progress_covers_all_sources(batio3):
    seen = []
    seed_frames(batio3, seeds({"kind": "rattle"}, {"kind": "polar-path"}), seen.append)
    assert seen == [0.5, 1.0]


def test_settings_come_back_from_json():
    settings = seeds(
        {"kind": "classical-md", "potential": {"preset": "vashishta-SiO2"}, "temperatures": ["300 K"]},
        {"kind": "phonon", "model": "model", "temperatures": [0]},
        {"kind": "trajectory", "file": "md.traj"},
    )
    assert SeedSettings.model_validate_json(settings.model_dump_json()) == settings
    assert SeedSettings.model_validate(settings.model_dump()) == settings


def test_relative_paths_are_taken_from_a_folder(monkeypatch):
    settings = seeds(
        {"kind": "classical-md", "potential": {"commands": ["pair_style sw"], "folder": "tables"}},
        {"kind": "trajectory", "file": "md.traj"},
        {"kind": "polar-path", "other": "/elsewhere/minus.vasp"},
        {"kind": "polar-path"},
        {"kind": "phonon", "force_constants": "~/phonopy.yaml"},
    )
    monkeypatch.setenv("HOME", "/nobody")
    there = located(settings, Path("/project")).sources
    assert there[0].potential.folder == Path("/project/tables")
    assert there[1].file == Path("/project/md.traj")
    assert there[2].other == Path("/elsewhere/minus.vasp")
    assert there[3].other is None
    assert there[4].force_constants == Path("/nobody/phonopy.yaml")


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"sources": [{"kind": "ratle"}]}, "ratle"),
        ({"sources": [{"count": 3}]}, "kind"),
        ({"sources": [{"kind": "rattle", "cuont": 3}]}, "cuont"),
        ({"sources": [{"kind": "trajectory"}]}, "file"),
        ({"sources": [{"kind": "rattle"}], "count": 5}, "sources stands in place of count"),
        ({"sources": [{"kind": "rattle"}], "rattle": [0.1]}, "sources stands in place of rattle"),
    ],
)
def test_nonsense_is_refused(bad, words):
    with pytest.raises(ValidationError, match=words):
        SeedSettings(**bad)


def test_the_short_form_gives_the_frames_it_always_gave(alas):
    """Campaigns that have begun must find their labels again."""
    frames = seed_frames(alas, SeedSettings(count=40, seed=3, strain=0.02, rattle=(0.3, 0.05), min_contact=0.75))
    wanted = {1: "97de350573a514b5", 2: "8b9654c0456492bd", 39: "270cea18005fb5ac"}
    assert {index: frames[index][0].frame_id for index in wanted} == wanted
    assert np.isfinite([frame.positions for frame, _ in frames]).all()
