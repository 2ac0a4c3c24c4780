//! What must hold of the coordinator, shown on whole jobs: on simulated workers, clock and disk, on which a test keeps, repeats
//! and forges acknowledgements and lets the disk fail. Where a rule has a switch that breaks it, the case shows that it
//! would notice.
//!
//! Not all can be provoked from outside: a task acknowledges its checkpoints in order, and a manifest is published within one step
//! of the coordinator. What is left to the coordinator's core is answered for by its own tests, in
//! `engine/src/coordinator/core/tests`, which are named here as `core::…`; cases of other suites are named with their file.
//!
//! | rule | cases |
//! |------|-------|
//! | *Triggers* | |
//! | refused while tasks are not running | [`triggers::a_trigger_is_refused_before_the_tasks_run_and_works_once_they_do`], [`triggers::a_trigger_is_refused_while_the_job_restarts_and_works_afterwards`], [`triggers::a_trigger_is_refused_while_the_job_is_cancelled`] |
//! | refused while the job stops | [`triggers::a_trigger_is_refused_while_the_job_stops_with_a_savepoint`] |
//! | refused without storage | `bad_use::a_checkpoint_without_a_directory_is_refused_and_the_job_goes_on` |
//! | refused where storage cannot be prepared; works after a storage error | [`triggers::a_checkpoint_whose_directory_cannot_be_made_fails_and_the_next_trigger_works`], [`triggers::a_savepoint_whose_directory_cannot_be_made_fails_and_the_next_trigger_works`] |
//! | *Acknowledgements and files* | |
//! | a duplicate is ignored | [`acknowledgements::a_duplicate_acknowledgement_changes_nothing`] |
//! | a decline discards | [`acknowledgements::a_declined_checkpoint_is_discarded_and_the_next_one_holds_its_changes`] |
//! | late: files go, shared ones never | [`acknowledgements::files_of_a_late_acknowledgement_go_and_those_it_shares_with_a_completed_checkpoint_stay`], [`acknowledgements::an_acknowledgement_that_comes_after_a_later_checkpoint_takes_nothing_of_it_along`], [`acknowledgements::files_of_an_acknowledgement_from_a_dead_attempt_go_and_shared_ones_stay`] |
//! | unknown: files go, shared ones never | [`acknowledgements::files_of_an_acknowledgement_for_an_unknown_checkpoint_go_and_shared_ones_stay`] |
//! | what is acknowledged is held | `core::files::an_acknowledgement_holds_its_files_until_its_checkpoint_ends`, `core::files::a_segment_of_a_failed_checkpoint_survives_where_a_later_one_names_it` |
//! | *Rounds beside each other* | |
//! | a completed one ends older pending ones | [`rounds::a_completed_checkpoint_ends_older_pending_ones_and_answers_for_them`], [`rounds::a_completed_checkpoint_leaves_younger_pending_ones_alone`] |
//! | a savepoint is never subsumed | [`rounds::a_savepoint_is_not_ended_by_a_younger_checkpoint`] |
//! | … and never subsumes | [`rounds::a_savepoint_does_not_end_an_older_checkpoint`] |
//! | no notice of plain savepoints | [`rounds::nobody_hears_of_a_savepoint_and_nothing_is_committed_until_the_next_checkpoint`] |
//! | an expiry ends its own round only | [`rounds::an_expiry_ends_its_own_round_only`] |
//! | at most 1, 2, 5 at once, the rest queue | [`triggers::at_most_1_2_or_5_checkpoints_are_under_way_and_excess_triggers_queue`], [`triggers::an_unaligned_checkpoint_queues_whatever_the_number_allowed`], [`triggers::more_than_a_thousand_triggers_are_refused_and_those_that_wait_are_met`] |
//! | savepoint before checkpoint, user before periodic | [`triggers::a_savepoint_goes_before_checkpoints_and_a_users_checkpoint_before_a_periodic_one`] |
//! | the min pause delays periodic ones only | [`triggers::the_min_pause_delays_periodic_checkpoints_and_no_others`] |
//! | *Tolerable failures* | |
//! | I/O counts | [`failures::an_error_of_the_disk_at_the_trigger_counts`] |
//! | the asynchronous part counts | [`failures::a_failure_of_the_asynchronous_part_counts`] |
//! | declined counts | [`failures::a_declined_checkpoint_counts`], [`failures::a_savepoint_that_a_task_declines_counts`] |
//! | expired counts | [`failures::an_expired_checkpoint_counts`] |
//! | finalising counts | [`failures::a_checkpoint_that_cannot_be_finalised_counts`] |
//! | subsumed does not | [`failures::a_subsumed_checkpoint_does_not_count`] |
//! | tasks not ready does not | [`failures::a_refused_trigger_does_not_count`] |
//! | the end of the input does not | [`failures::a_checkpoint_that_the_end_of_the_input_overtakes_does_not_count`] |
//! | the min pause does not | [`failures::a_periodic_checkpoint_that_waits_for_the_min_pause_does_not_count`] |
//! | a restart or shutdown does not | [`failures::checkpoints_that_a_failure_or_a_shutdown_ends_do_not_count`] |
//! | savepoints, but for declined ones, do not | [`failures::savepoints_that_expire_cannot_be_begun_or_published_do_not_count`], [`failures::a_failed_stop_that_lets_the_job_go_on_does_not_count`] |
//! | an id counts once | [`failures::a_checkpoint_counts_once_however_many_tasks_decline_it`] |
//! | success resets | [`failures::a_success_resets_the_count`], [`failures::a_savepoint_that_completes_resets_nothing`] |
//! | *Publication and retention* | |
//! | a failed publication discards the new and keeps the old | [`publication::a_failed_publication_discards_the_new_checkpoint_and_keeps_the_old_one`], [`publication::after_a_failed_publication_a_restart_continues_from_the_old_checkpoint`] |
//! | unknown outcome: nothing is deleted | [`publication::while_it_is_unknown_whether_a_checkpoint_is_complete_nothing_is_deleted_and_nothing_committed`] |
//! | what is being published cannot be aborted | `core::rounds::publishing_cannot_be_aborted` |
//! | at least one is retained | [`publication::as_many_checkpoints_are_retained_as_wanted_and_one_at_any_moment`], [`publication::a_checkpoint_that_cannot_be_deleted_stays_and_is_no_failure`] |
//! | damaged ones are never passed over | `corruption::a_damaged_newest_checkpoint_is_not_passed_over_for_an_older_one`, `corruption::an_engine_refuses_a_damaged_checkpoint_and_deletes_nothing` |
//! | *Notices* | |
//! | every operator hears each end once; aborts carry the latest completed | [`notices::every_operator_hears_each_completion_and_each_abort_once_and_aborts_carry_the_latest_completed`], [`notices::an_attempt_hears_of_its_own_checkpoints_only_and_of_aborts_with_what_it_was_restored_from`] |
//! | *Stops with a savepoint* | |
//! | the drain finishes first | [`stops::a_drain_closes_every_operator_and_sends_its_last_records_before_the_savepoint`], [`stops::a_suspension_closes_nothing_and_the_job_goes_on_from_it`] |
//! | a failure in the snapshot resumes | [`stops::a_failure_in_the_savepoint_of_a_suspension_lets_the_job_go_on`], [`stops::a_stop_whose_savepoint_cannot_be_begun_leaves_the_job_alone`], [`stops::a_failure_in_the_savepoint_of_a_drain_takes_the_job_back_to_its_latest_checkpoint`], [`stops::an_operator_that_fails_at_its_snapshot_for_a_stop_restarts_the_job_and_fails_the_stop`] |
//! | a failure after it fails over to it | [`stops::a_failure_after_the_savepoint_of_a_stop_fails_over_to_that_savepoint`], [`stops::a_process_that_dies_after_the_savepoint_of_a_stop_continues_from_it`] |
//! | it is alone | [`stops::a_stop_starts_alone_and_nothing_starts_beside_it`] |
//! | *Restores* | |
//! | another max parallelism fails | [`restores::another_max_parallelism_is_refused_and_the_checkpoint_stays`], `savepoints::another_max_parallelism_and_unmatched_state_are_refused_unless_allowed` |
//! | unmatched state is an error unless allowed | the same; `rescale::in_flight_data_of_an_edge_that_is_gone_are_refused_and_dropped_where_that_is_allowed` |
//! | an unknown path is a clear error | [`restores::an_unknown_path_is_refused_with_the_path_before_anything_starts`], `savepoints::what_is_no_savepoint_or_damaged_is_refused_with_cause_and_cure` |
//! | CLAIM deletes old files in time | [`restores::with_claim_the_original_goes_once_enough_newer_checkpoints_are_complete`], `savepoints::a_claimed_savepoint_goes_once_enough_newer_checkpoints_are_complete` |
//! | after NO_CLAIM the first is full | [`restores::without_claim_the_original_stays_whole_and_the_first_checkpoint_is_full_so_that_it_may_go`], `savepoints::an_unclaimed_savepoint_stays_and_is_not_needed_after_the_first_checkpoint` |
//! | *Finished tasks* | |
//! | checkpoints after some have finished | [`finished::checkpoints_go_on_after_some_tasks_have_finished_and_a_restart_leaves_those_finished`] |
//! | … after all have | [`finished::tasks_that_have_all_finished_take_part_in_checkpoints_and_savepoints`], [`finished::the_end_of_all_input_brings_a_final_checkpoint_and_nothing_is_committed_before_it_is_complete`], [`finished::a_failed_final_checkpoint_is_followed_by_another`], [`finished::a_process_that_dies_after_the_final_checkpoint_commits_it_on_restart`] |
//! | union state of operators that have finished in part fails them | [`finished::with_union_state_no_checkpoint_completes_while_its_operator_has_finished_in_part`], `rescale::every_subtask_finds_the_whole_union_list_at_any_parallelism` |

mod triggers;
mod acknowledgements;
mod rounds;
mod failures;
mod publication;
mod notices;
mod stops;
mod restores;
mod finished;
