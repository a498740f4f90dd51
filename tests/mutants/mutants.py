"""The mutants: what is replaced in which file, by what, and the tests that notice."""

from typing import NamedTuple

FUNCTIONS = "sql/functions/care_case_clinical_trial_"
FUNCTION = f"{FUNCTIONS}apply_items.sql"
UNREPLICATED = "tests/faults/test_unreplicated.py::"
PATH = "tests/security/test_search_path.py::"
KINDS = "tests/model/test_kinds.py::"
AGAIN = "tests/contract/test_idempotency.py::"
WRITER = "tests/engine/test_writer.py::"
SCHEDULE = "tests/engine/test_schedule.py::"
STATES = "tests/faults/test_database_states.py::"
SHARING = "tests/engine/test_sharing.py::"
FUNCTION_TEST = "tests/engine/test_function.py::"
MODES = "tests/engine/test_modes.py::"
RETRYING = "tests/engine/test_retrying.py::"
CLIENT = "tests/send/test_client.py::"
RECORDS = "tests/contract/test_records.py::"
STORED_ONCE = "tests/send/test_stored_once.py::"


class Mutant(NamedTuple):
    """A shortcut: its name, the file, what stands there, what comes in its place, the tests."""

    name: str
    file: str
    original: str
    replacement: str
    tests: tuple[str, ...]


MUTANTS = [
    Mutant(
        "set-based on a table that does not commute",
        FUNCTION,
        "is_distinct := is_distinct and commutes and",
        "is_distinct := is_distinct and",
        (KINDS + "test_what_a_trigger_deletes_may_be_created_by_a_later_item",),
    ),
    Mutant(
        "whether rows commute is asked once for all",
        f"{FUNCTIONS}prepare.sql",
        "from (select count(*) from care_case_clinical_trial where false) as query_of_the_table;",
        ";",
        (FUNCTION_TEST + "test_what_commutes",),
    ),
    Mutant(
        "triggers are not looked at",
        f"{FUNCTIONS}commute_blockers.sql",
        "where not trigger.tgisinternal",
        "where trigger.tgisinternal",
        (KINDS + "test_what_a_trigger_deletes_may_be_created_by_a_later_item",),
    ),
    Mutant(
        "sorted by key where rows do not commute",
        FUNCTION,
        "at := coalesce(sequence[i], i);",
        "at := i;",
        (KINDS + "test_of_two_that_want_one_value_the_first_gets_it",),
    ),
    Mutant(
        "runs overlap where rows do not commute",
        FUNCTION,
        "if must_commute and not commutes then",
        "if false then",
        (FUNCTION_TEST + "test_where_rows_do_not_commute_it_writes_nothing_that_must",),
    ),
    Mutant(
        "constraints are deferred",
        f"{FUNCTIONS}prepare.sql",
        "set constraints all immediate;",
        "null;",
        (KINDS + "test_two_records_cannot_swap_a_unique_value",),
    ),
    Mutant(
        "no look at the clock",
        f"{FUNCTIONS}finish.sql",
        "if clock_timestamp() > to_timestamp(deadline) then",
        "if false then",
        (FUNCTION_TEST + "test_past_its_deadline_it_has_written_nothing",),
    ),
    Mutant(
        "no prefix: a statement goes on behind a lock that it did not get",
        FUNCTION,
        "stopped := nullif(sqlstate, 'CT004');",
        "raise;",
        (KINDS + "test_a_locked_record_fails_alone",),
    ),
    Mutant(
        "no prefix after a second",
        FUNCTION,
        "exit when i > 1 and clock_timestamp() > statement_timestamp() + interval '1 s';",
        "exit when false;",
        (FUNCTION_TEST + "test_after_a_second_it_returns_what_is_done",),
    ),
    Mutant(
        "an equal row that was suppressed is a conflict",
        f"{FUNCTIONS}unwritten_state.sql",
        "then 'e'",
        "then 's'",
        (KINDS + "test_an_update_that_changes_nothing_is_an_update",),
    ),
    Mutant(
        "a drawn key may be one that the batch names",
        f"{FUNCTIONS}create_item.sql",
        "is_taken := is_taken or (key = any (request.reserved)) is true;",
        "null;",
        (FUNCTION_TEST + "test_no_reserved_key_is_drawn",),
    ),
    Mutant(
        "keys that row-level security hides are conflicts",
        FUNCTION,
        "when items[at].care_case_clinical_trial_key = 0\n                    and",
        "when false and",
        (KINDS + "test_new_records_pass_by_keys_that_row_level_security_hides",),
    ),
    Mutant(
        "xmax of a partitioned table",
        f"{FUNCTIONS}is_partitioned.sql",
        "and relation.relkind = 'p'",
        "and false",
        (KINDS + "test_a_partitioned_table_takes_batches",),
    ),
    Mutant(
        "no receipts",
        f"{FUNCTIONS}finish.sql",
        "has_receipt constant boolean := known_keys is not null",
        "has_receipt constant boolean := false",
        (AGAIN + "test_a_record_without_key_is_created_once_under_one_key",),
    ),
    Mutant(
        "no receipt of a suppressed row",
        f"{FUNCTIONS}write_receipt.sql",
        "-- Mostly all were created just now.",
        "if pg_catalog.array_remove(keys, null) = '{}' then return false; end if;",
        (AGAIN + "test_a_record_that_a_trigger_filed_elsewhere_is_filed_once",),
    ),
    Mutant(
        "no lock on the request",
        FUNCTION,
        "if not pg_try_advisory_xact_lock(hashtextextended(request.id::text, 0::bigint)) then",
        "if false then",
        (AGAIN + "test_a_statement_that_comes_again_while_the_first_runs_creates_nothing",),
    ),
    Mutant(
        "forgets a request that is at work",
        f"{FUNCTIONS}delete_expired.sql",
        "continue when not pg_try_advisory_xact_lock(hashtextextended(expired::text, 0::bigint));",
        "",
        (AGAIN + "test_no_request_is_forgotten_that_is_at_work",),
    ),
    Mutant(
        "another body under the same key is applied",
        "sql/engine/other_bodies.sql",
        "select receipt.digest <> asked.digest",
        "select false",
        (AGAIN + "test_another_body_under_the_same_key_is_422_and_nothing_is_applied",),
    ),
    Mutant(
        "two bodies at once both create their records",
        f"{FUNCTIONS}find_receipts.sql",
        "select receipt.digest <> request.digest",
        "select false",
        (AGAIN + "test_of_two_bodies_at_once_one_creates_its_records",),
    ),
    Mutant(
        "what is newer is replaced by many at once",
        f"{FUNCTIONS}write_set.sql",
        "where not is_newest or stored.update_date <= excluded.update_date",
        "",
        (MODES + "test_of_many_records_the_newest_stay",),
    ),
    Mutant(
        "what is newer is replaced one by one",
        f"{FUNCTIONS}write_item.sql",
        "if is_newer then",
        "if false then",
        (MODES + "test_a_trigger_that_files_elsewhere_does_not_run_for_what_is_older",),
    ),
    Mutant(
        "no receipt of a record that was created under its own key",
        "service/engine/statement.py",
        "key_zero > 0 or self.batch.mode is Mode.CREATE",
        "key_zero > 0",
        (MODES + "test_after_a_lost_answer_the_second_attempt_says_what_the_first_did",),
    ),
    Mutant(
        "modes share a statement",
        "service/engine/schedule.py",
        "batch.mode is first.mode",
        "True",
        (MODES + "test_batches_of_all_modes_at_once_are_told_their_own",),
    ),
    Mutant(
        "what was deleted by a lost attempt is absent",
        "service/engine/statement.py",
        "chunk.in_doubt = end",
        "pass",
        (MODES + "test_after_a_lost_answer_the_second_attempt_says_what_the_first_did",),
    ),
    Mutant(
        "a key is drawn before the batch is known as a whole",
        "service/engine/schedule.py",
        "room > 0 and not batch.is_preparing",
        "room > 0",
        (WRITER + "test_no_key_is_drawn_before_all_that_the_batch_names_are_known",),
    ),
    Mutant(
        "later items of a refused key go on",
        "service/engine/rows.py",
        "self.batch.refused_keys.add(key)",
        "pass",
        ("tests/engine/test_order_after_503.py",),
    ),
    Mutant(
        "an outcome of a lost statement before its end",
        "service/engine/retrying.py",
        "await asyncio.sleep(max(0.0, lost.deadline - time.monotonic()))",
        "await asyncio.sleep(0)",
        (RETRYING + "test_a_lost_statement_is_sent_again_only_after_its_deadline",),
    ),
    Mutant(
        "a statement that is given up runs on",
        "service/engine/retrying.py",
        "if isinstance(error, TimeoutError):",
        "if False:",
        (STATES + "test_a_statement_given_up_for_a_slow_trigger_holds_no_rows_of_others",),
    ),
    Mutant(
        "large batches take both slots while small ones come",
        "service/engine/schedule.py",
        "is_slot_reserved = large > 0",
        "is_slot_reserved = False",
        (SCHEDULE + "test_large_batches_leave_room_for_small_ones_while_some_come",),
    ),
    Mutant(
        "large batches take as many rows while small ones come",
        "service/engine/schedule.py",
        "is_awaited = not _is_small(batch) and",
        "is_awaited = False and",
        (SCHEDULE + "test_large_batches_leave_room_for_small_ones_while_some_come",),
    ),
    Mutant(
        "who may not update creates many records of new keys at once",
        f"{FUNCTIONS}are_new.sql",
        "if not has_table_privilege('care_case_clinical_trial', 'update') then",
        "if false then",
        (FUNCTION_TEST + "test_who_may_not_update_creates_nothing_under_a_key_either",),
    ),
    Mutant(
        "nothing shares a statement",
        "service/engine/schedule.py",
        "if not self._is_shareable(chunk):",
        "if True:",
        (SHARING + "test_many_small_batches_at_once_share_few_transactions",),
    ),
    Mutant(
        "a batch of a client that is gone goes on",
        "service/engine/schedule.py",
        "if batch.is_gone():",
        "if False:",
        (WRITER + "test_a_batch_whose_caller_is_gone_starts_nothing",),
    ),
    Mutant(
        "the client names a batch anew each time",
        "service/client.py",
        'digest = hashlib.sha256(f"{name}\\n".encode() + body).hexdigest()',
        "digest = str(uuid4())",
        (STORED_ONCE + "test_when_two_hosts_send_copies_at_once",),
    ),
    Mutant(
        "the client sends batches of one key at once",
        "service/client.py",
        "any(keys & others for others, _ in pending)",
        "False",
        (CLIENT + "test_batches_that_share_a_key_are_never_sent_at_once",),
    ),
    Mutant(
        "the client sends an item without key again alone",
        "service/client.py",
        "sent = failed if have_keys else sent",
        "sent = failed",
        (CLIENT + "test_items_without_key_that_got_503_are_sent_again_with_their_whole_batch",),
    ),
    Mutant(
        "a run goes on without the place it ended at",
        "service/send/transfer.py",
        "self.client.batches(self._file, NAME, place=self.counts.total())",
        "self.client.batches(self._file, NAME)",
        (STORED_ONCE + "test_after_an_interrupt_the_next_run_goes_on_where_it_ended",),
    ),
    Mutant(
        "a row that is cut short is a record",
        "service/send/records.py",
        "if len(cells) != len(fields):",
        "if len(cells) > len(fields):",
        ("tests/send/test_files.py::test_a_row_with_another_number_of_cells_erases_nothing",),
    ),
    Mutant(
        "an API key may do everything",
        "service/http/access.py",
        "if action not in caller.allow:",
        "if not caller.allow:",
        (RECORDS + "test_a_key_may_do_what_its_allow_lists_and_nothing_else",),
    ),
    Mutant(
        "a PUT of one record creates it",
        "service/http/records.py",
        "make_batch(request, caller, None, body, Mode.REPLACE)",
        "make_batch(request, caller, None, body, Mode.UPSERT)",
        (RECORDS + "test_put_of_a_record_that_does_not_exist_is_404_and_creates_none",),
    ),
    Mutant(
        "ties are broken by the key from the last on",
        "service/engine/reading.py",
        "fields.append(SortField(_KEY_FIELD, is_descending=False))",
        "fields.append(SortField(_KEY_FIELD, is_descending=True))",
        ("tests/model/test_records.py::test_single_records_are_those_of_a_dictionary",),
    ),
    Mutant(
        "what was stored before is reported without waiting for the standby",
        f"{FUNCTIONS}finish.sql",
        "perform pg_logical_emit_message(true, 'care-trials', ''::text);",
        "null;",
        (UNREPLICATED + "test_an_outcome_waits_for_the_standby_although_its_wait_is_cut_short",),
    ),
    Mutant(
        "a canceled wait for the standby is a success",
        "service/engine/databases.py",
        'fields.get("R") == "SyncRepWaitForLSN"',
        "False",
        (UNREPLICATED + "test_an_outcome_waits_for_the_standby_although_its_wait_is_cut_short",),
    ),
    Mutant(
        "the function runs with the path of the session",
        FUNCTION,
        "set search_path from current",
        "",
        (PATH + "test_the_record_table_can_be_in_a_schema_of_its_own",),
    ),
    Mutant(
        "a path is used in which others can create objects",
        "service/engine/databases.py",
        "raise UnsafeSearchPath(reason)",
        "break",
        (PATH + "test_a_path_in_which_others_can_create_is_refused_until_that_is_revoked",),
    ),
]
