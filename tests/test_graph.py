"""The wiring of a composition: what is measured, and how it is told as a tree, in SVG and in Mermaid."""

import json
import re
from dataclasses import replace
from functools import cache
from xml.etree import ElementTree

import pytest
from bench import SMALL, listing, one_line
from conftest import TINY

from harmonet.anatomy import count_flops
from harmonet.blocks.connection import count_parameters
from harmonet.build import recipe_of
from harmonet.platforms import preset
from harmonet.recipe import read_recipe
from harmonet.report.graph import SIZE, columns_of, folded, graph, mermaid, svg
from harmonet.report.wiring import facts, outline, wiring_of
from harmonet.runs.members import first_composition

ADVANCE = 0.602 * SIZE  # pixels of a character in DejaVu Sans Mono, the widest of the fonts that are named
TARGETS = ["prisma_st", "connectom_st", "connectom_sa"]
COMPOSE = ["compose", "--single", "diqt", "--fusion", "msp", "--patch-size", 7, *SMALL[:4]]
FUSIONS = [None, "msp", "cpm", "hned", "ensemble", "gated", "hard_sharing", "cross_stitch"]


def recipe(fusion="msp", networks=("diqt",), refine=None, **settings):
    names = {name.partition("@")[0] for name in networks}
    options = {name: given for name, given in TINY.items() if name in names}
    candidates = {target: list(networks) for target in TARGETS}
    return recipe_of(
        preset("cdmri2017"),
        candidates,
        fusion=fusion,
        refine=refine,
        options=options,
        order=2,
        patch_size=7,
        **settings,
    )


@cache
def wiring_for(fusion, networks=("diqt",), refine=None):
    return wiring_of(recipe(fusion, networks, refine))


def lines_of(tree):
    line, branches = tree
    return [line, *(text for branch in branches for text in lines_of(branch))]


def texts_of(drawing):
    return [element.text for element in ElementTree.fromstring(drawing).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize(
    ("fusion", "refine"),
    [*((fusion, None) for fusion in FUSIONS), *((fusion, ("connectom_sa",)) for fusion in FUSIONS[1:])],
)
def test_parameters_and_flops_in_all_are_those_of_the_model(fusion, refine):
    made = recipe(fusion, refine=refine)
    wiring, (model, *_) = wiring_for(fusion, refine=refine), first_composition(made)
    assert wiring.parameters == count_parameters(model)
    assert wiring.flops == count_flops(model, wiring.patch[0], wiring.patch[1]) > 0
    assert {network.platform for network in wiring.networks} == set(model.singles)
    assert set(wiring.unread) == set(TARGETS) - set(model.singles)
    for network in wiring.networks:
        assert network.features == model.sizes[network.platform].features
    assert sum(map(len, wiring.stages)) >= len(wiring.answers)
    assert set(refine or TARGETS if fusion else TARGETS) <= set(wiring.answers)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_box_is_reached_by_an_arrow_and_no_arrow_crosses_a_box(fusion):
    for refine in [None] if fusion is None else (None, ("connectom_sa",), ("prisma_st", "connectom_sa")):
        boxes, arrows = graph(wiring_for(fusion, refine=refine))
        assert {arrow.head for arrow in arrows} == set(range(1, len(boxes)))
        assert {arrow.tail for arrow in arrows} >= {place for place, box in enumerate(boxes) if box.column < 3}
        for arrow in arrows:
            tail, head = boxes[arrow.tail], boxes[arrow.head]
            between = [box for box in boxes if tail.column < box.column < head.column]
            assert tail.column < head.column
            assert not any(min(box.rows) <= row <= max(box.rows) for box in between for row in tail.rows)


def test_a_network_that_is_run_again_on_an_altered_patch_is_counted_again():
    wiring = wiring_for("cpm", refine=("connectom_sa",))
    alone = {network.platform: network.flops for network in wiring.networks}
    (join,) = wiring.joins
    chained = [platform for platform, words in join.reads.items() if "after" in words]
    assert len(chained) == 2
    assert join.flops > sum(alone[platform] for platform in chained)


def test_members_candidates_and_frozen_networks_are_told_apart():
    members = wiring_of(recipe("ensemble", ("diqt", "diqt@2"), refine=("connectom_sa",)))
    assert [(n.platform, n.network, n.role) for n in members.networks] == [
        ("connectom_sa", "diqt", "member"),
        ("connectom_sa", "diqt@2", "member"),
    ]
    assert members.unread == ["prisma_st", "connectom_st"]
    assert "prisma_st: left out, no fusion reads it" in lines_of(outline(members))
    candidates = wiring_of(recipe("msp", ("diqt", "shresnet"), refine=["connectom_sa"], frozen=["prisma_st"]))
    assert {(n.network, n.role) for n in candidates.networks} == {("diqt", "candidate"), ("shresnet", "candidate")}
    assert {n.platform for n in candidates.networks if n.frozen} == {"prisma_st"}
    dashed = {box.title for box in graph(candidates)[0] if box.dashed}
    assert dashed == {"prisma_st"}
    assert any(line.startswith("prisma_st: shresnet, candidate, frozen, ") for line in lines_of(outline(candidates)))
    told = " ".join(texts_of(svg(candidates))[-2:])
    assert "with the first candidate of each platform. Sizes are channels @ voxels." in told


@pytest.mark.parametrize("fusion", FUSIONS)
def test_tree_svg_and_mermaid_say_the_same_sizes_parameters_and_flops(fusion):
    wiring = wiring_for(fusion, refine=fusion and ("connectom_sa",))
    tree, drawing, diagram = "\n".join(lines_of(outline(wiring))), " ".join(texts_of(svg(wiring))), mermaid(wiring)
    for network in wiring.networks:
        tapped = [f"tap {layer}: {network.features[name][0]} @ " for name, layer in network.taps.items()]
        for words in (f"{network.parameters:,} parameters", *tapped):
            assert words in tree
            assert words in " ".join(drawing.split())
            assert words in diagram
    assert json.loads(json.dumps(facts(wiring)))["flops"] == wiring.flops
    count = len(graph(wiring)[0])
    assert len(re.findall(r'^  n\d+\["', diagram, re.MULTILINE)) == count
    assert len(re.findall(r"^  style n\d+ ", diagram, re.MULTILINE)) == count
    assert diagram.count(" --> ") == len(graph(wiring)[1])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_no_text_of_a_drawing_leaves_its_box_or_the_picture(fusion):
    root = ElementTree.fromstring(svg(wiring_for(fusion, refine=fusion and ("connectom_sa",))))
    width, height = float(root.get("width")), float(root.get("height"))
    space = "{http://www.w3.org/2000/svg}"
    boxes = [
        [float(rect.get(key)) for key in ("x", "y", "width", "height")] for rect in list(root.iter(f"{space}rect"))[1:]
    ]
    assert len(boxes) >= 4
    for a in boxes:
        assert not any(a is not b and overlap(a, b) for b in boxes)
        assert a[0] > 0 < a[1]
        assert a[0] + a[2] < width
        assert a[1] + a[3] < height
    for text in root.iter(f"{space}text"):
        x, y, end = float(text.get("x")), float(text.get("y")), float(text.get("x")) + ADVANCE * columns_of(text.text)
        assert end < width
        assert y < height
        if text.get("fill") == "#222222":
            assert any(left < x and end < left + w and top < y < top + h for left, top, w, h in boxes), text.text


def overlap(a, b):
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


def test_a_stranger_s_words_are_shown_as_they_are_and_never_as_markup():
    quiet = wiring_for("msp", refine=("connectom_sa",))
    words = '<script>"a" & `b`</script> #1;\x00 [bold]' + "x" * 100
    wiring = replace(quiet, joins=[replace(quiet.joins[0], reads={"prisma_st": words})])
    drawing, diagram = svg(wiring), mermaid(wiring)
    assert "<script>" not in drawing + diagram
    assert "<script>" in "".join(texts_of(drawing))
    assert max(len(text) for text in texts_of(drawing)[4:-2]) <= 44
    for line in diagram.splitlines():
        assert line.count('"') in (0, 2)
    assert "#35;1;" in diagram


def test_wide_characters_are_given_room():
    assert columns_of("磁場") == 4
    assert folded("") == [""]


@pytest.mark.parametrize("ending", [".svg", ".mmd"])
def test_compose_draws_what_it_tells(ending, tmp_path, invoke):
    place = tmp_path / "new" / f"wiring{ending}"
    ended = invoke(*COMPOSE, "--graph", place)
    assert (ended.status, f"wrote {place}" in ended.err) == (0, True)
    assert list(place.parent.iterdir()) == [place]
    assert "connectom_sa" in place.read_text()
    assert "\x1b" not in ended.out
    assert max(map(len, ended.out.splitlines())) > 100  # away from a terminal no line is folded
    assert not any(line.endswith(" ") for line in ended.out.splitlines())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--graph", "wiring.png"], r"--graph .*wiring\.png names no kind of drawing: write NAME\.svg"),
        (["--graph", "had.svg"], r"had\.svg exists: add --force"),
        (["--graph", "new.svg", "--out", "new.svg"], r"both name .*new\.svg"),
        (["--graph", "new.svg", "--out", "had.svg"], r"had\.svg exists"),
        (["--freeze", "prisma_sa"], r"--freeze prisma_sa is no target platform. Did you mean"),
        (["--restandardise", "prisma"], r"--restandardise prisma is no target platform. Did you mean prisma_st\?"),
        (["--loss", "msee"], r"no loss 'msee'\. Did you mean mse\?"),
        (["--weighting", "equall"], r"no weighting 'equall'\. Did you mean equal\?"),
        (["--gradients", "pcgard"], r"--gradients pcgard is not known\. Did you mean pcgrad\?"),
        (["--rate", "fusoin=2"], r"'fusoin' is neither a target platform nor fusion\. Did you mean fusion\?"),
        (["--rate", "fusion=-1"], r"--rate 'fusion=-1' is not understood: write PLATFORM=FACTOR"),
        (["--rate", "fusion=inf"], r"--rate 'fusion=inf' is not understood"),
        (["--rate", "fusion"], r"--rate 'fusion' is not understood"),
        (["--option", "huber.delta=2"], r"options are given for 'huber', which this recipe does not use"),
    ],
    ids=" ".join,
)
def test_what_compose_cannot_do_is_refused_in_one_line_and_nothing_is_written(more, said, tmp_path, invoke):
    (tmp_path / "had.svg").write_text("mine")
    before = listing(tmp_path)
    words = [str(tmp_path / word) if ".svg" in word or ".png" in word else word for word in more]
    assert re.search(said, one_line(invoke(*COMPOSE, *words)))
    assert listing(tmp_path) == before


def test_a_drawing_is_replaced_when_forced_and_never_put_into_the_data(tmp_path, invoke):
    place, heads = tmp_path / "had.svg", tmp_path / "heads"
    place.write_text("mine")
    heads.mkdir()
    assert invoke(*COMPOSE, "--graph", place, "--force").status == 0
    assert place.read_text().startswith("<svg ")
    ended = invoke(*COMPOSE, "--data", heads, "--graph", heads / "wiring.svg")
    assert "which is only read: choose a place outside it" in one_line(ended)
    assert list(heads.iterdir()) == []


def test_what_compose_is_told_of_training_stands_in_the_recipe(tmp_path, invoke):
    words = ["--freeze", "prisma_st", "--freeze", "connectom_st"]
    words += ["--loss", "huber", "--option", "huber.delta=2.0", "--weighting", "dwa", "--option", "dwa.temperature=3.0"]
    words += ["--gradients", "pcgrad", "--rate", "connectom_sa=0.1", "--rate", "fusion=10"]
    ended = invoke(*COMPOSE, *words, "--out", tmp_path / "recipe.toml")
    assert ended.status == 0, ended.err
    made = read_recipe(tmp_path / "recipe.toml")
    assert made.model.frozen == ["prisma_st", "connectom_st"]
    assert (made.loss.name, made.loss.options["delta"]) == ("huber", 2.0)
    assert (made.loss.weighting, made.loss.weighting_options["temperature"]) == ("dwa", 3.0)
    assert made.loss.gradients == "pcgrad"
    assert made.training.rates == {"connectom_sa": 0.1, "fusion": 10.0}
    assert not {"huber", "dwa"} & set(made.model.options)
    assert "diqt, frozen, " in ended.out


def test_a_drawing_that_cannot_be_written_leaves_nothing(tmp_path, invoke):
    (tmp_path / "file").write_text("mine")
    before = listing(tmp_path)
    ended = invoke(*COMPOSE, "--graph", tmp_path / "file" / "x.svg")
    assert ended.status == 2
    assert "file cannot be made (File exists): choose another place." in ended.err.splitlines()[-1]
    assert listing(tmp_path) == before


def test_platforms_to_restandardise_stand_in_the_recipe():
    assert recipe(restandardise=["prisma_st"]).model.restandardise == ["prisma_st"]


def test_untold_a_recipe_keeps_its_defaults():
    made = recipe()
    assert (made.loss.name, made.loss.weighting, made.loss.gradients) == ("mse", "equal", "sum")
    assert (made.training.rates, made.model.frozen, made.model.restandardise) == ({}, [], [])
