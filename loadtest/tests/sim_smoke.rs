//! The simulator, small: what holds at every size is checked here in seconds, with gates wide enough to be stable.
//!
//! Every run prints its seed; a failure is repeated with `shoal-loadtest simulate` and that seed, and then leaves its
//! story in `loadtest/seeds/`. Not here: the figures of the full size, which are in `docs/BENCHMARKS.md`.

use clap::Parser as _;
use shoal_loadtest::sim::{Outcome, SimulateArgs, simulate};

/// A command line without a program's name.
#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    args: SimulateArgs,
}

/// Runs what a command line says; tells it, so that a failure can be repeated.
#[expect(
    clippy::print_stdout,
    reason = "a test tells what it does; shown when it fails"
)]
fn run(line: &str) -> Outcome {
    println!("shoal-loadtest simulate {line}");
    let line = Line::parse_from(std::iter::once("simulate").chain(line.split_whitespace()));
    let outcome = simulate(line.args.scenario().expect("a scenario of ours"), |_, _| {});
    println!(
        "{:.3} x bound, {:.3} origin copies, {:.2} % duplicates, trace {}",
        outcome.makespan_over_bound,
        outcome.origin_copies,
        outcome.duplicate_ratio * 100.0,
        outcome.trace
    );
    assert_eq!(outcome.findings, Vec::<String>::new());
    assert_eq!(outcome.failed_agents, 0, "everybody finishes");
    assert_eq!(outcome.wrong_bytes, 0);
    outcome
}

#[test]
fn one_seed_gives_one_trace() {
    let line = "--agents 30 --blob 64MiB --piece 1MiB --link 1gbit --slow 10% --liars 10% --crash 10% \
                --tracker-restart 100ms --stagger 50ms";
    let [first, again] = [0, 1].map(|_| run(&format!("{line} --seed 7")));
    assert_eq!(first.trace, again.trace);
    assert_eq!(first.agent_s, again.agent_s);
    let other = run(&format!("{line} --seed 8"));
    assert_ne!(first.trace, other.trace);
}

#[test]
fn dead_sources_cost_their_bytes_and_not_the_time_until_their_fetches_time_out() {
    // 2.67 when a source counted as one of two until its fetch had timed out, and no third was asked for a late piece.
    let outcome = run("--agents 300 --blob 1280MiB --piece 4MiB --link 10gbit --crash 5%");
    assert!(outcome.makespan_over_bound <= 1.6);
}

#[test]
fn a_rack_that_lacks_a_piece_hears_of_it_from_whoever_is_done() {
    // 1.54 when a rack whose one told agent did not come for a piece waited for news that had to age first.
    let outcome = run("--agents 300 --blob 1280MiB --piece 4MiB --link 10gbit --zones 25 --seed 3");
    assert!(outcome.makespan_over_bound <= 1.45);
    assert!(outcome.zone_copies_max <= 1.5);
}

#[test]
fn a_crowd_finishes_near_the_bound_and_the_origin_gives_each_piece_once() {
    for seed in 1..=2 {
        let outcome = run(&format!(
            "--agents 100 --blob 512MiB --piece 4MiB --link 10gbit --seed {seed}"
        ));
        assert!(outcome.makespan_over_bound <= 1.6);
        assert!(outcome.origin_copies <= 1.10);
        assert!(outcome.duplicate_ratio <= 0.03);
    }
}
