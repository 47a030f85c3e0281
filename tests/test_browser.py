"""The report in a real browser: opened from disk, driven by keys, looked at."""

from itertools import pairwise

import numpy as np
import pytest
from browser import Tab, browser
from reports import TARGETS, evaluation, maps, trained

from harmonet.evaluation.result import Maps
from harmonet.report import write_report
from harmonet.report.images import views

pytestmark = pytest.mark.skipif(browser() is None, reason="there is no chromium on PATH")

STATE = "document.querySelector('#viewer-root').dataset.state"
FLICKER = "document.querySelector('#viewer-root').dataset.flicker"
FOCUS = "document.querySelector('#viewer-stage').focus()"
PIXELS = """(() => {
    const canvas = document.querySelector('#viewer-canvas');
    const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    return [canvas.width, canvas.height, Array.from(data).filter((_, place) => place % 4 === 0)];
})()"""


def shown(platform) -> Maps:
    """Volumes whose every voxel is told from the others, so that a turned or mirrored slice is seen."""
    plain = maps(platform)
    fields = {name: getattr(plain, name) for name in plain.__dataclass_fields__}
    signal = np.linspace(0.5, 3.0, plain.mask.size).reshape(plain.mask.shape).astype(np.float32)
    prediction = np.zeros_like(plain.prediction)
    prediction[..., 0] = signal * plain.mask
    return Maps(**fields | {"prediction": prediction, "single": plain.source, "rival": "diqt"})


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seen")
    scored = evaluation(platforms=TARGETS, subjects=("carl", "dora", "emil"), maps=[shown(name) for name in TARGETS])
    return write_report(scored, [trained(folder / "run")], folder / "report", command="harmonet eval")


@pytest.fixture(scope="module")
def tab(page, tmp_path_factory):
    with Tab(tmp_path_factory.mktemp("browser")) as one:
        yield one
        assert one.errors == []  # whatever a test did


def test_the_page_opens_from_disk_without_a_word_on_the_console(tab, page):
    tab.open(page)
    tab.wait_for(STATE, f"{TARGETS[0]},signal,z,4,prediction")
    assert tab.ask("document.querySelector('#viewer-trouble').hidden") is True
    assert tab.errors == []


def test_errors_are_seen_where_there_are_some(tab, page, tmp_path_factory):
    with Tab(tmp_path_factory.mktemp("other")) as other:
        other.open(page)
        other.ask("setTimeout(() => missing(), 0)")
        other.wait_for("1", 1)
        other.ask("new Promise((done) => setTimeout(done, 50))")
        assert "missing is not defined" in " ".join(other.errors)


def test_keys_move_the_slice_and_choose_the_image(tab, page):
    tab.open(page)
    tab.wait_for(STATE, f"{TARGETS[0]},signal,z,4,prediction")
    tab.ask(FOCUS)
    for key, state in (
        ("ArrowUp", "z,5,prediction"),
        ("ArrowDown", "z,4,prediction"),
        ("PageUp", "z,7,prediction"),  # the last of 8
        ("ArrowUp", "z,7,prediction"),
        ("1", "z,7,source"),
        ("5", "z,7,truth"),
        ("2", "z,7,best single"),
    ):
        tab.press(key)
        tab.wait_for(STATE, f"{TARGETS[0]},signal,{state}")


@pytest.mark.parametrize(("axis", "number"), [("z", 4), ("y", 5), ("x", 2)])
def test_every_plane_is_drawn_as_it_lies_in_the_head(tab, page, axis, number):
    tab.open(page, f"#viewer={TARGETS[0]},signal,{axis},{number},prediction")
    tab.wait_for(STATE, f"{TARGETS[0]},signal,{axis},{number},prediction")
    width, height, red = tab.ask(PIXELS)
    plane = np.take(views(shown(TARGETS[0])).images["prediction"].mean, number, axis="xyz".index(axis))
    drawn = np.array(red).reshape(height, width)[::-1].T  # from rows downwards to (right, up)
    assert drawn.shape == plane.shape
    inside = np.isfinite(plane)
    assert (drawn[~inside] == 0).all()
    order = np.argsort(plane[inside])
    assert all(a <= b for a, b in pairwise(drawn[inside][order]))
    assert len(np.unique(drawn)) > 5


def test_space_flickers_between_the_ticked_images_and_stops_when_asked(tab, page):
    tab.open(page)
    tab.wait_for(STATE, f"{TARGETS[0]},signal,z,4,prediction")
    assert tab.ask(FLICKER) == "off"  # nothing moves by itself
    tab.ask(FOCUS)
    before = tab.ask("scrollY")
    tab.press(" ")
    for image in ("truth", "prediction", "truth"):
        tab.wait_for(STATE, f"{TARGETS[0]},signal,z,4,{image}")
    assert tab.ask(FLICKER) == "on"
    assert tab.ask("scrollY") == before  # the page did not scroll
    tab.press("Escape")
    tab.wait_for(FLICKER, "off")
    before = tab.ask(STATE)
    tab.ask("new Promise((done) => setTimeout(done, 1300))")
    assert tab.ask(STATE) == before
    tab.ask("document.querySelector('#viewer-flicker').click()")
    tab.wait_for(FLICKER, "on")
    tab.ask("document.querySelector('#viewer-flicker').click()")
    tab.wait_for(FLICKER, "off")


def test_who_asked_for_no_motion_steps_by_hand(page, tmp_path_factory):
    with Tab(tmp_path_factory.mktemp("calm"), calm=True) as calm:
        calm.open(page)
        calm.wait_for(STATE, f"{TARGETS[0]},signal,z,4,prediction")
        assert calm.ask("document.querySelector('#viewer-flicker').textContent") == "Next image (space)"
        calm.ask(FOCUS)
        calm.press(" ")
        calm.wait_for(STATE, f"{TARGETS[0]},signal,z,4,truth")
        assert calm.ask(FLICKER) == "off"
        assert calm.errors == []


@pytest.mark.parametrize("quantity", ["colour", "error"])
def test_platform_and_quantity_are_chosen(tab, page, quantity):
    tab.open(page)
    tab.wait_for(STATE, f"{TARGETS[0]},signal,z,4,prediction")
    for name, value in (("platform", "1"), ("quantity", quantity)):
        change = f"box.value = '{value}'; box.dispatchEvent(new Event('change'))"
        tab.ask(f"(() => {{ const box = document.querySelector('#viewer-{name}'); {change}; }})()")
    tab.wait_for(STATE, f"{TARGETS[1]},{quantity},z,4,prediction")
    names = tab.ask("[...document.querySelectorAll('#viewer-images button')].map((b) => b.dataset.image)")
    assert names == ["source", "best single", "prediction", "target", *(["truth"] if quantity == "colour" else [])]
    tab.ask("document.querySelector('#viewer-images button').click()")
    tab.wait_for(STATE, f"{TARGETS[1]},{quantity},z,4,source")
    assert max(tab.ask(PIXELS)[2]) > 0


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_fits_the_window_and_is_drawn(tab, page, tmp_path, width):
    tab.size(width, 900)
    tab.open(page)
    tab.wait_for(STATE, f"{TARGETS[0]},signal,z,4,prediction")
    assert tab.ask("document.documentElement.scrollWidth") <= width  # only tables and figures scroll sideways
    assert tab.ask("document.querySelector('.verdict').getBoundingClientRect().top") < 900  # on the first screen
    picture = tab.screenshot(tmp_path / "page.png")
    from matplotlib.image import imread

    pixels = imread(picture)
    assert pixels.shape[1] >= width - 20
    assert pixels.shape[0] > 3000
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1])[::97], axis=0)) > 100
