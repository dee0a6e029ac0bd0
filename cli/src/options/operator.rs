//! Who runs a command and why, as commands that change data record it.

use clap::Args;

use crate::exit::UsageError;

/// Environment variables with the operator's name, in the order in which they are tried: `sudo` keeps it in the first.
const VARIABLES: [&str; 2] = ["SUDO_USER", "USER"];

/// The name that is recorded when none is given or found.
const UNKNOWN: &str = "unknown";

/// The operator.
#[derive(Clone, Debug, Default, Args)]
pub struct Operator {
    /// Who runs the command, for the record [default: $SUDO_USER, $USER or the login name]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

impl Operator {
    /// The name that is recorded.
    ///
    /// # Errors
    /// When `--by` is given and empty.
    pub fn name(self) -> Result<String, UsageError> {
        match self.by {
            Some(by) if by.trim().is_empty() => Err(UsageError("--by is empty".to_owned())),
            Some(by) => Ok(by),
            None => Ok(default_name(variable, || whoami::username().ok())),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the operator's name is not a setting")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn default_name(variable: impl Fn(&str) -> Option<String>, login: impl Fn() -> Option<String>) -> String {
    let is_name = |name: &String| !name.trim().is_empty();
    let from_variable = VARIABLES.iter().find_map(|name| variable(name).filter(is_name));
    from_variable.or_else(|| login().filter(is_name)).unwrap_or_else(|| UNKNOWN.to_owned())
}

/// The reason for a change.
#[derive(Clone, Debug, Default, Args)]
pub struct Reason {
    /// Why, for the record; required with --apply
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl Reason {
    /// The reason of a run that applies its changes, or of a dry run, which needs none.
    ///
    /// # Errors
    /// When changes are applied and the reason is missing or empty.
    pub fn of_run(self, apply: bool) -> Result<String, UsageError> {
        if apply { self.required() } else { Ok(self.reason.unwrap_or_else(|| "dry run".to_owned())) }
    }

    /// The reason that is recorded.
    ///
    /// # Errors
    /// When it is missing or empty.
    pub fn required(self) -> Result<String, UsageError> {
        let reason = self.reason.filter(|reason| !reason.trim().is_empty());
        reason.ok_or_else(|| UsageError("--apply requires --reason, which is recorded".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_recorded_even_if_the_environment_has_none() {
        let login = || Some("login".to_owned());
        let both = |name: &str| Some(name.to_lowercase());
        assert_eq!(default_name(both, login), "sudo_user");
        assert_eq!(default_name(|name| both(name).filter(|_| name == "USER"), login), "user");
        assert_eq!(default_name(|_| Some(" ".to_owned()), login), "login");
        assert_eq!(default_name(|_| None, || None), "unknown");
        assert_eq!(Operator { by: Some("ada".to_owned()) }.name().unwrap(), "ada");
        assert!(Operator { by: Some(" ".to_owned()) }.name().is_err());
    }

    #[test]
    fn an_empty_reason_is_rejected() {
        assert_eq!(Reason { reason: Some("a fix".to_owned()) }.required().unwrap(), "a fix");
        assert!(Reason { reason: Some(" ".to_owned()) }.required().is_err());
        assert!(Reason::default().required().is_err());
        assert!(Reason::default().of_run(true).is_err());
        assert_eq!(Reason::default().of_run(false).unwrap(), "dry run");
    }
}
