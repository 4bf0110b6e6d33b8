import logging
import subprocess
import sys
import warnings

import pytest

from fulmen.warn import (
    PossibleUserWarning,
    disable_possible_user_warnings,
    rank_zero_debug,
    rank_zero_deprecation,
    rank_zero_info,
    rank_zero_only,
    rank_zero_warn,
    warn_once,
)

SAYING = [rank_zero_warn, rank_zero_deprecation, warn_once]


def rank_seen_by_a_new_process(monkeypatch, **environment):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    program = "from fulmen.warn import rank_zero_only; print(rank_zero_only.rank)"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_a_decorated_function_runs_on_rank_zero_only():
    @rank_zero_only
    def double(number):
        return 2 * number

    assert double(4) == 8
    rank_zero_only.rank = 1
    assert double(4) is None


def test_other_ranks_get_the_default():
    rank_zero_only.rank = 3
    assert rank_zero_only(lambda: "mine", default="theirs")() == "theirs"


def test_a_decorated_function_keeps_its_name():
    @rank_zero_only
    def save():
        """Saves."""

    assert (save.__name__, save.__doc__) == ("save", "Saves.")


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, "0"),
        ({"RANK": "5", "LOCAL_RANK": "1"}, "5"),
        ({"LOCAL_RANK": "2"}, "2"),
        ({"SLURM_PROCID": "7"}, "7"),
        ({"RANK": "captain"}, "0"),
    ],
)
@pytest.mark.slow
def test_the_rank_at_the_start_is_the_launchers(monkeypatch, environment, rank):
    assert rank_seen_by_a_new_process(monkeypatch, **environment) == rank


@pytest.mark.parametrize("say", SAYING)
def test_a_warning_names_the_line_that_gives_it(say):
    with pytest.warns(Warning, match="mind the gap") as caught:
        say("mind the gap")
    assert caught[0].filename == __file__


@pytest.mark.parametrize("say", SAYING)
def test_other_ranks_do_not_warn(say):
    rank_zero_only.rank = 1
    say("this would be an error in a test")


def test_a_warning_has_the_category_that_is_asked_for():
    with pytest.warns(PossibleUserWarning, match="perhaps"):
        rank_zero_warn("perhaps", category=PossibleUserWarning)
    with pytest.warns(DeprecationWarning, match="soon"):
        rank_zero_deprecation("soon")


def test_a_text_is_warned_of_once():
    with pytest.warns(UserWarning, match="first"):
        warn_once("first")
    warn_once("first")
    with pytest.warns(UserWarning, match="second"):
        warn_once("second")


def test_information_goes_to_the_log_with_the_line_that_gives_it(caplog):
    rank_zero_info("%d layers", 3)
    [record] = caplog.records
    assert (record.name, record.levelname, record.getMessage()) == ("fulmen", "INFO", "3 layers")
    assert record.pathname == __file__


def test_debug_messages_are_there_for_those_who_ask(caplog):
    rank_zero_debug("quiet")
    assert caplog.records == []
    with caplog.at_level(logging.DEBUG, logger="fulmen"):
        rank_zero_debug("loud")
    assert caplog.messages == ["loud"]


def test_other_ranks_log_nothing(caplog):
    rank_zero_only.rank = 1
    rank_zero_info("hello")
    assert caplog.records == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setup", "shown"),
    [("", "hello\n"), ("import logging; logging.basicConfig(format='[%(message)s]')\n", "[hello]\n")],
)
def test_information_is_printed_once_whether_or_not_the_program_sets_up_logging(setup, shown):
    program = f"{setup}from fulmen.warn import rank_zero_info; rank_zero_info('hello')"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stderr == shown


def test_possible_mistakes_can_be_silenced():
    with warnings.catch_warnings():
        disable_possible_user_warnings()
        rank_zero_warn("perhaps", category=PossibleUserWarning)
        with pytest.raises(UserWarning, match="surely"):
            rank_zero_warn("surely")


@pytest.mark.slow
def test_possible_mistakes_can_be_silenced_by_the_environment(monkeypatch):
    monkeypatch.setenv("POSSIBLE_USER_WARNINGS", "off")
    program = "from fulmen.warn import *; rank_zero_warn('perhaps', category=PossibleUserWarning)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stderr == ""
