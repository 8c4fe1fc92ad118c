//! The cases of the ledger's contract, listed once, and what they are made of.

pub mod fixture;

pub mod accept;
pub mod accounts;
pub mod breakers;
pub mod budgets;
pub mod contents;
pub mod calls;
pub mod closures;
pub mod dispatch;
pub mod effects;
pub mod fair;
pub mod histories;
pub mod late;
pub mod line;
pub mod logins;
pub mod looking;
pub mod looks;
pub mod media;
pub mod planned;
pub mod results;
pub mod runs;
pub mod settle;
pub mod tokens;

pub use fixture::Fixture;

/// One test a case, with the case's name. `$store` makes an empty, migrated store.
macro_rules! tests {
    ($store:path: $($module:ident { $($case:ident),+ $(,)? })+) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                crate::conformance::$module::$case($store().await).await;
            }
        )+)+
    };
}

/// The suite for one kind of store. A case that isn't listed here doesn't compile without a warning.
macro_rules! conformance {
    ($store:path) => {
        tests! { $store:
            accept {
                a_new_job_comes_back_as_it_was,
                a_job_is_due_at_once_or_at_its_time,
                a_known_key_is_the_same_job,
                a_known_key_with_another_payload_is_a_conflict,
                two_of_one_batch_may_share_a_key,
                the_key_of_a_finished_job_is_known,
                a_key_belongs_to_a_tenant_and_a_kind,
                the_digest_decides_not_the_bytes,
                an_entry_without_a_key_is_known_by_its_id,
                a_poison_row_stops_its_batch,
                together_all_are_written_or_none,
                of_groups_at_once_with_a_conflict_one_is_written,
                payload_bytes_come_back_verbatim,
                concurrent_accepts_of_the_same_keys_make_one_job_each,
                an_empty_batch_is_no_error,
            }
            accounts {
                an_account_comes_back_as_it_was,
                a_name_is_one_accounts_until_it_is_removed,
                an_account_is_changed_by_who_knows_how_it_stood,
                of_many_at_once_one_takes_an_accounts_turn,
                how_an_account_stands_closes_and_opens_it,
                nothing_is_permitted_for_another_tenants_account,
                nothing_is_permitted_for_two_accounts_of_one_job,
            }
            logins {
                a_login_is_taken_once_and_in_time,
            }
            breakers {
                a_breaker_is_changed_by_who_knows_how_it_stood,
                of_many_at_once_one_changes_a_breaker,
            }
            budgets {
                what_is_used_is_kept_and_begins_empty,
                all_of_a_write_is_done_or_none,
                of_concurrent_counts_each_counts,
                a_change_holds_until_its_time_or_until_it_is_taken_back,
            }
            planned {
                who_was_scheduled_has_a_place_by_account_tenant_and_kind,
                a_place_is_free_once_its_job_has_ended_or_sent_or_is_very_late,
                what_was_scheduled_goes_where_the_rest_is_shut,
                a_backlog_is_told_in_its_order,
                a_backlog_tells_how_late_its_jobs_may_be_and_what_was_begun,
            }
            contents {
                what_was_just_said_is_refused_at_intake,
                the_same_job_again_repeats_nothing,
                of_one_batch_the_first_says_it,
                together_what_was_just_said_refuses_them_all,
                what_will_not_be_said_is_no_repetition,
                no_permit_while_another_may_have_said_it,
                what_was_refused_was_not_said,
                a_producer_may_mean_it,
                of_permits_at_once_one_says_it,
                what_was_said_long_ago_is_forgotten,
            }
            dispatch {
                due_is_by_priority_then_age,
                due_is_fair_between_tenants,
                due_is_only_what_may_be_claimed,
                due_of_several_lanes_is_that_of_each,
                a_job_becomes_due_as_the_clock_moves,
                claim_is_a_compare_and_set,
                of_concurrent_claims_each_job_goes_to_one,
                a_claim_of_an_old_generation_gets_nothing,
                a_claim_takes_only_what_is_due,
                claims_come_in_the_order_of_the_hints,
                claim_due_takes_what_is_due_in_order,
                claims_never_exceed_the_concurrency,
                a_claim_by_ids_takes_the_first_that_have_room,
                a_run_that_is_over_claims_nothing,
                a_claim_takes_only_its_lane_and_kinds,
            }
            fair {
                what_waited_too_long_takes_turns,
                only_what_may_run_lifts_its_priority,
                what_is_due_is_shared_by_weight,
            }
            settle {
                every_transition_round_trips,
                a_stale_token_changes_nothing,
                a_stale_version_changes_nothing,
                of_one_job_twice_in_a_batch_the_first_wins,
                a_finished_job_is_still_found,
                a_discarded_job_keeps_the_time_of_its_death,
                attempts_are_told_in_order,
                a_revived_job_starts_anew,
                a_revived_job_does_not_expire_at_once,
                an_edit_changes_payload_and_revision_but_not_the_key,
                who_did_it_is_written_down_with_the_change,
                an_unsound_transition_is_refused_whole,
                a_reclaim_charges_until_suspicion_and_then_only_what_began,
                a_charge_ahead_is_for_the_lease_and_is_taken_back,
                an_attempt_that_ends_by_itself_forgets_the_crashes,
                leaving_running_clears_the_lease,
                asking_to_cancel_a_running_job_leaves_its_lease,
                a_failure_with_a_nul_is_kept_and_found,
            }
            runs {
                a_job_of_a_dead_run_is_lost,
                a_job_that_its_run_no_longer_names_is_lost,
                an_ended_run_loses_its_jobs_at_once,
                expired_are_waiting_jobs_past_their_time,
                progress_is_kept_under_the_token,
                running_names_jobs_and_their_runs,
                a_beat_renews_the_lease,
                a_lapsed_run_may_come_back,
                a_run_declared_dead_never_comes_back,
                live_runs_tell_where_they_run,
                control_tells_cancels_pauses_and_the_generation,
                the_generation_is_counted_by_compare_and_set,
            }
            late {
                a_job_keeps_the_time_that_it_was_asked_for,
                what_a_person_admits_is_late_no_more,
                what_goes_before_a_late_job_is_known,
            }
            line {
                a_place_in_line_is_that_of_what_is_due,
                a_place_in_line_is_counted_within_its_bound,
                a_lanes_pace_is_that_of_the_last_minutes,
                a_runs_lease_is_told_until_it_is_ended,
            }
            looks {
                what_is_unknown_is_looked_for_when_it_is_due,
                an_unknown_effect_without_a_look_is_left_alone,
                the_sends_of_a_run_are_found,
                a_handle_is_renewed_only_while_nothing_depends_on_it,
                what_another_effect_was_confirmed_as_is_its_own,
            }
            effects {
                the_first_value_of_a_step_stays,
                a_step_is_recorded_under_the_lease_only,
                an_effect_is_written_down_once,
                a_permit_is_single_use,
                a_permit_needs_the_lease_and_its_time,
                no_permit_for_a_run_that_was_declared_dead,
                no_permit_of_another_job,
                an_effect_is_concluded_with_its_receipt,
                a_late_answer_is_kept_though_the_lease_is_lost,
                an_answer_to_an_older_send_concludes_nothing,
                evidence_accumulates_in_order,
                a_decision_compares_the_state,
                a_decision_on_a_send_that_was_repeated_is_refused,
                effects_and_steps_outlive_the_attempt_and_the_job,
            }
            closures {
                a_closure_is_told_until_it_is_opened,
                closed_again_it_is_never_for_shorter_unless_that_is_said,
                nothing_is_permitted_within_a_closure,
                what_is_shut_is_passed_over_and_given_again,
                due_is_fair_between_the_accounts_of_a_tenant,
                what_is_given_back_by_a_closure_keeps_its_place,
            }
            calls {
                a_handle_finds_its_job_until_it_is_let_go,
                a_handle_comes_with_its_answer_however_late,
                a_call_back_is_known_for_days_and_then_forgotten,
                what_a_call_back_says_is_kept_and_the_first_end_stays,
            }
            looking {
                jobs_are_found_by_each_field,
                jobs_are_found_by_state,
                jobs_come_newest_first_and_by_time,
                a_list_without_a_limit_has_a_hundred,
                dead_letters_are_grouped_by_their_error,
                counts_are_by_lane_and_state,
                a_paused_lane_is_told_with_its_reason,
                the_audit_is_told_newest_first,
                quarantine_keeps_the_bytes,
                quarantine_is_idempotent,
                what_waits_for_a_kind_is_found_and_given_its_new_reason,
                quarantine_takes_what_no_text_can_hold,
                what_leaves_the_quarantine_is_audited,
                keys_outlive_finished_jobs_and_both_go,
                a_dead_letter_and_its_key_stay,
                a_store_tells_what_it_is,
            }
            media {
                media_are_written_down_once,
                what_a_job_names_is_held,
                what_a_dropped_job_held_is_free,
                the_grace_starts_anew_with_each_use,
                what_was_not_accepted_holds_nothing,
                of_concurrent_sweeps_each_media_go_to_one,
                what_a_url_led_to_goes_with_its_media,
            }
            results {
                a_result_is_found_once_its_job_has_completed,
                a_result_belongs_to_a_tenant_and_a_request,
                a_result_is_found_within_its_age,
                a_result_is_offered_under_the_lease_only,
                offers_that_are_past_are_dropped,
            }
            tokens {
                a_token_comes_back_as_it_was,
                an_id_is_taken_once,
                tokens_come_newest_first,
                a_revoked_token_stays_revoked,
                a_token_ends_by_the_ledgers_clock,
                a_use_is_noted_once_a_minute,
            }
            histories {
                any_history_keeps_one_owner_and_every_job,
                another_history_keeps_one_owner_and_every_job,
                a_third_history_keeps_one_owner_and_every_job,
            }
        }
    };
}
