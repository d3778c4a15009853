"""Charts: well-formed, complete, and safe whatever a label says."""

import json
from xml.etree import ElementTree

from markupsafe import Markup

from portable.job.report.chart import Axes, Curve, Interval, Level, interval_track, line_chart, scale_ticks
from portable.job.report.scale import fit_scale

AXES = Axes("step", "loss, nats", height=200)


def parse(chart: Markup) -> ElementTree.Element:
    """Parse as XML, which fails on anything unclosed or unescaped."""
    return ElementTree.fromstring(str(chart))


def texts(chart: Markup, name: str) -> list[str]:
    """Return the texts of a class."""
    return [item.text or "" for item in parse(chart).iter("text") if name in item.get("class", "").split()]


def test_curve_spans_the_plot_and_is_named_at_its_end():
    chart = line_chart([Curve([(0, 4.0), (10, 0.0)], "tone-base", "model")], AXES)
    path = next(item for item in parse(chart).iter("path"))
    assert path.get("d") == "M0 0L1000 1000"
    assert path.get("class") == "curve tone-base"
    assert texts(chart, "name") == ["model"]


def test_axes_carry_names_with_units_and_ticks():
    chart = line_chart([Curve([(0, 0.0), (10, 4.0)], "t")], AXES)
    names = [item.text for item in parse(chart).iter("p")]
    assert names == ["loss, nats", "step"]
    assert texts(chart, "tick") == ["0", "1", "2", "3", "4", "0", "2", "4", "6", "8", "10"]


def test_levels_are_drawn_named_and_in_view():
    chart = line_chart([Curve([(0, 1.0), (1, 2.0)], "t")], AXES, [Level(7.0, "byte counts")])
    level = next(item for item in parse(chart).iter("line") if item.get("class") == "level")
    assert 0 <= float(level.get("y1", "-1")) < 60
    assert texts(chart, "tone-quiet") == ["byte counts"]


def test_names_of_close_curves_do_not_overlap():
    curves = [Curve([(0, 0.0), (1, 1.0 + n / 1000)], "t", f"seed {n}") for n in range(3)]
    places = [
        float(item.get("y", ""))
        for item in parse(line_chart(curves, AXES)).iter("text")
        if item.get("x") == "100%"
    ]
    gaps = [abs(a - b) for n, a in enumerate(places) for b in places[:n]]
    assert min(gaps) >= 16.9


def test_dots_mark_every_point():
    chart = line_chart([Curve([(0, 1.0), (1, 2.0), (2, 3.0)], "t", dots=True)], AXES)
    assert [item.get("cx") for item in parse(chart).iter("circle")] == ["0%", "50%", "100%"]


def test_pointer_data_hold_the_strong_curves_only():
    raw = Curve([(0, 1.0), (1, 2.0)], "t", faint=True)
    strong = Curve([(n, 1 / 3) for n in range(2000)], "t", 'a "b"')
    data = json.loads(parse(line_chart([raw, strong], AXES)).get("data-curves", ""))
    assert [curve["label"] for curve in data] == ['a "b"']
    assert len(data[0]["points"]) <= 401
    assert data[0]["points"][-1] == [1999, 0.3333]


def test_fixed_limits_do_not_move_with_the_data():
    chart = line_chart([Curve([(0, 0.1), (1, 0.2)], "t")], Axes("rollout", "reward", y_limits=(0.0, 1.0)))
    assert "1.0" in texts(chart, "tick")


def test_no_points_is_no_chart():
    assert line_chart([Curve([], "t", "x")], AXES) == ""
    assert line_chart([], AXES, [Level(1.0, "x")]) == ""


def test_labels_cannot_break_out():
    bad = '<script>"&'
    chart = line_chart([Curve([(0, 1.0), (1, 2.0)], "t", bad)], Axes(bad, bad), [Level(1.5, bad)], bad)
    assert "<script>" not in chart
    assert bad in texts(chart, "name")


def test_interval_shows_dot_and_whiskers_in_place():
    track = parse(interval_track(Interval(0.5, 0.4, 0.8, "tone-sft"), fit_scale([0, 1])))
    whisker = next(item for item in track.iter("line") if "whisker" in item.get("class", ""))
    assert (whisker.get("x1"), whisker.get("x2")) == ("40%", "80%")
    assert next(track.iter("circle")).get("cx") == "50%"


def test_interval_without_bounds_is_a_dot():
    track = parse(interval_track(Interval(0.5, None, None, "t"), fit_scale([0, 1])))
    assert not [item for item in track.iter("line") if "whisker" in item.get("class", "")]
    assert len(list(track.iter("circle"))) == 1


def test_axis_of_intervals_has_every_tick():
    assert len(list(parse(scale_ticks(fit_scale([0, 1]))).iter("text"))) == 6
