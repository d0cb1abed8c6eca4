//! Keys and values as text: percent-encoded and base64, both ways, and never guessed at.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

use super::answer::Fault;
use crate::command::MAX_KEY_BYTES;

/// What is not written plain in the keys of JSON: all but RFC 3986's unreserved bytes and the
/// slash, so that such a key can be put behind `/_kv/` as it stands.
const ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// A key in the path: whatever follows what leads to it.
pub(super) fn path_key(raw: &str) -> Result<Cow<'_, [u8]>, Fault> {
    let key = percent_decode(raw)
        .ok_or_else(|| Fault::malformed("a % in the path is not followed by two hex digits"))?;
    check_length(&key, "it is the rest of the path")?;
    Ok(key)
}

/// A key in JSON.
pub(super) fn json_key(raw: &str) -> Result<Cow<'_, [u8]>, Fault> {
    let key = percent_decode(raw).ok_or_else(|| {
        Fault::malformed(format!("a % in the key {raw:?} is not followed by two hex digits"))
    })?;
    check_length(&key, "each operation names one")?;
    Ok(key)
}

fn check_length(key: &[u8], place: &'static str) -> Result<(), Fault> {
    match key.len() {
        0 => Err(Fault::malformed(format!("the key is empty; {place}"))),
        1..=MAX_KEY_BYTES => Ok(()),
        length => Err(Fault::malformed(format!(
            "the key has {length} bytes; keys have 1 to {MAX_KEY_BYTES}"
        ))),
    }
}

/// `None` when a `%` is not followed by two hex digits. Borrows when there is none.
pub(super) fn percent_decode(raw: &str) -> Option<Cow<'_, [u8]>> {
    let raw = raw.as_bytes();
    if !raw.contains(&b'%') {
        return Some(Cow::Borrowed(raw));
    }
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte == b'%' {
            let [high, low, after @ ..] = after else { return None };
            decoded.push(digit(high)? << 4 | digit(low)?);
            rest = after;
        } else {
            decoded.push(*byte);
        }
    }
    Some(Cow::Owned(decoded))
}

/// A key as JSON has it.
pub(crate) fn percent_encode(key: &[u8]) -> String {
    percent_encoding::percent_encode(key, ENCODED).to_string()
}

/// A value as JSON has it.
pub(super) fn encode_value(value: &[u8]) -> String {
    STANDARD.encode(value)
}

/// A value in JSON: base64 of RFC 4648 section 4, padded.
pub(super) fn decode_value(text: &str) -> Result<Bytes, Fault> {
    let decoded = STANDARD.decode(text);
    decoded.map(Bytes::from).map_err(|error| {
        Fault::malformed(format!("a value is not padded base64 (RFC 4648 section 4): {error}"))
    })
}

/// Decimal digits only: no sign, no space.
pub(super) fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients in other languages parse this: each byte has one spelling, and comes back.
    #[test]
    fn each_byte_of_a_key_has_one_spelling() {
        for byte in 0..=u8::MAX {
            let plain = byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
            let expected =
                if plain { char::from(byte).to_string() } else { format!("%{byte:02X}") };
            assert_eq!(percent_encode(&[byte]), expected);
            assert_eq!(*percent_decode(&expected).unwrap(), [byte]);
        }
    }

    /// A value in another alphabet is refused, not taken for another value.
    #[test]
    fn only_padded_base64_is_a_value() {
        assert_eq!(decode_value("").unwrap(), "");
        assert_eq!(decode_value("AP8=").unwrap(), &b"\0\xff"[..]);
        for wrong in ["AP8", "AP-_", "AP9=", "A", "=", "AP8=\n", " AP8="] {
            assert!(decode_value(wrong).is_err(), "{wrong:?}");
        }
    }
}
