//! Who does something, and why: what commands record that change something.

use clap::Args;

use crate::exit::Usage;

/// Where the name of the person at the keyboard is looked for, in this order: `sudo` keeps it in the first.
const VARIABLES: [&str; 2] = ["SUDO_USER", "USER"];

/// What is recorded when nobody is named and none can be found out.
const UNKNOWN: &str = "unknown";

/// Who does it.
#[derive(Clone, Debug, Default, Args)]
pub struct By {
    /// Who does it; recorded [default: $SUDO_USER, $USER, or the login name]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

impl By {
    /// The name that is recorded.
    ///
    /// # Errors
    /// When `--by` was given and is empty.
    pub fn name(self) -> Result<String, Usage> {
        match self.by {
            Some(by) if by.trim().is_empty() => Err(Usage("--by is empty".to_owned())),
            Some(by) => Ok(by),
            None => Ok(found(variable, || whoami::username().ok())),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the person at the keyboard is no setting")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The first name that there is.
fn found(variable: impl Fn(&str) -> Option<String>, login: impl Fn() -> Option<String>) -> String {
    let is_name = |name: &String| !name.trim().is_empty();
    let named = VARIABLES.iter().find_map(|name| variable(name).filter(is_name));
    named.or_else(|| login().filter(is_name)).unwrap_or_else(|| UNKNOWN.to_owned())
}

/// Why it is done.
#[derive(Clone, Debug, Default, Args)]
pub struct Reason {
    /// Why it is done; recorded. Needed with --apply
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl Reason {
    /// The reason of a dry run, which needs none.
    #[must_use]
    pub fn of_dry_run(self) -> String {
        self.reason.unwrap_or_else(|| "dry run".to_owned())
    }

    /// The reason that is recorded.
    ///
    /// # Errors
    /// When it is missing or empty.
    pub fn needed(self) -> Result<String, Usage> {
        let reason = self.reason.filter(|reason| !reason.trim().is_empty());
        reason.ok_or_else(|| Usage("--apply needs --reason: why it is done, for the record".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_is_recorded_whatever_the_environment_lacks() {
        let login = || Some("login".to_owned());
        let both = |name: &str| Some(name.to_lowercase());
        assert_eq!(found(both, login), "sudo_user");
        assert_eq!(found(|name| both(name).filter(|_| name == "USER"), login), "user");
        assert_eq!(found(|_| Some(" ".to_owned()), login), "login");
        assert_eq!(found(|_| None, || None), "unknown");
        assert_eq!(By { by: Some("ada".to_owned()) }.name().unwrap(), "ada");
        assert!(By { by: Some(" ".to_owned()) }.name().is_err());
    }

    #[test]
    fn a_reason_that_says_nothing_is_none() {
        assert_eq!(Reason { reason: Some("a fix".to_owned()) }.needed().unwrap(), "a fix");
        assert!(Reason { reason: Some(" ".to_owned()) }.needed().is_err());
        assert!(Reason::default().needed().is_err());
    }
}
