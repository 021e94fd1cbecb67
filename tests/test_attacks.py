"""The attack list, line by line: which tests hold it. A line without a test, or a test that is gone, fails here."""

from __future__ import annotations

import pytest

from held_lines import HERE, gone

IMPORT, FIND = "test_attacks_import.py", "models/test_find.py"
NAMES = "service/test_attacks_34_to_40_names.py"
ACCESS = "service/test_attacks_41_to_45_access.py"
BROWSER = "service/test_attacks_46_to_50_browser.py"
PARSING = "service/test_attacks_51_to_58_parsing.py"
PRIVACY = "service/test_attacks_59_60_privacy.py"
LISTEN = "service/test_listen.py"
_ODD_NAMES = [
    (NAMES, "test_attack_34_to_38_odd_names_are_refused_wherever_a_name_is_asked_for"),
    (NAMES, "test_attack_34_to_38_the_registry_takes_no_such_name"),
    (NAMES, "test_attack_34_to_38_odd_subjects_and_labels_are_kept_as_text_and_nothing_else"),
]
_PICKLES = [
    (IMPORT, "test_attack_1_to_5_no_command_opens_a_pickle"),
    (FIND, "test_a_pickle_is_never_opened"),
    (FIND, "test_a_pickle_beside_good_weights_is_never_opened"),
]
_RENAMED = [
    (IMPORT, "test_attack_6_to_8_a_pickle_under_another_name_is_refused_by_content"),
    (FIND, "test_what_only_calls_itself_safetensors_is_refused"),
]
_CODE = [(FIND, "test_a_configuration_that_names_code_is_refused")]
HELD: dict[int, list[tuple[str, str]]] = {
    **dict.fromkeys(range(1, 6), _PICKLES),
    **dict.fromkeys(range(6, 9), _RENAMED),
    9: [(FIND, "test_what_only_calls_itself_safetensors_is_refused")],
    10: [(FIND, "test_wrong_offsets_are_refused_when_the_weights_are_read")],
    11: [(FIND, "test_a_header_over_the_limit_is_refused_even_in_a_file_that_long")],
    **dict.fromkeys(range(12, 15), _CODE),
    15: [("models/test_tokenizer_trial.py", "test_an_expression_that_backtracks_is_refused")],
    16: [
        ("tasks/test_chat.py", "test_templates_that_can_only_be_meant_to_harm_are_refused"),
        ("tasks/test_chat.py", "test_templates_cannot_reach_out_of_the_sandbox"),
    ],
    17: [
        ("training/test_recipe.py", "test_python_objects_in_yaml_are_refused"),
        ("service/test_settings.py", "test_a_file_that_is_no_plain_table_is_refused"),
    ],
    18: [
        ("training/test_recipe.py", "test_an_alias_bomb_is_harmless"),
        ("service/test_settings.py", "test_an_alias_bomb_costs_nothing"),
    ],
    19: [(IMPORT, "test_attack_19_and_20_pickled_rows_are_refused_whatever_they_are_called")],
    20: [
        (IMPORT, "test_attack_19_and_20_pickled_rows_are_refused_whatever_they_are_called"),
        (IMPORT, "test_attack_1_to_20_a_run_with_pickles_beside_it_answers_without_them"),
    ],
    29: [
        (IMPORT, "test_attack_29_a_huge_cell_costs_one_row_and_little_memory"),
        (IMPORT, "test_attack_25_and_29_a_gigabyte_in_one_packed_cell_fits_in_little_memory"),
    ],
    30: [
        ("bundle/test_predict_file.py", "test_cells_that_begin_like_a_formula_are_neutralised"),
        ("data/test_formula.py", "test_what_begins_like_a_formula_is_neutralised"),
        ("data/feedback/test_learnable.py", "test_formula_cells_are_neutralised_in_tables"),
    ],
    **dict.fromkeys(range(34, 39), _ODD_NAMES),
    39: [(NAMES, "test_attack_39_a_link_in_the_runs_folder_is_not_followed")],
    40: [(NAMES, "test_attack_40_twins_of_a_name_are_another_name_or_none")],
    41: [
        (ACCESS, "test_attack_41_nothing_is_answered_without_a_key_but_whether_it_lives"),
        (ACCESS, "test_attack_41_web_sockets_are_closed"),
        (ACCESS, "test_attack_41_a_route_that_names_no_role_stops_the_service"),
    ],
    42: [
        (ACCESS, "test_attack_42_each_route_takes_only_its_role"),
        (ACCESS, "test_attack_42_admin_routes_hide_on_the_public_port"),
    ],
    43: [(ACCESS, "test_attack_43_another_tenants_predictions_are_not_there")],
    44: [(ACCESS, "test_attack_44_every_key_is_compared_once_in_constant_time")],
    45: [
        (ACCESS, "test_attack_45_a_key_in_the_url_is_refused_and_never_logged"),
        (ACCESS, "test_attack_45_no_option_takes_a_key_so_no_process_list_shows_one"),
    ],
    46: [(BROWSER, "test_attack_46_a_foreign_host_is_refused_on_every_path")],
    47: [
        (BROWSER, "test_attack_47_a_foreign_page_is_refused_whatever_it_does"),
        (BROWSER, "test_attack_47_forms_are_no_requests"),
    ],
    48: [(BROWSER, "test_attack_48_scripts_in_texts_are_data_everywhere")],
    49: [(BROWSER, "test_attack_49_a_url_is_a_text_and_nothing_is_fetched")],
    50: [(BROWSER, "test_attack_50_queries_in_texts_reach_no_database")],
    51: [
        (PARSING, "test_attack_51_a_body_over_the_limit_is_refused"),
        (LISTEN, "test_attack_51_a_body_over_the_limit_ends_the_connection_before_it_is_read"),
    ],
    52: [(PARSING, "test_attack_52_deep_json_is_refused_at_once")],
    53: [
        (PARSING, "test_attack_53_what_json_leaves_open_is_refused"),
        (PARSING, "test_attack_53_other_kinds_and_entries_are_refused_without_an_echo"),
    ],
    54: [(LISTEN, "test_attack_54_slow_headers_and_slow_bodies_are_closed_while_others_are_answered")],
    55: [
        (PARSING, "test_attack_55_headers_over_the_limit_are_refused"),
        (PARSING, "test_attack_55_ranges_are_ignored"),
        (LISTEN, "test_attack_55_headers_over_the_limit_are_refused_on_the_wire"),
    ],
    56: [
        (PARSING, "test_attack_56_two_framings_are_refused_and_the_connection_ends"),
        (LISTEN, "test_attack_56_a_second_request_in_the_first_is_never_answered"),
    ],
    57: [(PARSING, "test_attack_57_a_compressed_body_is_refused_unread")],
    58: [(PARSING, "test_attack_58_no_text_of_a_client_stands_in_the_log")],
    59: [(PRIVACY, "test_attack_59_none_of_200_planted_items_is_found_anywhere")],
    60: [
        (PRIVACY, "test_attack_60_one_key_cannot_flood_the_feedback"),
        ("updating/test_gate.py", "test_bad_candidates_are_blocked"),
    ],
}
NOT_READ = {  # lines about formats that the product does not open: they wait for it
    **dict.fromkeys((21, 22, 23, 24, 26, 27, 28), "no archive is ever unpacked"),
    25: "no archive is ever unpacked; a packed CSV of 1,000:1 is held by line 29",
    31: "no image is read",
    32: "no MIDI file is read",
    33: "no RDF and no XML is read",
}


def test_every_line_of_the_list_is_held_or_waits_for_its_format():
    assert sorted({*HELD, *NOT_READ}) == list(range(1, 61))
    assert not set(HELD) & set(NOT_READ)
    assert len(HELD) == 49


@pytest.mark.parametrize("line", HELD)
def test_the_tests_of_a_line_are_there(line):
    assert gone(HELD[line]) == []


def test_the_formats_that_wait_are_not_read_yet():
    """When a reader for one of them comes, its lines are due."""
    from tunesmith.data import READERS

    assert set(READERS) == {"csv", "jsonl", "parquet", "conll", "datasets"}
    source = "\n".join(path.read_text(encoding="utf-8") for path in (HERE.parent / "src").rglob("*.py"))
    for opener in ("import tarfile", "import zipfile", "shutil.unpack_archive", "from PIL", "import mido", "xml.etree"):
        assert opener not in source
