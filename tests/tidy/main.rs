//! Tidy: the rules of this repository that a compiler does not know, each one a test.
//!
//! How it goes: [`Repository`] holds the text of every file that belongs to the project,
//! [`Workspace`] what cargo says of the packages. A rule is a function from those two to a list of
//! [`Violation`]s; the tests below run every rule over the real tree, and the tests beside each
//! rule run it over a small tree with one planted fault, so a rule that catches nothing is seen.
//!
//! What always holds:
//! - T1: a violation names the file, the line and what to do about it.
//! - T2: no rule has a silent exception; what is let through stands in a list beside its reason.
//! - T3: a rule that only talks writes past the test harness's capture, so it is seen when it passes.
//!
//! What is not here: format, lints and docs (`cargo fmt`, `clippy`, `rustdoc`), licences and sources
//! (`deny.toml`); `.ci/run` calls them all.
//!
//! Why a test and not a script: it runs under the one test command a newcomer knows, on every
//! platform that builds the project, and its rules are themselves tested.

mod repository;
mod rules;
mod rust_text;
mod workspace;

use repository::{Repository, Violation};
use rules::{documents, sizes, walls, words};
use workspace::Workspace;

/// Fails with every violation listed: one run shows the whole list, not its first line. (T1)
fn demand_none(violations: &[Violation]) {
    let listed: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert!(violations.is_empty(), "{} found:\n{}", violations.len(), listed.join("\n"));
}

/// Says what is found and lets it pass. (T3)
fn talk(violations: &[Violation]) {
    use std::io::Write as _;
    for violation in violations {
        // Not `eprintln!`, which the harness would swallow; an unwritable stderr is no failure.
        let _ = writeln!(std::io::stderr(), "tidy, not a failure: {violation}");
    }
}

#[test]
fn dependency_edges_are_those_drawn_in_architecture_md() {
    demand_none(&walls::edges(Repository::here(), Workspace::here()));
}

#[test]
fn core_crates_are_no_std() {
    demand_none(&walls::no_std(Repository::here()));
}

#[test]
fn core_crates_list_nothing_that_does_io() {
    demand_none(&walls::no_io(Repository::here(), Workspace::here()));
}

#[test]
fn tokio_is_listed_only_where_a_runtime_may_run() {
    demand_none(&walls::tokio(Repository::here(), Workspace::here()));
}

#[test]
fn every_listed_dependency_is_used() {
    demand_none(&walls::unused(Repository::here(), Workspace::here()));
}

#[test]
fn every_source_file_begins_by_saying_what_it_is() {
    demand_none(&sizes::headers(Repository::here()));
}

#[test]
fn no_source_file_passes_a_thousand_lines() {
    demand_none(&sizes::long_files(Repository::here()));
    talk(&sizes::growing_files(Repository::here()));
}

#[test]
fn functions_of_the_core_fit_on_a_screen() {
    demand_none(&sizes::long_functions_in_core(Repository::here()));
    talk(&sizes::long_functions_elsewhere(Repository::here(), sizes::KNOWN_LONG));
}

#[test]
fn nothing_unfinished_is_left_in_the_code() {
    demand_none(&words::unfinished(Repository::here()));
}

#[test]
fn tests_wait_for_conditions_and_never_sleep() {
    demand_none(&words::sleeps_in_tests(Repository::here()));
}

#[test]
fn no_file_names_a_path_of_a_build_machine() {
    demand_none(&words::machine_paths(Repository::here()));
}

#[test]
fn every_outside_dependency_has_its_reason_written_down() {
    demand_none(&documents::dependency_table(Repository::here(), Workspace::here()));
}

#[test]
fn every_decision_record_says_context_decision_rejected_consequences() {
    demand_none(&documents::decision_headings(Repository::here()));
}
