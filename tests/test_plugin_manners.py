"""Plugins that hang, were written for another plugin API, or claim a name that others have."""

import signal
import subprocess
import sys
import threading
import time

import pytest
from test_plugins import BUILT_IN, environment_of, hook, install, listed, network, run, warnings_of

from harmonet.asking import refuse_api
from harmonet.errors import RegistrationError
from harmonet.interruption import TimedOut, time_limit

# ---- time


HANGS = {
    "loops": ("while True: pass", "be imported"),
    "sleeps": ("import time\ntime.sleep(600)", "be imported"),
    "sleeps_when_asked": ("import time\n" + hook("time.sleep(600)"), "answer harmonet_networks"),
    "sleeps_in_a_lock": ("import threading\nthreading.Event().wait(600)", "be imported"),
    "catches_exceptions": (
        "import time\nwhile True:\n    try: time.sleep(0.1)\n    except Exception: pass",
        "be imported",
    ),
    "catches_everything_once": (
        "import time\ntry: time.sleep(600)\nexcept: time.sleep(600)",
        "be imported",
    ),
}


@pytest.fixture(scope="module")
def slow_bazaar(tmp_path_factory):
    """What is listed with every plugin that hangs, and one that does not, installed."""
    folder = tmp_path_factory.mktemp("slow")
    for name, (source, _) in HANGS.items():
        install(folder, name, source)
    install(folder, "zealous", hook(f"[{network('fine')}]"))
    return listed(folder, PLUGIN_TIMEOUT=1)


@pytest.mark.parametrize("name", HANGS)
def test_a_plugin_that_hangs_is_left_out_and_told_by_name(slow_bazaar, name):
    rows, stderr = slow_bazaar
    reason = (
        f"it took more than 1 s to {HANGS[name][1]}: do slow work in `build`, or give it more time by "
        "HARMONET_PLUGIN_TIMEOUT."
    )
    assert (rows[name]["state"], rows[name]["problem"]) == ("left out", reason)
    assert f"harmonet: PluginWarning: plugin {name} of {name} 1.0 is left out: {reason}" in warnings_of(stderr)


def test_plugins_that_hang_hide_no_other(slow_bazaar):
    rows, stderr = slow_bazaar
    assert {name for name, row in rows.items() if row["state"] == "loaded"} >= BUILT_IN | {"zealous"}
    assert len(warnings_of(stderr)) == len(HANGS)


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "inf", "nan"])
def test_a_time_that_is_none_is_refused(tmp_path, seconds):
    done = run(tmp_path, "-m", "harmonet", "list", "networks", PLUGIN_TIMEOUT=seconds)
    words = f"harmonet: HARMONET_PLUGIN_TIMEOUT={seconds} is no time: give seconds, such as HARMONET_PLUGIN_TIMEOUT=60."
    assert (done.returncode, done.stdout, done.stderr.splitlines()[-1]) == (2, "", words)


@pytest.mark.parametrize(
    ("words", "number", "status"),
    [
        (["-m", "harmonet", "list", "networks"], signal.SIGINT, 130),
        (["-m", "harmonet", "list", "networks"], signal.SIGTERM, 143),
        (["-c", "import harmonet; harmonet.list_networks()"], signal.SIGINT, -signal.SIGINT),
    ],
)
def test_the_user_can_end_the_program_while_a_plugin_is_imported(tmp_path, words, number, status):
    mark = tmp_path / "imported"
    install(tmp_path, "slow", f"import time\nopen({str(mark)!r}, 'w').close()\ntime.sleep(600)")
    begun = subprocess.Popen(
        [sys.executable, *words],
        env=environment_of(tmp_path),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # jobs in the background ignore it
    )
    until = time.monotonic() + 60
    while not mark.exists() and time.monotonic() < until:
        time.sleep(0.02)
    begun.send_signal(number)
    _, told = begun.communicate(timeout=60)
    assert begun.returncode == status
    assert "left out" not in told


def test_a_limit_of_time_leaves_the_handler_and_the_timer_as_they_were():
    rang = []
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append(1))
    try:
        mine = signal.getsignal(signal.SIGALRM)
        signal.setitimer(signal.ITIMER_REAL, 50)
        with pytest.raises(TimedOut), time_limit(0.05):
            time.sleep(30)
        assert signal.getsignal(signal.SIGALRM) is mine
        assert 40 < signal.setitimer(signal.ITIMER_REAL, 0)[0] < 50
        with time_limit(0.05):
            pass
        time.sleep(0.1)
        assert rang == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_outside_the_main_thread_there_is_no_limit_of_time():
    ended = []

    def work():
        with time_limit(0.01):
            time.sleep(0.1)
            ended.append("whole")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == ["whole"]


# ---- plugin API


@pytest.mark.parametrize(("asked", "here"), [(1, 1), (1, 2), (2, 2), (2, 3), (3, 3)])
def test_a_plugin_for_this_api_or_the_one_before_is_taken(asked, here):
    refuse_api(asked, here)


@pytest.mark.parametrize(
    ("asked", "here", "words"),
    [
        (4, 3, "it needs plugin API 4, this harmonet takes 2 and 3: upgrade harmonet."),
        (2, 1, "it needs plugin API 2, this harmonet takes 1: upgrade harmonet."),
        (1, 3, "it was written for plugin API 1, this harmonet takes 2 and 3: upgrade the plugin."),
        (0, 1, "it was written for plugin API 0, this harmonet takes 1: upgrade the plugin."),
        (None, 3, "its harmonet_api is None: write a whole number, such as harmonet_api = 3."),
        (True, 3, "its harmonet_api is True: write a whole number, such as harmonet_api = 3."),
    ],
)
def test_a_plugin_for_another_api_is_refused_with_both_numbers_and_what_to_do(asked, here, words):
    with pytest.raises(RegistrationError) as caught:
        refuse_api(asked, here)
    assert str(caught.value) == words


def test_the_api_of_a_plugin_is_listed_also_where_it_is_refused(tmp_path):
    install(tmp_path, "newer", "harmonet_api = 9\n" + hook(f"[{network('lost')}]"))
    install(tmp_path, "says_so", "harmonet_api = 1\n" + hook(f"[{network('fine')}]"))
    install(tmp_path, "says_nothing", hook("[]"))
    rows, _ = listed(tmp_path)
    assert [rows[name]["api"] for name in ("newer", "says_so", "says_nothing")] == [9, 1, 1]
    assert [rows[name]["state"] for name in ("newer", "says_so", "says_nothing")] == ["left out", "loaded", "loaded"]
    table = run(tmp_path, "-m", "harmonet", "list", "plugins", "newer").stdout
    assert "1.0, API 9" in table
    assert "\nnewer of newer is left out: it needs plugin API 9, this harmonet takes 1: upgrade harmonet.\n" in table


# ---- names


def test_a_name_that_two_packages_claim_is_had_by_package_and_name(tmp_path):
    for package in ("beta", "alpha"):  # neither the order of writing nor that of the file system decides
        install(tmp_path, package, hook(f"[{network('same', package)}, {network(f'only_{package}')}]"))
    rows, stderr = listed(tmp_path, "networks")
    assert {name: row["summary"] for name, row in rows.items() if row["from"] in ("alpha", "beta")} == {
        "alpha:same": "alpha",
        "beta:same": "beta",
        "only_alpha": "an odd network",
        "only_beta": "an odd network",
    }
    assert warnings_of(stderr) == []
    asked = """
from harmonet import plugins
for name in ("alpha:same", "beta:same", "beta:same@2", "alpha:only_alpha", "same"):
    try:
        entry = plugins.network(name)
        print(entry.name, entry.summary, plugins.provided_by(entry.name))
    except LookupError as error:
        print(error)
"""
    assert run(tmp_path, "-c", asked).stdout.splitlines() == [
        "alpha:same alpha ['alpha 1.0']",
        "beta:same beta ['beta 1.0']",
        "beta:same beta ['beta 1.0']",
        "alpha:only_alpha an odd network ['alpha 1.0']",
        "network 'same' is brought by alpha and beta: write alpha:same or beta:same.",
    ]


def test_a_built_in_keeps_its_name_and_the_plugin_is_told_once_what_its_own_is_called(tmp_path):
    install(tmp_path, "bold", hook(f"[{network('diqt', 'a stranger')}, {network('fine')}]"))
    rows, stderr = listed(tmp_path, "networks")
    assert (rows["diqt"]["from"], rows["bold:diqt"]["from"], rows["fine"]["from"]) == ("harmonet", "bold", "bold")
    assert rows["bold:diqt"]["summary"] == "a stranger"
    assert warnings_of(stderr) == [
        "harmonet: PluginWarning: network diqt of bold 1.0 is called bold:diqt here: diqt alone is the built-in network"
    ]
    table = run(tmp_path, "-m", "harmonet", "list", "networks", "bold:*").stdout
    assert "bold:diqt" in table
    assert " fine " not in table


def test_two_entry_points_of_one_package_cannot_bring_unlike_entries_of_one_name(tmp_path):
    install(tmp_path, "first", hook(f"[{network('same', 'one')}]"), points={"one": "first", "two": "second"})
    (tmp_path / "second.py").write_text(hook(f"[{network('same', 'two')}, {network('lost')}]"))
    rows, _ = listed(tmp_path)
    assert rows["one"]["brings"] == ["same"]
    assert rows["two"]["problem"] == "network 'same' is taken by first: choose another name."
    assert "lost" not in listed(tmp_path, "networks")[0]
