"""The registry: cards that can be listed and typed, names that stand for one thing, errors that help."""

import sys
from dataclasses import replace

import pytest

import harmonet as hn
from harmonet import plugins
from harmonet.errors import NotFoundError, RegistrationError
from harmonet.registry import FUSIONS, NETWORKS, REPRESENTATIONS, FusionEntry, NetworkEntry, Paper, Registry

BUILT_IN = {
    "network": [
        "bayesian_espcn",
        "cnn_rish",
        "cpm_plain",
        "diqt",
        "espcn",
        "espcn_shuffle",
        "fcsnet",
        "hned_plain",
        "shnet",
        "shresnet",
        "shresnet2017",
    ],
    "fusion": ["cpm", "cross_stitch", "ensemble", "gated", "hard_sharing", "hned", "msp"],
    "representation": ["csd", "intensity", "sh_sd", "sh_signal"],
}


def odd(in_channels, out_channels, upsampling, width=8, *, depth=2):
    """An odd network."""
    return in_channels, out_channels, upsampling, width, depth


def open_to_all(in_channels, out_channels, upsampling, **options):
    """A network that passes its options on."""


ODD = NetworkEntry(name="odd", build=odd, summary="an odd network")

OTHER = replace(ODD, summary="another")


@pytest.fixture
def registry(request):
    """A registry of the test's own: catalogue keeps its names apart from harmonet's."""
    return Registry(f"trial of {request.node.name}")


@pytest.mark.parametrize("registry", [NETWORKS, FUSIONS, REPRESENTATIONS], ids=lambda r: r.kind)
def test_harmonet_itself_registers_exactly_these_names(registry):
    plugins.load()
    own = [name for name in registry.names() if registry.provider(name) == "harmonet"]
    assert own == BUILT_IN[registry.kind]


@pytest.mark.parametrize("registry", [NETWORKS, FUSIONS, REPRESENTATIONS], ids=lambda r: r.kind)
def test_every_built_in_can_be_built_and_says_what_it_is(registry):
    plugins.load()
    for name in BUILT_IN[registry.kind]:
        entry = registry.get(name)
        assert callable(entry.load())
        assert (entry.paper is None) == (not entry.published)  # what no paper has is all our choice
        assert entry.our_choice


def test_a_package_cannot_bring_another_entry_of_its_own_name(registry):
    registry.register(ODD, "first-package")
    with pytest.raises(RegistrationError, match="'odd' is taken by first-package: choose another name"):
        registry.register(OTHER, "first-package")
    assert registry.get("odd") == ODD
    assert registry.provider("odd") == "first-package"


def test_a_name_that_two_packages_claim_is_had_by_package_and_name_alone(registry):
    registry.register(ODD, "first")
    assert (registry.get("odd"), registry.get("first:odd").name, registry.names()) == (ODD, "first:odd", ["odd"])
    registry.register(OTHER, "second")
    assert registry.names() == registry.names("odd") == ["first:odd", "second:odd"]
    assert [registry.get(name).summary for name in registry.names()] == [ODD.summary, OTHER.summary]
    assert [registry.provider(name) for name in registry.names()] == ["first", "second"]
    assert [name in registry for name in ("odd", "first:odd", "third:odd", "first:even")] == [True, True, False, False]
    registry.register(replace(ODD, name="even"), "second")  # who came later with one name is the first with another
    assert registry.get("even") == replace(ODD, name="even")
    for ask in (registry.get, registry.provider):
        with pytest.raises(NotFoundError, match="'odd' is brought by first and second: write first:odd or second:odd"):
            ask("odd")


def test_a_built_in_keeps_its_short_name(registry):
    registry.register(ODD, "harmonet")
    registry.register(OTHER, "second")
    assert registry.names() == ["odd", "second:odd"]
    assert (registry.get("odd"), registry.get("second:odd").summary) == (ODD, OTHER.summary)
    assert (registry.provider("odd"), registry.provider("harmonet:odd")) == ("harmonet", "harmonet")


def test_an_unknown_package_is_answered_with_the_nearest(registry):
    registry.register(ODD, "alpha")
    with pytest.raises(NotFoundError, match=r"'alfa:odd'\. Did you mean alpha:odd\? Known: alpha:odd\.$"):
        registry.get("alfa:odd")


def test_options_of_an_entry_are_checked_under_the_name_that_it_was_asked_by(registry):
    registry.register(ODD, "alpha")
    with pytest.raises(NotFoundError, match="alpha:odd has no option 'widht'"):
        registry.get("alpha:odd").check_options({"widht": 3})


def test_the_same_entry_twice_is_no_harm_and_stays_with_the_first_package(registry):
    registry.register(ODD, "first-package")
    registry.register(replace(ODD), "second-package")
    assert registry.names() == ["odd"]
    assert registry.provider("odd") == "first-package"


def test_one_name_may_stand_for_a_network_and_for_a_fusion(request):
    networks, fusions = Registry(f"network of {request.node.name}"), Registry(f"fusion of {request.node.name}")
    networks.register(ODD, "package")
    fusion = fusions.register(FusionEntry(name="odd", build="a:B", summary="an odd fusion"), "package")
    assert (networks.get("odd"), fusions.get("odd")) == (ODD, fusion)


def test_an_unknown_name_is_answered_with_the_nearest(registry):
    for name in ("shresnet", "diqt"):
        registry.register(replace(ODD, name=name), "package")
    with pytest.raises(NotFoundError, match=r"'shresnett'\. Did you mean shresnet\? Known: diqt, shresnet\.$"):
        registry.get("shresnett")
    with pytest.raises(NotFoundError, match=r"'zebra'\. Known: diqt, shresnet\.$"):
        registry.get("zebra")


@pytest.mark.parametrize(
    ("ask", "name", "nearest"),
    [
        (plugins.network, "shresnett", "shresnet"),
        (plugins.fusion, "mps", "msp"),
        (plugins.representation, "sh_sginal", "sh_signal"),
    ],
)
def test_the_public_look_up_names_the_nearest_and_is_a_lookup_error(ask, name, nearest):
    with pytest.raises(LookupError, match=f"Did you mean {nearest}"):
        ask(name)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", ["cnn_rish", "resnet", "shresnet"]),
        ("*res*", ["resnet", "shresnet"]),
        ("?esnet", ["resnet"]),
        ("[cs]*", ["cnn_rish", "shresnet"]),
        ("resnet", ["resnet"]),
        ("RESNET", []),
    ],
)
def test_names_are_listed_sorted_by_wildcard(registry, pattern, found):
    for name in ("shresnet", "resnet", "cnn_rish"):
        registry.register(replace(ODD, name=name), "package")
    assert registry.names(pattern) == found


def test_the_public_lists_take_wildcards():
    assert "diqt" in hn.list_networks("d*")
    assert "diqt" not in hn.list_networks("sh*")
    assert hn.list_fusions("ms?") == ["msp"]
    assert hn.list_representations("nothing*") == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": ""}, "'' is no entry name"),
        ({"name": "two words"}, "'two words' is no entry name"),
        ({"name": "-leading"}, "'-leading' is no entry name"),
        ({"name": "a/b"}, "'a/b' is no entry name"),
        ({"name": "a:b"}, "'a:b' is no entry name"),
        ({"name": "tail\n"}, "is no entry name"),
        ({"name": 7}, "7 is no entry name"),
        ({"summary": ""}, "'odd' has no summary"),
        ({"build": "no_colon"}, "'odd': build is a callable or the text"),
        ({"build": None}, "'odd': build is a callable or the text"),
        ({"upsampling": 2}, r"'odd': upsampling is a tuple such as \(1, 2\), not 2"),
        ({"upsampling": ()}, "'odd': upsampling"),
        ({"upsampling": (0,)}, "'odd': upsampling"),
        ({"upsampling": ("2",)}, "'odd': upsampling"),
        ({"upsampling": (True,)}, "'odd': upsampling"),
        ({"taps": "body"}, "'odd': taps is a dict such as .*, not 'body'"),
        ({"taps": {"features": 3}}, "'odd': taps"),
    ],
)
def test_a_card_that_could_not_be_listed_or_typed_is_refused(change, words):
    with pytest.raises(RegistrationError, match=words):
        replace(ODD, **change)


def test_a_card_is_frozen():
    with pytest.raises(AttributeError):
        ODD.name = "even"


@pytest.mark.parametrize(
    ("paper", "text"),
    [
        (Paper("A title", 2019, "10.1/2"), "A title (2019), doi:10.1/2"),
        (Paper("A title", 2019), "A title (2019)"),
    ],
)
def test_a_paper_reads_as_one_line(paper, text):
    assert str(paper) == text


def test_options_are_what_harmonet_does_not_supply():
    assert ODD.options() == {"width": 8, "depth": 2}


def test_a_known_option_passes_and_an_unknown_one_is_answered_with_the_nearest():
    ODD.check_options({"width": 3, "depth": 1})
    with pytest.raises(NotFoundError, match=r"odd has no option 'widht'\. Did you mean width\? Known: depth, width\."):
        ODD.check_options({"widht": 3})


def test_an_option_that_harmonet_supplies_cannot_be_set():
    with pytest.raises(NotFoundError, match="odd has no option 'upsampling'"):
        ODD.check_options({"upsampling": 2})


def test_a_network_that_passes_options_on_takes_any():
    replace(ODD, build=open_to_all).check_options({"anything": 1})


def test_text_is_imported_when_it_is_first_needed(tmp_path, monkeypatch):
    (tmp_path / "late_module.py").write_text(
        "def build(in_channels, out_channels, upsampling, heads=4): return heads\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "late_module", raising=False)
    entry = replace(ODD, build="late_module:build")
    assert "late_module" not in sys.modules
    assert entry.options() == {"heads": 4}
    assert entry.load() is sys.modules["late_module"].build


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        ("a_module_that_is_not_there:Odd", "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"),
        ("harmonet.networks.diqt:Odd", "AttributeError: module 'harmonet.networks.diqt' has no attribute 'Odd'"),
        (":Odd", "ValueError: Empty module name"),
    ],
)
def test_text_that_names_nothing_is_refused_with_the_reason(build, reason):
    with pytest.raises(RegistrationError, match=f"odd cannot be built: importing {build} gave {reason}"):
        replace(ODD, build=build).options()
