//! How a run was asked for: its command line, and every option of it with its default.
//!
//! Read off the argument parser itself, so that no option is forgotten when one is added.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use clap::CommandFactory as _;

/// The words of this process's command line; the program by its bare name.
pub(super) fn command() -> Vec<String> {
    let mut words: Vec<String> = std::env::args_os()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    if let Some(program) = words.first_mut() {
        let name = Path::new(program.as_str()).file_name();
        *program = name.map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    }
    words
}

/// Every option of this process's subcommand. Empty where the command line is not ours, as in a test.
pub(super) fn of_this_process() -> BTreeMap<String, String> {
    of(std::env::args_os().collect())
}

fn of(words: Vec<OsString>) -> BTreeMap<String, String> {
    let command = crate::Args::command();
    let Ok(matches) = command.clone().try_get_matches_from(words) else {
        return BTreeMap::new();
    };
    let Some((name, chosen)) = matches.subcommand() else {
        return BTreeMap::new();
    };
    let options = command
        .find_subcommand(name)
        .into_iter()
        .flat_map(clap::Command::get_arguments);
    let value = |id: &str| {
        let values = chosen.try_get_raw(id).ok()??;
        let words: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        Some(words.join(", "))
    };
    options
        .map(|option| option.get_id().as_str())
        .filter(|id| !matches!(*id, "json" | "report" | "help" | "version"))
        .filter_map(|id| Some((id.replace('_', "-"), value(id)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_hold_what_was_given_and_what_was_not() {
        let words = "shoal-loadtest simulate --agents 8 --zones 2 --json out.json";
        let settings = of(words.split(' ').map(OsString::from).collect());
        assert_eq!(settings["agents"], "8");
        assert_eq!(settings["zones"], "2");
        assert_eq!(settings["link"], "10gbit", "a default");
        assert!(
            !settings.contains_key("json"),
            "where it goes is no setting"
        );
        assert!(!settings.contains_key("upstream"), "not given, no default");
        assert_eq!(of(vec!["a test's own".into(), "--words".into()]).len(), 0);
    }
}
