//! Which repositories are meant: names with `*` in them.
//!
//! Not for: checking that a name is one.

/// A repository's name, in which `*` stands for anything.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RepositoryPattern(String);

impl RepositoryPattern {
    /// A pattern as it is written.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Whether a repository is meant.
    #[must_use]
    pub fn matches(&self, repository: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = repository.strip_prefix(first) else {
            return false;
        };
        let mut last = None;
        for part in parts {
            if let Some(middle) = last.replace(part) {
                let Some(at) = rest.find(middle) else {
                    return false;
                };
                rest = &rest[at + middle.len()..];
            }
        }
        match last {
            None => rest.is_empty(),
            Some(tail) => rest.ends_with(tail),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        let cases = [
            ("team/app", "team/app", true),
            ("team/app", "team/app2", false),
            ("team/*", "team/app", true),
            ("team/*", "other/team/app", false),
            ("*", "anything/at/all", true),
            ("*/app", "team/app", true),
            ("team/*/app", "team/a/b/app", true),
            ("team/*/app", "team/app", false),
            ("a*a", "a", false),
            ("", "", true),
        ];
        for (pattern, repository, expected) in cases {
            assert_eq!(
                RepositoryPattern(pattern.into()).matches(repository),
                expected,
                "{pattern} {repository}"
            );
        }
    }
}
