//! Parsing and comparison of credentials. No I/O and no clock.

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The credentials after the scheme of an `Authorization` header: a single token.
pub(crate) fn scheme<'a>(value: &'a str, scheme: &str) -> Option<&'a str> {
    let (name, rest) = value.trim().split_once(' ')?;
    let rest = rest.trim_start();
    (name.eq_ignore_ascii_case(scheme) && !rest.is_empty() && !rest.contains(' ')).then_some(rest)
}

/// User name and password of an `Authorization` header with basic authentication.
pub(crate) fn basic(value: &str) -> Option<(String, String)> {
    let decoded = BASE64.decode(scheme(value, "basic")?).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (username, password) = text.split_once(':')?;
    Some((username.to_owned(), password.to_owned()))
}
