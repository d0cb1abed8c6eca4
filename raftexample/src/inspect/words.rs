//! Commands in words, and in JSON.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::command::{Command, Compare, Envelope, Op, Txn};
use crate::httpapi::text::percent_encode;

/// How many bytes of what is not understood are shown.
const PREFIX_BYTES: usize = 16;

/// A command as a person reads it.
pub(super) fn describe(data: &[u8]) -> String {
    match Envelope::decode(&Bytes::copy_from_slice(data)) {
        Ok(Envelope { keyed, command }) => {
            let mut words = describe_command(&command);
            if let Some(keyed) = keyed {
                words += &format!(" idempotency-key={}", quoted(&keyed.idempotency_key));
            }
            words
        }
        Err(error) => format!("a command that cannot be read ({error}), {}", prefix(data)),
    }
}

fn describe_command(command: &Command) -> String {
    let cas = |cas: &Option<u64>| cas.map_or(String::new(), |cas| format!(" cas={cas}"));
    match command {
        Command::Put { key, value, cas: condition } => {
            let value = value.len();
            format!("put key={} value={value} bytes{}", quoted(key), cas(condition))
        }
        Command::Delete { key, cas: condition } => {
            format!("delete key={}{}", quoted(key), cas(condition))
        }
        Command::Txn(txn) => {
            let Txn { compare, then, otherwise } = txn;
            let keys: Vec<_> = keys(txn).map(|key| quoted(key)).collect();
            let (compare, then, otherwise) = (compare.len(), then.len(), otherwise.len());
            format!("txn compare={compare} then={then} else={otherwise} keys={}", keys.join(","))
        }
        Command::Ignorable(op) => format!("operation {op}, which this program passes over"),
    }
}

/// The keys of a txn, in order, each as often as it stands there.
fn keys(txn: &Txn) -> impl Iterator<Item = &Bytes> {
    let compared = txn.compare.iter().map(|Compare { key, .. }| key);
    compared.chain(txn.then.iter().chain(&txn.otherwise).map(|op| match op {
        Op::Put { key, .. } | Op::Delete { key } | Op::Get { key } => key,
    }))
}

/// A command for programs.
pub(super) fn to_json(data: &[u8]) -> Value {
    match Envelope::decode(&Bytes::copy_from_slice(data)) {
        Ok(Envelope { keyed, command }) => {
            let mut object = match &command {
                Command::Put { key, value, cas } => {
                    json!({"op": "put", "key": percent_encode(key), "value_bytes": value.len(),
                        "cas": cas})
                }
                Command::Delete { key, cas } => {
                    json!({"op": "delete", "key": percent_encode(key), "cas": cas})
                }
                Command::Txn(txn) => {
                    let keys: Vec<_> = keys(txn).map(|key| percent_encode(key)).collect();
                    json!({"op": "txn", "compare": txn.compare.len(), "then": txn.then.len(),
                        "else": txn.otherwise.len(), "keys": keys})
                }
                Command::Ignorable(op) => json!({"op": "ignorable", "code": op}),
            };
            let key = keyed.map(|keyed| percent_encode(&keyed.idempotency_key));
            object["idempotency_key"] = json!(key);
            object
        }
        Err(error) => json!({"op": "unknown", "why": error.to_string(), "prefix": hex(data)}),
    }
}

/// The length and the first bytes of what is not understood.
pub(super) fn prefix(bytes: &[u8]) -> String {
    let more = if bytes.len() > PREFIX_BYTES { "..." } else { "" };
    format!("{} bytes {}{more}", bytes.len(), hex(bytes))
}

/// The first bytes.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(PREFIX_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{self, Conditions, Test};

    /// What a person reads and what a program reads are of the same command.
    #[test]
    fn every_command_is_described() {
        let put = |conditions: &Conditions<'_>| {
            let mut put = command::begin_put(conditions, b"a \"b\"\n", 3);
            put.extend_from_slice(b"xyz");
            put.freeze()
        };
        let txn = Txn {
            compare: vec![Compare { key: "c".into(), test: Test::Absent }],
            then: vec![Op::Put { key: "d".into(), value: "v".into() }],
            otherwise: Vec::new(),
        };
        let keyed = Conditions { idempotency_key: Some(b"order-7"), cas: Some(4) };
        let table = [
            (put(&Conditions::default()), r#"put key="a \"b\"\n" value=3 bytes"#, "put"),
            (
                put(&keyed),
                r#"put key="a \"b\"\n" value=3 bytes cas=4 idempotency-key="order-7""#,
                "put",
            ),
            (command::delete(&Conditions::default(), b"k"), r#"delete key="k""#, "delete"),
            (
                command::txn(None, &txn).unwrap(),
                r#"txn compare=1 then=1 else=0 keys="c","d""#,
                "txn",
            ),
            (
                [1, 0x81].to_vec().into(),
                "operation 129, which this program passes over",
                "ignorable",
            ),
            (
                [9; 20].to_vec().into(),
                "a command that cannot be read (it has version 9; this program knows 1), \
                 20 bytes 09090909090909090909090909090909...",
                "unknown",
            ),
        ];
        for (data, expected, op) in table {
            assert_eq!(describe(&data), expected);
            assert_eq!(to_json(&data)["op"], op);
        }
    }
}
