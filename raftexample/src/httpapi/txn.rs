//! `POST /_txn`: comparisons, and what is done in one entry when they hold, or when they do not.
//!
//! ```json
//! {"compare": [{"key": "a", "mod_index": 7}, {"key": "b", "value": "djE="},
//!              {"key": "c", "absent": true}],
//!  "then":    [{"op": "put", "key": "a", "value": "djI="}, {"op": "delete", "key": "b"}],
//!  "else":    [{"op": "get", "key": "a"}]}
//! ```
//!
//! Keys are percent-encoded, values base64. What is not understood is refused, field by field: a
//! misspelt comparison must not become none.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use hyper::StatusCode;
use raftnode::MAX_ENTRY_BYTES;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::answer::{self, Answer, Fault};
use super::intake::RequestBody;
use super::kind::Kind;
use super::route::Ack;
use super::server::Line;
use super::{Api, text};
use crate::command::{self, Compare, MAX_TXN_OPERATIONS, Op, Test, Txn};
use crate::kvstore::{TxnAnswer, TxnResult};

/// How large the JSON may be. A command's bytes are at most three times as many when all of its
/// keys are percent-encoded (values grow by a third), and what stands around a key and a value
/// takes less than 128 bytes in each of the three lists' places, spaces included.
pub(super) const MAX_BYTES: u64 = 3 * MAX_ENTRY_BYTES + 3 * MAX_TXN_OPERATIONS as u64 * 128;

impl Api {
    pub(super) async fn txn(
        &self,
        idempotency_key: Option<&[u8]>,
        ack: Ack,
        body: &mut RequestBody,
        line: &Line,
        deadline: Instant,
    ) -> Result<Answer, Fault> {
        let share = self.admit_write(body, MAX_BYTES)?;
        let json = body.read(MAX_BYTES, BytesMut::with_capacity, deadline).await?;
        let txn = parse(&json, self.max_value_bytes)?;
        drop(json);
        let command = command::txn(idempotency_key, &txn)
            .map_err(|error| Fault::new(Kind::TooLarge, error.to_string()))?;
        drop(txn);
        let pending = self.propose(command, ack, deadline)?;
        drop(share);
        self.written(pending, ack, line, deadline).await
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTxn<'a> {
    #[serde(borrow, default)]
    compare: List<RawCompare<'a>>,
    #[serde(borrow, default)]
    then: List<RawOp<'a>>,
    #[serde(borrow, default, rename = "else")]
    otherwise: List<RawOp<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCompare<'a> {
    #[serde(borrow)]
    key: Text<'a>,
    #[serde(default, deserialize_with = "present")]
    mod_index: Option<u64>,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<Text<'a>>,
    #[serde(default, deserialize_with = "present")]
    absent: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOp<'a> {
    op: OpName,
    #[serde(borrow)]
    key: Text<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<Text<'a>>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum OpName {
    Put,
    Delete,
    Get,
}

/// A string, in the body's own memory unless it has escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A field that is there has a value; null is none.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// What is written as a JSON object, and not as an array of its fields' values, which serde takes
/// as well.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Fields(PhantomData))
    }
}

/// At most [`MAX_TXN_OPERATIONS`] objects. Reading ends with the first one too many: a body has
/// room for some hundred thousand, and there is one thread for all clients.
struct List<T>(Vec<Object<T>>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = List<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<List<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = sequence.next_element()? {
                    if entries.len() == MAX_TXN_OPERATIONS {
                        let message = format!("a list has at most {MAX_TXN_OPERATIONS} entries");
                        return Err(A::Error::custom(message));
                    }
                    entries.push(entry);
                }
                Ok(List(entries))
            }
        }
        deserializer.deserialize_seq(Entries(PhantomData))
    }
}

fn parse(json: &Bytes, max_value_bytes: u64) -> Result<Txn, Fault> {
    let Object(raw): Object<RawTxn<'_>> = serde_json::from_slice(json)
        .map_err(|error| Fault::malformed(format!("the body is not as expected: {error}")))?;
    let ops = |List(ops): List<RawOp<'_>>| -> Result<Vec<Op>, Fault> {
        ops.into_iter().map(|Object(raw)| op(&raw, max_value_bytes)).collect()
    };
    Ok(Txn {
        compare: raw
            .compare
            .0
            .into_iter()
            .map(|Object(raw)| compare(&raw, max_value_bytes))
            .collect::<Result<_, _>>()?,
        then: ops(raw.then)?,
        otherwise: ops(raw.otherwise)?,
    })
}

fn compare(raw: &RawCompare<'_>, max_value_bytes: u64) -> Result<Compare, Fault> {
    let test = match (raw.mod_index, &raw.value, raw.absent) {
        (Some(mod_index), None, None) => Test::ModIndex(mod_index),
        (None, Some(text), None) => Test::Value(value(text, max_value_bytes)?),
        (None, None, Some(true)) => Test::Absent,
        (None, None, Some(false)) => {
            return Err(Fault::malformed("\"absent\" is true or not there at all"));
        }
        _ => {
            let message = "a comparison has exactly one of \"mod_index\", \"value\", \"absent\"";
            return Err(Fault::malformed(message));
        }
    };
    Ok(Compare { key: key(&raw.key)?, test })
}

fn op(raw: &RawOp<'_>, max_value_bytes: u64) -> Result<Op, Fault> {
    let key = key(&raw.key)?;
    match (raw.op, &raw.value) {
        (OpName::Put, Some(text)) => Ok(Op::Put { key, value: value(text, max_value_bytes)? }),
        (OpName::Put, None) => Err(Fault::malformed("a put has a \"value\"")),
        (OpName::Delete, None) => Ok(Op::Delete { key }),
        (OpName::Get, None) => Ok(Op::Get { key }),
        (OpName::Delete | OpName::Get, Some(_)) => {
            Err(Fault::malformed("only a put has a \"value\""))
        }
    }
}

fn key(Text(raw): &Text<'_>) -> Result<Bytes, Fault> {
    text::json_key(raw).map(|key| Bytes::from(key.into_owned()))
}

fn value(Text(raw): &Text<'_>, max_value_bytes: u64) -> Result<Bytes, Fault> {
    let value = text::decode_value(raw)?;
    if value.len() as u64 > max_value_bytes {
        let message = format!("a value has {} bytes, at most {max_value_bytes}", value.len());
        return Err(Fault::new(Kind::TooLarge, message));
    }
    Ok(value)
}

#[derive(Serialize)]
struct Results {
    succeeded: bool,
    results: Vec<OpResult>,
}

#[derive(Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum OpResult {
    Put,
    Delete {
        existed: bool,
    },
    Get {
        found: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        value: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        mod_index: Option<u64>,
    },
}

/// What a txn did, as its proposer reads it.
pub(super) fn results(answer: TxnAnswer) -> Answer {
    let TxnAnswer { succeeded, results } = answer;
    let results = results.into_iter().map(|result| match result {
        TxnResult::Put => OpResult::Put,
        TxnResult::Deleted { existed } => OpResult::Delete { existed },
        TxnResult::Got(None) => OpResult::Get { found: false, value: None, mod_index: None },
        TxnResult::Got(Some(value)) => OpResult::Get {
            found: true,
            value: Some(text::encode_value(&value.bytes)),
            mod_index: Some(value.mod_index),
        },
    });
    answer::json(StatusCode::OK, &Results { succeeded, results: results.collect() })
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(json: &str) -> Result<Txn, Fault> {
        parse(&Bytes::copy_from_slice(json.as_bytes()), 8)
    }

    /// Every part of a txn, in each of its spellings.
    #[test]
    fn a_txn_is_what_its_json_says() {
        let b = Bytes::from_static;
        assert_eq!(parsed("{}").unwrap(), Txn::default());
        let json = r#" {"else": [{"key": "%00%fF", "op": "get"}],
            "compare": [{"key": "a/b", "mod_index": 18446744073709551615},
                        {"value": "", "key": "\u0061"}, {"absent": true, "key": "c%2Fd"}],
            "then": [{"op": "put", "key": "k", "value": "AP8="}, {"op": "delete", "key": "+"}]}"#;
        let expected = Txn {
            compare: vec![
                Compare { key: b(b"a/b"), test: Test::ModIndex(u64::MAX) },
                Compare { key: b(b"a"), test: Test::Value(b(b"")) },
                Compare { key: b(b"c/d"), test: Test::Absent },
            ],
            then: vec![Op::Put { key: b(b"k"), value: b(b"\0\xff") }, Op::Delete { key: b(b"+") }],
            otherwise: vec![Op::Get { key: b(b"\0\xff") }],
        };
        assert_eq!(parsed(json).unwrap(), expected);
    }

    /// What is not understood is refused, and its sender hears what it was.
    #[test]
    fn what_is_no_txn_is_refused() {
        let table = [
            ("", 400, "EOF"),
            ("null", 400, "object"),
            ("[]", 400, "object"),
            ("[[],[],[]]", 400, "object"),
            ("{}{}", 400, "trailing"),
            ("\u{feff}{}", 400, "expected"),
            (r#"{"Compare":[]}"#, 400, "Compare"),
            (r#"{"then":null}"#, 400, "null"),
            (r#"{"then":{}}"#, 400, "map"),
            (r#"{"then":[],"then":[]}"#, 400, "duplicate"),
            (r#"{"then":[null]}"#, 400, "object"),
            (r#"{"then":[["put","k",""]]}"#, 400, "object"),
            (r#"{"then":[{"key":"k"}]}"#, 400, "op"),
            (r#"{"then":[{"op":"get"}]}"#, 400, "key"),
            (r#"{"then":[{"op":"cas","key":"k"}]}"#, 400, "cas"),
            (r#"{"then":[{"op":"PUT","key":"k","value":""}]}"#, 400, "PUT"),
            (r#"{"then":[{"op":"put","key":"k"}]}"#, 400, "value"),
            (r#"{"then":[{"op":"put","key":"k","value":null}]}"#, 400, "null"),
            (r#"{"then":[{"op":"put","key":"k","value":1}]}"#, 400, "integer"),
            (r#"{"then":[{"op":"put","key":"k","value":"x"}]}"#, 400, "base64"),
            (r#"{"then":[{"op":"put","key":"k","value":"AP8"}]}"#, 400, "base64"),
            (r#"{"then":[{"op":"put","key":"k","value":"AAAAAAAAAAAA"}]}"#, 413, "9 bytes"),
            (r#"{"then":[{"op":"get","key":"k","value":""}]}"#, 400, "only a put"),
            (r#"{"then":[{"op":"get","key":"k","extra":1}]}"#, 400, "extra"),
            (r#"{"then":[{"op":"get","key":"k","key":"k"}]}"#, 400, "duplicate"),
            (r#"{"then":[{"op":"get","key":""}]}"#, 400, "empty"),
            (r#"{"then":[{"op":"get","key":"%"}]}"#, 400, "hex"),
            (r#"{"then":[{"op":"get","key":"%4x"}]}"#, 400, "hex"),
            (r#"{"else":[{"op":"get","key":7}]}"#, 400, "string"),
            (r#"{"compare":[{"key":"k"}]}"#, 400, "exactly one"),
            (r#"{"compare":[{"key":"k","mod_index":1,"absent":true}]}"#, 400, "exactly one"),
            (r#"{"compare":[{"key":"k","mod_index":null,"absent":true}]}"#, 400, "null"),
            (r#"{"compare":[{"key":"k","absent":false}]}"#, 400, "absent"),
            (r#"{"compare":[{"key":"k","absent":1}]}"#, 400, "boolean"),
            (r#"{"compare":[{"key":"k","mod_index":-1}]}"#, 400, "u64"),
            (r#"{"compare":[{"key":"k","mod_index":1.5}]}"#, 400, "u64"),
            (r#"{"compare":[{"key":"k","mod_index":"1"}]}"#, 400, "u64"),
            (r#"{"compare":[{"key":"k","mod_index":18446744073709551616}]}"#, 400, "u64"),
            (r#"{"compare":[{"key":"k","value":"?"}]}"#, 400, "base64"),
            (r#"{"compare":[{"key":"k","value":"AAAAAAAAAAAA"}]}"#, 413, "9 bytes"),
            (r#"{"compare":[{"key":"k","version":1}]}"#, 400, "version"),
            (r#"{"compare":[{"mod_index":1}]}"#, 400, "key"),
        ];
        for (json, status, message) in table {
            let fault = parsed(json).unwrap_err();
            assert_eq!(fault.kind().status(), status, "{json}");
            assert!(fault.message().contains(message), "{json}: {}", fault.message());
        }
        let key = format!(r#"{{"then":[{{"op":"get","key":"{}"}}]}}"#, "k".repeat(4097));
        assert!(parsed(&key).unwrap_err().message().contains("4096"));
    }

    /// The bound is on each list, and its refusal says it.
    #[test]
    fn each_list_has_at_most_128_entries() {
        let table = [
            ("compare", r#"{"key":"k","absent":true}"#),
            ("then", r#"{"op":"get","key":"k"}"#),
            ("else", r#"{"op":"get","key":"k"}"#),
        ];
        for (name, entry) in table {
            let json = |n| format!(r#"{{"{name}":[{}]}}"#, vec![entry; n].join(","));
            assert!(parsed(&json(128)).is_ok(), "{name}");
            let fault = parsed(&json(129)).unwrap_err();
            assert!(fault.message().contains("128"), "{name}: {}", fault.message());
        }
    }

    /// The largest command that fits an entry fits a body in its longest sensible spelling:
    /// every byte of every key encoded, as long as all of it is keys.
    #[test]
    fn the_largest_command_fits_a_body() {
        let key = "%ff".repeat(4096);
        let op = |key: &str| format!(r#"{{ "op": "put", "key": "{key}", "value": "" }}, "#).len();
        let compare = |key: &str| {
            format!(r#"{{ "key": "{key}", "mod_index": 18446744073709551615 }}, "#).len()
        };
        let longest = MAX_TXN_OPERATIONS * (2 * op(&key) + compare(&key));
        assert!(longest as u64 <= MAX_BYTES, "{longest} is over {MAX_BYTES}");
    }
}
