//! The page of a process's admin port, in a real browser, of a real agent that has just taken an image in from another.
//!
//! Not here: what the status says as JSON, and that the page escapes it; the page sets text, never markup.

use std::time::Duration;

use shoal_loadtest::cluster::trial::{REPOSITORY, TAG, Trial, ready_with};
use shoal_loadtest::cluster::{browser, needs};
use shoal_loadtest::workload::Image;

/// Of the browser's own time: three looks at the status.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_of_an_agent_shows_what_it_holds_and_where_it_came_from() {
    if !ready_with(
        "the_page_of_an_agent_shows_what_it_holds_and_where_it_came_from",
        &[needs::CHROMIUM],
    ) {
        return;
    }
    let image = Image::of_sizes(1, &[8 << 20]);
    let trial = Trial::begin(2, &image).await.expect("starts");
    for agent in 0..2 {
        let pulled = trial.client(agent).pull(REPOSITORY, TAG).await;
        pulled.expect("pulls");
    }

    let agent = trial.cluster.agents[1].addresses().admin;
    let page = browser::see(&format!("http://{agent}/"), SETTLED_AFTER)
        .await
        .expect("opens");
    for part in [
        "✓ ready",
        "tracker answers",
        "came from other agents",
        "Where its bytes came from",
        "What goes over its links",
        "Last requests",
        REPOSITORY,
        "Links",
    ] {
        assert!(
            page.dom.contains(part),
            "no {part:?} on the page: {}",
            page.dom
        );
    }
    assert_eq!(page.complaints, [""; 0], "the page complains");

    let origin = trial.cluster.origin.addresses().admin;
    let page = browser::see(&format!("http://{origin}/"), SETTLED_AFTER)
        .await
        .expect("opens");
    for part in ["✓ ready", "Peers it knows", "Swarms it knows", "upstream"] {
        assert!(page.dom.contains(part), "no {part:?} on the origin's page");
    }
    assert_eq!(page.complaints, [""; 0], "the origin's page complains");
}
