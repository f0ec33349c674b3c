"""A run says at its start how long it will take on this machine."""

import json
from time import perf_counter

import numpy as np
import pytest

from cocoift.study import machine


@pytest.fixture
def reports(tmp_path, monkeypatch):
    def made(**facts):
        known = {"device": machine.device(), "speed": 100.0, "seconds": {"00": 600.0, "01": 3000.0}}
        (tmp_path / "run.json").write_text(json.dumps(known | facts))
        return tmp_path

    monkeypatch.setattr(machine, "speed", lambda: 25.0)
    return made


def test_a_machine_a_quarter_as_fast_takes_four_times_as_long(reports):
    assert machine.forecast(reports()) == (
        "about 4.0 hours if every notebook has to run (an earlier run took 60 minutes on a "
        "machine 4.0 times as fast; if it resumed another, expect more)"
    )


@pytest.mark.parametrize("facts", [{"speed": None}, {"device": "a GPU"}, {"seconds": {}}])
def test_nothing_is_said_where_nothing_comparable_is_known(reports, facts):
    assert machine.forecast(reports(**facts)) == ""


def test_nothing_is_said_before_the_first_run(tmp_path):
    assert machine.forecast(tmp_path) == ""


def test_speed_is_that_of_matrix_products():
    square = np.ones((512, 512), np.float32)
    begun = perf_counter()
    for _ in range(20):
        square @ square
    by_hand = 20 * 2 * 512**3 / (perf_counter() - begun) / 1e9
    assert by_hand / 10 < machine.speed(0.2) < by_hand * 10
