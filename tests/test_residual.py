"""Networks and fusions that add to a straight line from the source."""

import numpy as np
import pytest
import torch
from conftest import TINY

import harmonet as hn
from harmonet.blocks.residual import Line, sums_over
from harmonet.build import lines_for, model_for, recipe_of
from harmonet.data.layout import open_dataset
from harmonet.errors import HarmonetError, RecipeError, RunError
from harmonet.inference import Where, predict_stages
from harmonet.platforms import Grid, Task, align, preset
from harmonet.recipe import parse
from harmonet.runs import load
from harmonet.runs.train import train

TRAINING = {"epochs": 1, "joint_epochs": 1, "patches_per_subject": 6, "validation_patches": 6, "batch_size": 6}


def ramp(n):
    """(1, 1, n, n, n): the place along each axis, weighed differently."""
    i = torch.arange(float(n))
    return (i[:, None, None] + 10 * i[None, :, None] + 100 * i[None, None, :])[None, None]


@pytest.mark.parametrize(
    ("factor", "edge", "first"),
    [(1, 7, 0.0), (1, 3, 2.0), (2, 11, 0.5 * (14 - 1 - 11 - 1) + 0.5), (2, 5, 2.0), (2, 12, 0.25), (2, 8, 1.25)],
)
def test_the_source_is_interpolated_at_the_targets_voxels(factor, edge, first):
    """A ramp keeps its values: nodes lie on voxels or halfway, cells a quarter beside; cut about the centre."""
    n = 7
    got = Line(1, factor).interpolated(ramp(n), (edge, edge, edge))[0, 0]
    middle = (n - 1) / 2 + (np.arange(edge) - (edge - 1) / 2) / factor
    assert middle[0] == pytest.approx(first) or factor == 2
    inner = [k for k, place in enumerate(middle) if 0 <= place <= n - 1]
    places = torch.tensor(middle, dtype=torch.float32)
    wanted = places[:, None, None] + 10 * places[None, :, None] + 100 * places[None, None, :]
    assert torch.allclose(got[inner][:, inner][:, :, inner], wanted[inner][:, inner][:, :, inner], atol=1e-4)


def test_slope_and_offset_are_those_of_least_squares():
    rng = torch.Generator().manual_seed(0)
    x, noise = torch.randn(3, 2, 5, 5, 5, generator=rng), torch.randn(3, 2, 5, 5, 5, generator=rng)
    y = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1, 1) * x + 0.5 + 0.1 * noise
    inside = (torch.rand(3, 1, 5, 5, 5, generator=rng) > 0.5).float()
    line = Line(2, 1)
    line.fit(sums_over(line, x[:2], y[:2], inside[:2]) + sums_over(line, x[2:], y[2:], inside[2:]))
    for c in range(2):
        keep = inside[:, 0].numpy() > 0
        slope, offset = np.polyfit(x[:, c].numpy()[keep], y[:, c].numpy()[keep], 1)
        assert (float(line.slope[c]), float(line.offset[c])) == pytest.approx((slope, offset), abs=1e-5)


def test_a_channel_that_does_not_vary_gives_the_mean():
    line = Line(1, 1)
    y = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1, 1)
    line.fit(sums_over(line, torch.full((2, 1, 1, 1, 1), 4.0), y, torch.ones(2, 1, 1, 1, 1)))
    assert (float(line.slope), float(line.offset)) == (0.0, 2.0)


@pytest.fixture(scope="module")
def recipe():
    whole = preset("cdmri2017")
    task = Task(whole.source, tuple(p for p in whole.targets if p.name != "connectom_st"))
    given = recipe_of(
        task,
        {p: ["diqt"] for p in task.target_names},
        fusion="msp",
        options={"diqt": TINY["diqt"]},
        order=2,
        patch_size=7,
        residual="linear",
    )
    return parse(given.model_dump(exclude_none=True) | {"training": TRAINING}, "tiny")


def test_every_stage_is_what_the_fusion_says_plus_the_line(recipe):
    plain = recipe.model_copy(update={"model": recipe.model.model_copy(update={"residual": "none"})})
    singles = {p: hn.create_network("diqt", 6, 6, f, **TINY["diqt"]) for p, f in recipe.task.upsampling.items()}
    names = dict.fromkeys(singles, "diqt")
    with_lines, without = model_for(recipe, singles, names).eval(), model_for(plain, singles, names).eval()
    lines = lines_for(recipe, singles)
    for line in lines.values():
        line.slope.uniform_(0.5, 2)
        line.offset.uniform_(-1, 1)
    with_lines.lines.update(lines)
    x = torch.randn(2, 6, 7, 7, 7)
    for stage, bare in zip(with_lines(x), without(x), strict=True):
        for platform in bare:
            assert torch.equal(stage[platform], bare[platform] + lines[platform](x, bare[platform]))
            assert stage[platform].shape == bare[platform].shape


@pytest.fixture(scope="module")
def run(recipe, tiny_heads, tmp_path_factory):
    return train(recipe, open_dataset(tiny_heads), tmp_path_factory.mktemp("runs") / "msp", lambda *_: None)


def test_lines_are_fitted_to_training_subjects_and_kept_with_the_weights(run):
    again = load(run.folder)
    alone = load(run.folder / "singles" / "connectom_sa.diqt")
    for platform, line in run.model.lines.items():
        assert torch.equal(line.slope, again.model.lines[platform].slope)
        assert 0.2 < float(line.slope[0]) < 1.5  # the mean over directions follows the source's
        assert not any(parameter.requires_grad for parameter in line.parameters())
    assert torch.equal(alone.model.lines["connectom_sa"].slope, run.model.lines["connectom_sa"].slope)


def test_a_network_that_says_nothing_gives_the_line(run):
    model = load(run.folder / "singles" / "prisma_st.diqt").model
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.randn(1, 6, 7, 7, 7)
    line = model.lines["prisma_st"]
    assert torch.allclose(
        model(x)[0]["prisma_st"], line.slope.view(1, -1, 1, 1, 1) * x + line.offset.view(1, -1, 1, 1, 1)
    )


def test_a_whole_volume_is_that_of_the_networks_plus_the_line_over_the_whole_source(run):
    shape = (16, 15, 14)
    source = np.random.default_rng(0).normal(size=(*shape, 6)).astype(np.float32)
    grid = Grid(shape, np.diag([2.4, 2.4, 2.4, 1.0]))
    where = {p: Where(g, align(grid, g, f)) for p, f in run.task.upsampling.items() if (g := grid.refined(f))}
    mask = np.ones(shape, dtype=bool)
    whole = predict_stages(run.model, source, mask, where, 7)
    bare = load(run.folder).model
    bare.lines.clear()
    x = torch.from_numpy(source)[None].movedim(-1, 1)
    for with_line, without in zip(whole, predict_stages(bare, source, mask, where, 7), strict=True):
        for platform, channels in without.items():
            line = run.model.lines[platform](x, torch.empty(1, 6, *channels.shape[:3]))[0].movedim(0, -1)
            assert np.abs(with_line[platform] - channels - line.numpy()).max() < 1e-5


def test_composing_trained_runs_keeps_their_lines(run):
    model = hn.compose(
        dict.fromkeys(run.task.target_names, run.folder), upsampling={"connectom_sa": 2}, channels=6, patch_size=7
    )
    x = torch.randn(1, 6, 7, 7, 7)
    with torch.no_grad():
        assert torch.equal(model.eval()(x)[0]["connectom_sa"], run.model(x)[0]["connectom_sa"])


def test_members_of_another_kind_are_refused(run, recipe, tiny_heads, tmp_path):
    table = recipe.model.model_copy(
        update={"residual": "none", "candidates": {p: [str(run.folder)] for p in recipe.task.target_names}}
    )
    with pytest.raises(RunError, match="has residual linear, but this recipe none"):
        train(recipe.model_copy(update={"model": table}), open_dataset(tiny_heads), tmp_path / "x", lambda *_: None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"residual": "linaer"}, "residual"),
        ({"residual": "linear", "restandardise": ["prisma_st"]}, "exclude each other"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(recipe, changes, says):
    tables = recipe.model_dump(exclude_none=True)
    tables["model"] |= changes
    with pytest.raises(RecipeError, match=says):
        parse(tables, "tiny")


def test_a_network_that_scales_the_source_itself_is_refused(recipe, tiny_heads, tmp_path):
    tables = recipe.model_dump(exclude_none=True)
    tables["model"] |= {
        "candidates": {p: ["cnn_rish"] for p in recipe.task.target_names},
        "options": {"cnn_rish": {"mode": "rish", "width": 4}},
    }
    with pytest.raises(HarmonetError, match="scales the source itself"):
        train(parse(tables, "tiny"), open_dataset(tiny_heads), tmp_path / "x", lambda *_: None)
