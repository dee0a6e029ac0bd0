//! Names of endpoints, secrets and clients.

/// Label value for requests that match no endpoint; no endpoint may have this name.
pub const NO_ENDPOINT: &str = "none";

/// Longest name of an endpoint or a secret, in characters; names are labels of metrics.
pub(super) const NAME_CHARS_MAX: usize = 64;

pub(crate) fn is_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
    !name.is_empty() && name.len() <= NAME_CHARS_MAX && name.chars().all(legal)
}

pub(crate) fn name_reason(name: &str) -> String {
    format!("`{name}` must be 1 to {NAME_CHARS_MAX} lower-case letters, digits, `-` and `_`, and not `{NO_ENDPOINT}`")
}
