"""The database: trials left behind are done again, ties go to the lower loss, going on draws nothing twice."""

from __future__ import annotations

import contextlib

import optuna
import pytest

from tunesmith.errors import MachineProblem, PlanProblem
from tunesmith.methods.space import COMMON
from tunesmith.search import study as database
from tunesmith.search.space import make_space
from tunesmith.search.study import Trial, best_of, curve

USUAL = {"learning_rate": 1e-3, "batch_size": 16, "epochs": 10.0}
SPACE = make_space({}, {"full": COMMON}, {"full": USUAL}, sizes={"blocks": 2, "hidden": 64})


@pytest.fixture
def record(tmp_path):
    return opened(tmp_path)


def opened(folder, **more):
    return database.open_study(f"sqlite:///{folder / 'trials.db'}", "toy", SPACE, metric="accuracy", seed=0, **more)


def trained(record, value: float, *, number: int = 1) -> None:
    def train(trial):
        SPACE.draw(trial)
        trial.set_user_attr("owner", record.owner)
        trial.set_user_attr("loss", 1 - value)
        trial.set_user_attr("run", f"run{trial.number}")
        return value

    for _ in range(number):
        database.run_one(record, train)


def test_the_first_trial_is_the_recipe_as_it_is(record):
    database.begin(record)
    database.begin(record)
    trained(record, 0.5)
    (first,) = record.trials()
    assert first.is_usual
    assert first.settings == {"method": "full", "learning_rate": 1e-3, "batch_size": 16, "epochs": 10}
    trained(record, 0.6)
    assert not record.trials()[1].is_usual


def die(record, *, owner: str) -> None:
    """Leave a trial behind as a killed process does."""
    with contextlib.suppress(UserWarning):
        trial = record.study.ask()
        SPACE.draw(trial)
        trial.set_user_attr("owner", owner)


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_what_a_dead_process_left_is_done_again_with_the_same_settings(record, tmp_path):
    database.begin(record)
    die(record, owner=record.owner.rpartition("/")[0] + "/1.00")  # this host and number, but another process
    left = record.trials()[0]
    again = opened(tmp_path)
    assert again.take_over() == 1
    assert again.take_over() == 0
    (waiting,) = again.trials()
    assert (waiting.state, waiting.is_usual, waiting.settings) == ("waiting", True, left.settings)
    trained(again, 0.5)
    assert [trial.state for trial in again.trials()] == ["complete"]


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_what_a_living_process_works_on_is_left_to_it(record, tmp_path):
    die(record, owner=record.owner)
    assert opened(tmp_path).take_over() == 0
    assert [trial.state for trial in record.trials()] == ["running"]


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_a_trial_that_kills_every_process_is_given_up(record):
    dead = record.owner.rpartition("/")[0] + "/1.00"
    for _ in range(database.MOST_TRIES):
        die(record, owner=dead)
        record.take_over()
    (trial,) = record.trials()
    assert (trial.state, trial.reason) == ("failed", "its process died")


def test_a_failed_trial_keeps_its_reason_and_others_go_on(record):
    def fail(trial):
        SPACE.draw(trial)
        trial.set_user_attr("reason", "out of memory")
        raise database.Failed("out of memory")

    database.run_one(record, fail)
    trained(record, 0.7)
    failed, good = record.trials()
    assert (failed.state, failed.reason, failed.value) == ("failed", "out of memory", None)
    assert best_of(record.trials(), "accuracy") == good


def test_going_on_draws_nothing_twice(tmp_path):
    trained(opened(tmp_path), 0.5, number=3)
    trained(opened(tmp_path), 0.5, number=3)
    rates = [trial.settings["learning_rate"] for trial in opened(tmp_path).trials()]
    assert len(set(rates)) == 6


def test_the_same_seed_draws_the_same(tmp_path):
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        trained(opened(tmp_path / name), 0.5, number=3)
        found.append([trial.settings for trial in opened(tmp_path / name).trials()])
    assert found[0] == found[1]


def trial(number: int, value: float | None, *, state: str = "complete", loss: float = 1.0) -> Trial:
    return Trial(number, state, value, loss, {}, 1.0, 1.0)


def test_ties_go_to_the_lower_loss_and_then_to_the_earlier_trial():
    assert best_of([trial(0, 0.9, loss=0.5), trial(1, 0.9, loss=0.4), trial(2, 0.9, loss=0.4)], "accuracy").number == 1


def test_a_trial_that_was_given_up_is_best_only_where_none_is_complete():
    given_up = trial(0, 0.99, state="pruned")
    assert best_of([given_up, trial(1, 0.5)], "accuracy").number == 1
    assert best_of([given_up, trial(1, None, state="failed")], "accuracy").number == 0
    assert best_of([trial(1, None, state="failed")], "accuracy") is None


def test_lower_is_better_for_losses():
    assert best_of([trial(0, 3.0), trial(1, 2.0)], "perplexity").number == 1
    assert curve([trial(0, 3.0), trial(1, 4.0), trial(2, 2.0)], "perplexity") == [
        (0, 3.0, 3.0),
        (1, 4.0, 3.0),
        (2, 2.0, 2.0),
    ]


def test_importance_finds_the_setting_that_matters(record):
    def train(trial):
        settings = SPACE.draw(trial)
        return settings["learning_rate"] * 100

    assert database.importance(record) == {}
    for _ in range(10):
        database.run_one(record, train)
    found = database.importance(record)
    assert next(iter(found)) == "learning_rate"
    assert found["learning_rate"] > 0.6
    assert sum(found.values()) == pytest.approx(1.0)


def test_successive_halving_gives_up_what_is_behind(record):
    def train(trial, value):
        SPACE.draw(trial)
        for resource in (10, 20, 40, 70, 100):
            trial.report(value, resource)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    for value in (0.9, 0.8, 0.7, 0.6):
        database.run_one(record, lambda trial, value=value: train(trial, value))
    states = [trial.state for trial in record.trials()]
    assert states[0] == "complete"
    assert states[-1] == "pruned"


def test_a_database_that_is_none_is_refused():
    with pytest.raises(PlanProblem, match="this is no database that can be used here"):
        database.open_study("nonsense", "toy", SPACE, metric="accuracy", seed=0)
    with pytest.raises(MachineProblem, match="cannot be opened"):
        database.open_study("sqlite:////no/such/folder/trials.db", "toy", SPACE, metric="accuracy", seed=0)


def test_passwords_are_not_shown():
    assert database.shown("postgresql://me:secret@host/name") == "postgresql://me:***@host/name"
