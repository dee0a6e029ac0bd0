//! Decimal numbers in text.

use rust_decimal::Decimal;

/// Parses a decimal number with an optional sign, fraction and exponent. `None` if it has another format, or more digits than a
/// [`Decimal`] can represent.
pub(crate) fn exact(text: &str) -> Option<Decimal> {
    let (is_negative, text) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = || whole.bytes().chain(fraction.bytes());
    if whole.is_empty() && fraction.is_empty() || !digits().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Trailing zeros have no effect, but there may be many.
    let zeros = digits().rev().take_while(|byte| *byte == b'0').count();
    let count = whole.len() + fraction.len() - zeros;
    if count == 0 {
        return Some(Decimal::ZERO);
    }
    let mut number = 0_i128;
    for digit in digits().take(count) {
        number = number.checked_mul(10)?.checked_add(i128::from(digit - b'0'))?;
    }
    let scale = i64::try_from(fraction.len()).ok()? - i64::try_from(zeros).ok()? - i64::from(exponent);
    let (number, scale) = match u32::try_from(scale) {
        Ok(scale) => (number, scale),
        Err(_) => (number.checked_mul(10_i128.checked_pow(u32::try_from(-scale).ok()?)?)?, 0),
    };
    let signed = if is_negative { -number } else { number };
    Decimal::try_from_i128_with_scale(signed, scale).ok()
}
