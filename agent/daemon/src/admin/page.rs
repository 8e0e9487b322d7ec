//! The status as a page: one self-contained document that fetches `/status` and shows it as tables.
//!
//! No asset from elsewhere: it works on a node without a way out. Values are set as text, never as markup.

const PAGE: &str = include_str!("page.html");

/// The page of process `name`.
pub(super) fn html(name: &str) -> String {
    PAGE.replace("{{name}}", name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let html = html("shoal-agent");
        assert!(html.contains("<title>shoal-agent</title>"));
        assert!(!html.contains("{{"));
        for outside in ["http://", "https://", "src=", "@import", "innerHTML"] {
            assert!(!html.contains(outside), "the page uses {outside}");
        }
    }
}
