//! Temporary.
use super::crowd::*;
use std::time::Duration;
#[test]
fn diag() {
    for agents in [1, 2, 3, 4, 6, 8, 12, 16, 32, 64] {
        let mut r = vec![];
        for seed in 1..4 {
            let mut crowd = Crowd::new(CrowdOptions { agents, seed, ..CrowdOptions::default() });
            crowd.want_all();
            crowd.run(Duration::from_secs(600), Crowd::all_finished);
            r.push(format!("{:.3}/{:.2}", crowd.makespan() / crowd.bound(), crowd.origin_copies()));
        }
        println!("agents {agents} {r:?}");
    }
}
