//! Amounts of money and quantities: exact, or an error.

use std::borrow::Cow;

use rust_decimal::Decimal;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, de::Deserializer};
use serde_json::value::RawValue;

use crate::{
    decimal::exact,
    oddity::Oddity,
    text::{Str, bounded},
};

use super::{Notes, Wire, scalar::documented_as};

/// Maximum number of characters of an invalid number in an error message.
const SHOWN_CHARS_MAX: usize = 40;

/// An exact decimal number, never converted through a binary float. A number that cannot be represented exactly is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Money(Result<Decimal, String>);

impl Money {
    /// # Errors
    /// When there is a value and it is not a valid amount.
    pub(crate) fn amount(money: Option<Self>) -> Result<Option<Decimal>, String> {
        money.map(|money| money.0).transpose()
    }
}

impl<'de> Wire<'de> for Money {
    const IS_STRICT: bool = true;

    fn read<D: Deserializer<'de>>(value: D, notes: &Notes) -> Result<Option<Self>, D::Error> {
        Ok(digits(value, notes)?.map(|digits| {
            Self(
                exact(&digits)
                    .ok_or_else(|| format!("`{}` is not an amount that can be represented exactly", shown(digits))),
            )
        }))
    }
}

/// A quantity: a whole number from 0 to [`Quantity::MAX`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quantity(Result<i64, String>);

impl Quantity {
    /// Maximum quantity of a line.
    pub(crate) const MAX: i64 = 1_000_000_000;

    /// # Errors
    /// When there is a value and it is not a valid quantity.
    pub(crate) fn units(quantity: Option<Self>) -> Result<Option<i64>, String> {
        quantity.map(|quantity| quantity.0).transpose()
    }
}

impl<'de> Wire<'de> for Quantity {
    const IS_STRICT: bool = true;

    fn read<D: Deserializer<'de>>(value: D, notes: &Notes) -> Result<Option<Self>, D::Error> {
        Ok(digits(value, notes)?.map(|digits| {
            let units =
                exact(&digits).filter(|number| number.scale() == 0).and_then(|number| i64::try_from(number).ok());
            let units = units.filter(|units| (0..=Self::MAX).contains(units));
            Self(units.ok_or_else(|| format!("`{}` is not a valid quantity", shown(digits))))
        }))
    }
}

/// The digits of a number, or of a string that should be one. `null` and strings of white space count as absent.
fn digits<'de, D: Deserializer<'de>>(value: D, notes: &Notes) -> Result<Option<Cow<'de, str>>, D::Error> {
    let raw = <&'de RawValue>::deserialize(value)?.get();
    if raw == "null" {
        return Ok(None);
    }
    if !raw.starts_with('"') {
        return Ok(Some(raw.into()));
    }
    // A string that cannot be decoded is not a number.
    let Ok(Str(text)) = serde_json::from_str::<Str<'de>>(raw) else { return Ok(Some(raw.into())) };
    let trimmed = text.trim();
    if trimmed.len() < text.len() || text.is_empty() {
        notes.add(Oddity::Kind);
        return Ok((!trimmed.is_empty()).then(|| trimmed.to_owned().into()));
    }
    Ok(Some(text))
}

fn shown(text: Cow<'_, str>) -> Cow<'_, str> {
    bounded(text, SHOWN_CHARS_MAX)
}

documented_as!(Money, { "type": ["number", "string"], "pattern": "^-?[0-9.eE+-]+$" });
documented_as!(Quantity, { "type": ["integer", "string"], "minimum": 0, "maximum": 1_000_000_000, "pattern": "^[0-9]" });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_parsed_exactly_or_not_at_all() {
        for (text, expected) in [
            ("27.10", "27.1"),
            ("-0.05", "-0.05"),
            ("+3", "3"),
            (".5", "0.5"),
            ("5.", "5"),
            ("1.5e1", "15"),
            ("15E-1", "1.5"),
            ("0e999999999", "0"),
            ("-0.00", "0"),
            ("100", "100"),
            ("53.769999999999996", "53.769999999999996"),
            ("1.0000000000000000000000000000000000000000", "1"),
            ("1000000000000000000000000000000e-30", "1"),
            ("79228162514264337593543950335", "79228162514264337593543950335"),
            ("1e-28", "0.0000000000000000000000000001"),
        ] {
            assert_eq!(exact(text).unwrap().to_string(), expected, "{text}");
        }
        for text in [
            "",
            "-",
            ".",
            "e5",
            "1e",
            "1_000",
            "1,000.00",
            "1 000",
            "27.01 EUR",
            "a lot",
            "NaN",
            "inf",
            "0x10",
            "--1",
            "1e400",
            "1e99999999999",
            "1e-29",
            "79228162514264337593543950336",
            "1.23456789012345678901234567890123e0",
            "123456789012345678901234567890.5",
            "\u{661}",
        ] {
            assert_eq!(exact(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_printed_decimal_is_parsed_to_itself(mantissa in -(1_i128 << 95)..(1_i128 << 95), scale in 0_u32..=28) {
            let number = Decimal::try_from_i128_with_scale(mantissa, scale).unwrap();
            proptest::prop_assert_eq!(exact(&number.to_string()), Some(number));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[-+0-9.eE_ ]{0,60}") {
            let _ = exact(&text);
        }
    }
}
