"""The fault list, line by line: which tests hold it. A line without a test, or a test that is gone, fails here.

T: training, D: data, S: service. A test at a lower level than the real process is named where there is no other.
"""

from __future__ import annotations

import pytest

from held_lines import gone

RESUME, ATOMIC, LOOP = "training/test_resume.py", "bundle/test_atomic.py", "training/test_loop.py"
SEVERAL, READ, CHECKS = "training/test_processes.py", "data/readers/test_delimited.py", "data/test_checks.py"
PROCESSES, SWAPS = "service/test_faults_processes.py", "service/test_faults_swaps.py"
AROUND, STORE = "service/test_faults_surroundings.py", "data/feedback/test_faults.py"
BACKUP, SCHEMA = "data/feedback/test_backup.py", "data/feedback/test_schema.py"
_KILLED = [(RESUME, "test_killed_at_random_moments_ends_with_the_same_weights")]
_DISK = [(RESUME, "test_a_disk_that_fails_keeps_what_was_saved")]
HELD: dict[str, list[tuple[str, str]]] = {
    "T1": _KILLED,  # TUNESMITH_KILLS says how often
    "T2": _KILLED,
    "T3": [(RESUME, "test_a_signal_saves_and_leaves_with_its_own_code")],
    "T4": [
        (ATOMIC, "test_a_crash_leaves_no_folder_behind"),
        (ATOMIC, "test_a_crash_keeps_the_old_file"),
        (ATOMIC, "test_a_crash_after_the_rename_has_the_new_file"),
    ],
    "T5": [*_DISK, (RESUME, "test_a_disk_without_room_is_refused_before_writing")],
    "T6": _DISK,
    "T7": [(RESUME, "test_a_failed_sync_counts_as_a_failed_save")],
    "T8": [(RESUME, "test_a_damaged_checkpoint_is_passed_over_aloud")],
    "T9": [(ATOMIC, "test_a_thousand_flips_of_one_byte_are_all_found")],
    "T10": [(RESUME, "test_a_clock_that_jumps_changes_nothing")],
    "T11": [(RESUME, "test_two_trainers_on_one_folder_is_refused")],
    "T12": [(RESUME, "test_resume_refuses_other_data"), (RESUME, "test_a_damaged_plan_is_an_error_of_three_parts")],
    "T13": [(SEVERAL, "test_two_processes_give_what_one_gives")],
    "T14": [(LOOP, "test_a_loss_that_is_not_finite_stops_the_run")],
    "T15": [(LOOP, "test_a_rate_far_too_high_never_gives_a_broken_bundle")],
    "T16": [
        ("training/test_room.py", "test_fewer_tokens_at_a_time_give_the_same_weights"),
        ("training/test_room.py", "test_one_row_that_is_too_much_is_told_in_three_parts"),
    ],
    "T17": _KILLED,  # what the system kills for its memory ends as any SIGKILL
    "T18": [
        (SEVERAL, "test_a_killed_process_ends_the_run_soon_and_it_goes_on_from_where_it_was")
    ],  # there are no loaders
    "T19": [(RESUME, "test_a_base_model_that_vanishes_on_the_way_is_missed_by_nobody")],
    "T20": [(RESUME, "test_resume_of_a_finished_run_trains_nothing")],
    "D1": [(CHECKS, "test_twelve_kinds_of_broken_rows_are_each_told_by_line")],
    "D2": [(READ, "test_a_file_that_changes_is_refused")],
    "D3": [("training/test_intake.py", "test_one_label_left_is_refused")],
    "D4": [("training/test_intake.py", "test_texts_of_the_test_leave_training")],
    "D5": [(READ, "test_files_that_are_refused")],
    "D6": [(READ, "test_a_damaged_gzip_file_is_refused")],
    "D7": [("training/test_scale.py", "test_the_peak_of_a_whole_run_does_not_grow_with_the_file")],
    "S1": [(PROCESSES, "test_s01_a_killed_worker_is_back_in_five_seconds_and_what_fails_can_be_asked_again")],
    "S2": [
        (PROCESSES, "test_s02_a_killed_service_leaves_no_process_behind_and_starts_again"),
        (PROCESSES, "test_s02_feedback_that_was_acknowledged_is_there_after_kills"),
        (STORE, "test_no_acknowledged_row_is_lost_over_100_kills"),
    ],
    "S3": [(SWAPS, "test_s03_a_version_that_cannot_be_loaded_changes_nothing")],
    "S4": [(PROCESSES, "test_s04_sigterm_finishes_what_was_accepted_and_says_not_ready_first")],
    "S5": [(SWAPS, "test_s05_a_hundred_hot_reloads_under_load_cost_no_request_and_no_memory")],
    "S6": [("bundle/test_registry.py", "test_killed_at_any_system_call_exactly_one_version_is_live")],
    "S7": [(SWAPS, "test_s07_a_rollback_under_load_is_done_in_five_seconds_without_an_error")],
    "S8": [(STORE, "test_a_store_locked_for_10_seconds_refuses_and_then_goes_on")],
    "S9": [(STORE, "test_a_disk_that_really_is_full"), (STORE, "test_a_full_disk_is_told_and_nothing_is_acknowledged")],
    "S10": [(BACKUP, "test_a_damaged_store_is_refused_with_the_way_out"), (BACKUP, "test_doctor_and_its_command")],
    "S11": [(AROUND, "test_s11_ten_times_too_much_is_refused_quickly_and_the_rest_is_answered_in_time")],
    "S12": [(PROCESSES, "test_s12_a_client_that_vanishes_takes_its_work_along")],
    "S13": [(PROCESSES, "test_s13_a_poison_input_takes_nobody_along")],
    "S14": [(PROCESSES, "test_s14_a_hung_pass_is_ended_and_the_others_of_its_batch_answer")],
    "S15": [(AROUND, "test_s15_five_hundred_idle_and_slow_connections_stop_nobody")],
    "S16": [(AROUND, "test_s16_a_port_that_is_taken_is_told_in_three_parts")],
    "S17": [(AROUND, "test_s17_two_hundred_and_fifty_six_descriptors_are_enough_to_stay_alive")],
    "S18": [(AROUND, "test_s18_a_full_log_disk_stops_nobody")],
    "S19": [(AROUND, "test_s19_a_collector_that_hangs_changes_no_latency")],
    "S20": [(AROUND, "test_s20_two_services_share_one_folder")],
    "S21": [
        (SCHEMA, "test_a_kill_after_any_statement_leaves_a_whole_version"),
        (SCHEMA, "test_a_kill_in_the_middle_of_an_upgrade_leaves_the_version_before"),
    ],
}


def test_every_line_of_the_list_is_held():
    lines = [f"{kind}{number}" for kind, last in (("T", 20), ("D", 7), ("S", 21)) for number in range(1, last + 1)]
    assert list(HELD) == lines
    assert len(HELD) == 48


@pytest.mark.parametrize("line", HELD)
def test_the_tests_of_a_line_are_there(line):
    assert gone(HELD[line]) == []
