import numpy as np
import pytest
from fieldloop.model.dynamics import (
    DynamicsSettings,
    PulsedField,
    RampedField,
    SinusoidalField,
    StaticField,
    TabulatedField,
)
from fieldloop.model.dynamics.fields import peak_field
from pydantic import ValidationError


def test_static_field_does_not_depend_on_time():
    field = StaticField((0.0, 0.01, -0.02))
    assert np.array_equal(field(0.0), field(1e6))


def test_sinusoid_has_its_period_amplitude_and_mean():
    field = SinusoidalField(amplitude=(0.0, 0.0, 0.3), period=100.0, phase=0.4, offset=(0.0, 0.0, 0.1))
    values = np.array([field(t)[2] for t in np.arange(0, 100, 0.1)])
    assert field(17.0) == pytest.approx(field(117.0))
    assert values.mean() == pytest.approx(0.1)
    assert values.max() == pytest.approx(0.4, abs=1e-4)


def test_ramp_is_linear_between_its_ends_and_constant_outside():
    field = RampedField(start=(0.0, 0.0, -0.1), end=(0.0, 0.0, 0.3), begin=50.0, duration=200.0)
    assert [field(t)[2] for t in (0, 50, 150, 250, 1e5)] == pytest.approx([-0.1, -0.1, 0.1, 0.3, 0.3])


def test_pulse_peaks_at_its_centre_and_is_symmetric():
    field = PulsedField(amplitude=(0.2, 0.0, 0.0), centre=100.0, width=20.0, period=30.0)
    assert field(100.0)[0] == pytest.approx(0.2)
    assert field(87.0) == pytest.approx(field(113.0))
    assert abs(field(300.0)[0]) < 1e-9


def test_table_is_interpolated_and_constant_outside():
    times = np.linspace(0, 60, 13)
    vectors = [(0.0, 0.0, np.sin(t / 10)) for t in times]
    middle = np.linspace(1, 59, 30)
    errors = {}
    for interpolation in ("linear", "cubic"):
        field = TabulatedField(tuple(times), tuple(vectors), interpolation=interpolation)
        assert [field(t)[2] for t in times] == pytest.approx(np.sin(times / 10))
        assert field(-5.0)[2] == pytest.approx(0.0)
        assert field(1e4)[2] == pytest.approx(np.sin(6.0))
        errors[interpolation] = max(abs(field(t)[2] - np.sin(t / 10)) for t in middle)
    assert 0.01 < errors["linear"] < 0.5**2 / 8 * 1.01
    assert errors["cubic"] < errors["linear"] / 10


def test_table_from_a_file_of_two_or_four_columns(tmp_path):
    (tmp_path / "four.txt").write_text("# t/fs Ex Ey Ez\n0 0 0 0.1\n10 0.2 0 0.3\n")
    (tmp_path / "two.txt").write_text("0 0.1\n10 0.3\n")
    four = {"kind": "tabulated", "file": str(tmp_path / "four.txt")}
    two = {"kind": "tabulated", "file": str(tmp_path / "two.txt"), "direction": [0, 3, 4]}
    settings = DynamicsSettings.model_validate({"steps": 10, "fields": [four, two]})
    assert settings.fields[0](5.0) == pytest.approx([0.1, 0, 0.2])
    assert settings.fields[1](5.0) == pytest.approx([0, 0.12, 0.16])
    (tmp_path / "two.txt").unlink()
    assert DynamicsSettings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    ("table", "direction", "message"),
    [
        ("0 0.1\n1 0.2\n", None, "2 columns"),
        ("0 0.1\n1 0.2\n", [0, 0, 0], "2 columns"),
        ("0 0 0.1\n1 0 0.2\n", None, "3 columns"),
        ("0 0 0 1\n1 0 0 1\n", [0, 0, 1], "4 columns"),
        ("0 0.1\n0 0.2\n", [0, 0, 1], "ascending"),
        ("0 0.1\n", [0, 0, 1], "two or more"),
        ("0 0.1\n1 nan\n", [0, 0, 1], "finite"),
        ("zero one\n", [0, 0, 1], "no table of a field"),
        (None, [0, 0, 1], "no table of a field"),
    ],
)
def test_a_bad_table_is_refused(tmp_path, table, direction, message):
    path = tmp_path / "field.txt"
    if table is not None:
        path.write_text(table)
    spelled = {"kind": "tabulated", "file": str(path)} | ({} if direction is None else {"direction": direction})
    with pytest.raises(ValidationError, match=message):
        DynamicsSettings.model_validate({"steps": 1, "fields": [spelled]})


def test_peak_of_a_field():
    wave = SinusoidalField(amplitude=(0.0, 0.3, 0.4), period=100.0)
    assert peak_field(wave, 200.0) == pytest.approx(0.5, rel=1e-4)
    assert peak_field(wave, 0.0) == pytest.approx(0.0)


def test_fields_of_a_settings_file():
    settings = DynamicsSettings.model_validate(
        {
            "steps": 10,
            "temperatures": "300 K",
            "timestep": "2 fs",
            "fields": [
                [0, 0, "1 MV/cm"],
                {"kind": "sinusoidal", "amplitude": [0, 0, 0.1], "period": "2 ps"},
            ],
        }
    )
    assert settings.fields[0](0.0) == pytest.approx([0, 0, 0.01])
    assert settings.fields[1](500.0) == pytest.approx([0, 0, 0.1])
    assert settings.temperatures == (300.0,)
    assert DynamicsSettings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    "broken",
    [
        {"fields": [{"kind": "triangular", "vector": [0, 0, 0]}]},
        {"fields": [{"kind": "static", "vektor": [0, 0, 0]}]},
        {"fields": [[0, 0]]},
        {"fields": [[0, 0, float("nan")]]},
        {"fields": [[0, 0, "3 parsec"]]},
        {"fields": []},
        {"temperatures": [-1.0]},
        {"temperatures": []},
        {"timestep": 0.0},
        {"ensemble": "grand canonical"},
        {"time_step": 1.0},
        {"ensemble": "npt", "fixed": "displacement"},
        {"ensemble": "npt", "temperatures": 0.0},
        {"ensemble": "nose-hoover", "temperatures": 0.0},
        {"pressure": "1 furlong"},
        {"fields": [{"kind": "tabulated", "file": "no such file", "column": 2}]},
    ],
)
def test_bad_settings_are_refused(broken):
    with pytest.raises(ValidationError):
        DynamicsSettings.model_validate({"steps": 10, **broken})


def test_one_value_for_all_or_one_for_each():
    settings = DynamicsSettings(steps=1, temperatures=(100.0, 200.0), seed=(1, 2))
    assert settings.temperatures_of(2).tolist() == [100.0, 200.0]
    assert len(settings.fields_of(5)) == 5
    with pytest.raises(ValueError, match="2 temperatures for 3 replicas"):
        settings.temperatures_of(3)
    with pytest.raises(ValueError, match="2 seeds for 3 replicas"):
        settings.seeds_of(3)


def test_seeds_of_neighbouring_runs_do_not_overlap():
    seeds = [seed for run in range(50) for seed in DynamicsSettings(steps=1, seed=run).seeds_of(50)]
    assert len(set(seeds)) == len(seeds)
