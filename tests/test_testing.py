"""The conformance kit: every check catches what it is for, and nothing else does."""

import json
import random
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from bench import one_line
from broken import fusions, networks

import harmonet as hn
from harmonet.registry import NETWORKS, Registry
from harmonet.testing import examine, fusion_checks, network_checks, parametrize_with_checks
from harmonet.testing.harness import title

TABLE = [("network", *row) for row in networks.BROKEN] + [("fusion", *row) for row in fusions.BROKEN]


ALSO = {"changes its input in place": ["fusions"]}  # cpm hands a network a patch that others read too


@pytest.mark.parametrize(("kind", "words", "check", "entry"), TABLE, ids=[f"{k}-{w}" for k, w, *_ in TABLE])
def test_what_is_broken_is_caught_by_its_check_and_no_other(kind, words, check, entry):
    found = {result.check: result.words for result in examine(entry) if result.result == "failed"}
    assert list(found) == [check, *ALSO.get(words, [])], found
    sentence = found[check]
    assert sentence.strip().count("\n") == 0
    assert entry.name in sentence.lower()
    assert re.search(r"[a-z].*\.$", sentence), sentence


@pytest.mark.parametrize("entry", [networks.GOOD, fusions.GOOD], ids=["network", "fusion"])
def test_what_is_whole_passes_every_check(entry):
    assert [(r.check, r.words) for r in examine(entry) if r.result != "passed"] == []


@pytest.mark.parametrize(("checks", "table"), [(network_checks(), networks.BROKEN), (fusion_checks(), fusions.BROKEN)])
def test_every_check_has_something_broken_that_it_catches(checks, table):
    names = [title(check) for check in checks]
    assert sorted(set(names)) == sorted({check for _, check, _ in table})
    assert len(set(names)) == len(names)
    assert all(check.__doc__ and check.__name__ == f"check_{title(check)}" for check in checks)


def params_of(entries, options=None):
    """What pytest would run: id, and the marks of an expected failure."""

    @parametrize_with_checks(entries, options)
    def test(entry, check):
        check(entry)

    (mark,) = test.pytestmark
    assert mark.args[0] == ("entry", "check")
    return {param.id: param for param in mark.args[1]}


def test_a_declared_failure_carries_its_reason_and_a_declared_one_that_passes_is_a_failure():
    wrong = networks.card(networks.AsksATensor, unsupported={"compile": "looks at values"})
    found = {r.check: r for r in examine(wrong) if r.result != "passed"}
    assert {name: (r.result, r.words) for name, r in found.items()} == {"compile": ("unsupported", "looks at values")}
    strict = replace(networks.GOOD, unsupported={"batch": "mixes it"})
    found = {r.check: r for r in examine(strict) if r.result != "passed"}
    assert [r.result for r in found.values()] == ["failed"]
    assert "declared unsupported (mixes it), but it passes" in found["batch"].words


def test_pytest_gets_one_readable_parameter_per_check_and_strict_expected_failures():
    card = networks.card(networks.AsksATensor, unsupported={"compile": "looks at values"})
    params = params_of([card, "msp"])
    checks = [("asksatensor", check) for check in network_checks()] + [("msp", check) for check in fusion_checks()]
    assert list(params) == [f"{name}-{title(check)}" for name, check in checks]
    marked = {name: param.marks for name, param in params.items() if param.marks}
    assert list(marked) == ["asksatensor-compile"]
    (mark,) = marked["asksatensor-compile"]
    assert (mark.name, mark.kwargs["strict"], mark.kwargs["reason"]) == ("xfail", True, "looks at values")


def test_options_reach_the_network_under_check():
    (entry, check) = params_of(["diqt"], {"diqt": {"layer": 1}})["diqt-shapes"].values
    with pytest.raises(AssertionError, match=r"diqt has no option 'layer'\. Did you mean layers"):
        check(entry)


def test_a_check_takes_a_name_and_an_unknown_one_is_answered_with_the_nearest():
    from harmonet.testing.networks import check_shapes

    check_shapes("diqt", layers=1, widths=[4, 6])
    with pytest.raises(hn.HarmonetError, match="Did you mean diqt"):
        check_shapes("diqtt")
    with pytest.raises(hn.HarmonetError, match="Did you mean msp"):
        parametrize_with_checks(["mspp"])


def test_a_network_that_cannot_be_built_fails_every_check_but_with_sentences_and_no_other_error():
    def build(in_channels, out_channels, upsampling):
        raise KeyError("weights")

    found = list(examine(hn.NetworkEntry(name="none", build=build, summary="s", our_choice="c", parameters=1)))
    assert {r.result for r in found} == {"failed"}
    assert all(r.words.startswith(("none raised KeyError", "the card of none", "none")) for r in found)


def test_checks_leave_every_random_state_as_it_was():
    def states():
        return (
            torch.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.initial_seed(),
        )

    entries = [networks.card(networks.SeedsTorch), networks.card(networks.DrawsFromNumpy), fusions.GOOD]
    before = states()
    for entry in entries:
        list(examine(entry))
    assert states() == before


@pytest.mark.parametrize(("name", "checks"), [("tiny", network_checks()), ("msp", fusion_checks())])
def test_the_command_prints_a_row_for_each_check(invoke, name, checks):
    ended = invoke("check", name)
    assert (ended.status, f"{name}: {len(checks)} of {len(checks)} checks are kept" in ended.out) == (0, True)
    assert all(re.search(rf"^ *{title(check)} +passed +\d+\.\d", ended.out, re.MULTILINE) for check in checks)
    assert f"check {name}: {len(checks)}/{len(checks)}" in ended.err
    told = json.loads(invoke("check", name, "--json").out)
    assert [(row["check"], row["result"], row["words"]) for row in told] == [(title(c), "passed", "") for c in checks]


def test_the_command_ends_with_1_where_a_check_fails_and_with_2_for_an_unknown_name(invoke, monkeypatch):
    assert "Did you mean diqt" in one_line(invoke("check", "diqtt"))
    trial = Registry("trial of the command")
    trial.register(networks.card(networks.PadsOneSide, name="one_side"), "tests")
    monkeypatch.setattr(NETWORKS, "_store", trial._store)
    ended = invoke("check", "one_side")
    assert (ended.status, "one_side: 14 of 15 checks are kept" in ended.out) == (1, True)
    ended = invoke("check", "one_side", "--json")
    (failed,) = (row for row in json.loads(ended.out) if row["result"] == "failed")
    assert (ended.status, failed["check"]) == (1, "alignment")
    assert failed["words"].endswith("voxels off its centre along z: pad or crop both sides alike.")
