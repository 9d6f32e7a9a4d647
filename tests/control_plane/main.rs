//! The operator on a real control plane, with Pods that are real counter-node processes.
//!
//! One control plane serves all tests, each in a namespace of its own. What a failed test leaves is printed: conditions,
//! Pods, and the ends of logs, whose folder is then kept.
#![allow(clippy::print_stderr, reason = "a test program tells where the logs of a failed test are")]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use counter_tests::control_plane::ControlPlane;
use counter_tests::site::Site;
use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

mod admin;
mod crashes;
mod create;
mod growth;
mod leaders;
mod lifecycle;
mod objects;
mod pods;
mod redis;
mod refusals;
mod sizes;
mod spreading;
mod tokens;
mod totals;
mod volumes;

/// Tests at a time: most of their time they wait, but each brings processes of its own.
const TESTS_AT_A_TIME: usize = 2;

type Test = for<'a> fn(&'a Site) -> LocalBoxFuture<'a, anyhow::Result<()>>;

/// All tests: the sentence, the namespace, and what it does. The longest first, so that none is left alone at the end.
macro_rules! tests {
    ($($module:ident :: $name:ident),+ $(,)?) => {
        [$((stringify!($name), (|site| $module::$name(site).boxed_local()) as Test)),+]
    };
}

fn tests() -> impl IntoIterator<Item = (&'static str, Test)> {
    tests![
        crashes::a_crash_after_any_write_of_a_creation_changes_nothing_in_the_end,
        crashes::a_crash_after_any_write_of_a_growth_changes_nothing_in_the_end,
        growth::growing_from_one_to_three_shards_and_replicas_while_clients_count_changes_no_sum,
        create::an_applied_object_becomes_a_cluster_that_counts_and_is_then_left_alone,
        sizes::a_growth_is_taken_back_while_no_slot_has_flipped_and_blocked_from_then_on,
        pods::a_new_image_comes_to_one_pod_at_a_time_while_the_cluster_stays_available,
        leaders::a_leader_that_was_paused_beyond_its_lease_ends_and_harms_nothing,
        lifecycle::a_cluster_deleted_and_created_again_goes_on_with_its_identity_and_its_counts,
        objects::what_somebody_changes_or_deletes_is_put_right,
        volumes::what_a_lost_volume_held_is_waited_for_until_its_loss_is_accepted,
        objects::whoever_changes_an_object_back_each_time_is_named_and_waited_for,
        tokens::a_new_cluster_token_comes_to_all_nodes_while_they_count,
        tokens::the_public_api_takes_changes_with_the_token_of_the_users_secret_only,
        spreading::a_page_is_spread_and_gathered_again_while_two_nodes_count_and_no_read_falls,
        redis::a_cluster_in_redis_begins_with_its_secret_and_goes_on_from_its_record,
        redis::redis_clients_count_at_every_pod_while_the_spec_lets_them,
        lifecycle::a_cluster_is_not_begun_anew_on_another_kind_of_storage,
        lifecycle::a_cluster_created_again_before_the_old_one_is_removed_needs_nobody,
        volumes::volumes_grow_with_the_spec_and_so_do_those_of_nodes_that_come_later,
        volumes::a_wrong_list_of_losses_is_refused_in_words_and_the_cluster_goes_on,
        objects::an_object_of_somebody_else_is_never_taken_over_and_the_cluster_heals_when_it_goes,
        pods::an_image_that_is_not_there_stops_at_the_first_pod_and_is_replaced_first,
        pods::while_paused_nothing_is_changed_and_nodes_go_on,
        pods::a_change_that_comes_from_the_operator_waits_until_it_is_asked_for,
        pods::a_pod_that_is_deleted_or_killed_comes_back_with_its_counts,
        sizes::the_scale_subresource_reckons_in_shards,
        sizes::fewer_replicas_are_refused_in_words_and_nothing_goes,
        admin::a_node_refuses_older_foreign_and_unproved_layouts_and_keeps_its_own,
        lifecycle::a_cluster_whose_volumes_are_not_retained_leaves_nothing,
        create::an_empty_spec_gets_every_default,
        leaders::a_leader_that_stops_in_order_hands_over_at_once,
        refusals::the_api_server_and_the_mirror_refuse_the_same_objects_with_the_same_words,
        refusals::what_may_not_change_is_refused_by_both_with_the_same_words,
        refusals::a_misspelt_field_and_one_of_a_later_release_are_refused_by_name,
    ]
}

fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(TESTS_AT_A_TIME);
    let runtime = Arc::new(tokio::runtime::Builder::new_multi_thread().enable_all().build()?);
    if arguments.list {
        let trials = tests().into_iter().map(|(name, _)| Trial::test(sentence(name), || Ok(()))).collect();
        return Ok(libtest_mimic::run(&arguments, trials).exit_code());
    }
    let began = Instant::now();
    let plane = Arc::new(runtime.block_on(ControlPlane::start()).context("the control plane does not come up")?);
    eprintln!("the control plane is up after {:.1} s, in {}", began.elapsed().as_secs_f32(), plane.folder().display());
    runtime.spawn(stop_on_signal(plane.clone()));
    let trials = tests().into_iter().enumerate().map(|(number, (name, test))| trial(&runtime, &plane, number, name, test));
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if conclusion.has_failed() {
        eprintln!("{}\nall logs are in {}", plane.log_tails(), plane.keep_folder().display());
    }
    runtime.block_on(plane.stop());
    Ok(conclusion.exit_code())
}

fn trial(runtime: &Arc<Runtime>, plane: &Arc<ControlPlane>, number: usize, name: &str, test: Test) -> Trial {
    let (runtime, plane) = (runtime.clone(), plane.clone());
    Trial::test(sentence(name), move || {
        runtime.block_on(async {
            let began = Instant::now();
            let site = Site::new(&plane, &format!("test-{number}")).await.map_err(|error| format!("{error:#}"))?;
            let result = test(&site).await;
            let failure = match &result {
                Ok(()) => None,
                Err(error) => Some(Failed::from(format!("{error:#}\n{}", site.report().await))),
            };
            site.close();
            eprintln!("{} took {:.1} s", site.namespace(), began.elapsed().as_secs_f32());
            failure.map_or(Ok(()), Err)
        })
    })
}

fn sentence(name: &str) -> String {
    name.replace('_', " ")
}

/// Whoever stops the tests stops the processes that they started.
async fn stop_on_signal(plane: Arc<ControlPlane>) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    plane.stop().await;
    std::process::exit(130);
}
