//! What a proposal says. Commands are replicated and kept: their bytes are a format.
//!
//! ```text
//!  0         1        2            4
//!  ├ version ┼─ op ───┼─ ...
//!      1
//!  op                          4                4 + key len
//!  1  put         ├─ key len ──┼─ key ──────────┼─ value ... ┤
//!  2  cas put     ├─ key len ──┼─ mod index u64 ┼─ key ──────┼─ value ... ┤
//!  3  delete      ├─ key len ──┼─ key ──────────┤
//!  4  cas delete  ├─ key len ──┼─ mod index u64 ┼─ key ──────┤
//!  5  txn         ├─ compares u8 ┼─ thens u8 ┼─ elses u8 ┼─ compare ... ┼─ then ... ┼─ else ... ┤
//!  6  keyed       ├─ id len u8 ──┼─ idempotency key ──┼─ another command, version and all ... ┤
//!
//!  compare  ├ 1 = mod index ┼─ key len ──┼─ mod index u64 ──┼─ key ─┤
//!           ├ 2 = value ────┼─ key len ──┼─ value len u32 ──┼─ key ─┼─ value ─┤
//!           ├ 3 = absent ───┼─ key len ──┼─ key ─┤
//!  then,    ├ 1 = put ──────┼─ key len ──┼─ value len u32 ──┼─ key ─┼─ value ─┤
//!  else     ├ 2 = delete ───┼─ key len ──┼─ key ─┤
//!           ├ 3 = get ──────┼─ key len ──┼─ key ─┤
//! ```
//!
//! All numbers are little endian; a key length is a u16 from 1 to 4,096. A value without a length
//! is the rest. Nothing follows the others.
//!
//! A command that cannot be read is never skipped: members that disagree about what an entry
//! means would diverge, so a member that does not understand one must stop. The exception says so
//! itself: an operation with the bit [`IGNORABLE`] changes nothing in the store of those that do
//! know it, and is passed over by the others. It cannot be keyed, since its answer is not the same
//! everywhere.

use bytes::{BufMut, Bytes, BytesMut};
use raftnode::MAX_ENTRY_BYTES;

/// The longest key in bytes. Fits the length field, and keeps a key within one request line.
pub const MAX_KEY_BYTES: usize = 4096;

/// The longest idempotency key in bytes: enough for any identifier, and what a table of many of
/// them can afford.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 128;

/// The most compares, thens and elses of a txn, each.
pub const MAX_TXN_OPERATIONS: usize = 128;

/// The bit of an operation's byte that lets a member which does not know it go on.
pub const IGNORABLE: u8 = 0x80;

/// What a put, or a delete, needs besides its value, at most.
pub const MAX_OVERHEAD_BYTES: usize =
    KEYED_BYTES + MAX_IDEMPOTENCY_KEY_BYTES + HEADER_BYTES + CAS_BYTES + MAX_KEY_BYTES;

const HEADER_BYTES: usize = 4;
const CAS_BYTES: usize = 8;
const KEYED_BYTES: usize = 3;

const VERSION: u8 = 1;

const PUT: u8 = 1;
const CAS_PUT: u8 = 2;
const DELETE: u8 = 3;
const CAS_DELETE: u8 = 4;
const TXN: u8 = 5;
const KEYED: u8 = 6;

const COMPARE_MOD_INDEX: u8 = 1;
const COMPARE_VALUE: u8 = 2;
const COMPARE_ABSENT: u8 = 3;

const OP_PUT: u8 = 1;
const OP_DELETE: u8 = 2;
const OP_GET: u8 = 3;

/// What an entry of the log says. Its parts share the entry's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Present when a repetition is to be recognised.
    pub keyed: Option<Keyed>,
    /// What to do.
    pub command: Command,
}

/// What makes a command recognisable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyed {
    /// The proposer's name for it, 1 to [`MAX_IDEMPOTENCY_KEY_BYTES`] bytes.
    pub idempotency_key: Bytes,
    /// The bytes of the command itself: another command under the same name has others.
    pub command_bytes: Bytes,
}

/// A change to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Sets a key.
    Put {
        /// The key, 1 to [`MAX_KEY_BYTES`] bytes.
        key: Bytes,
        /// The value, possibly empty.
        value: Bytes,
        /// The mod index that the key must have; 0: it must not exist.
        cas: Option<u64>,
    },
    /// Removes a key.
    Delete {
        /// The key, 1 to [`MAX_KEY_BYTES`] bytes.
        key: Bytes,
        /// The mod index that the key must have; 0: it must not exist.
        cas: Option<u64>,
    },
    /// Compares, then does one thing or the other.
    Txn(Txn),
    /// Nothing that this program knows of. Its operation has the bit [`IGNORABLE`].
    Ignorable(u8),
}

/// Compares, and what follows, as one change: all of it or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    /// Every one must hold for `then`. None: they do.
    pub compare: Vec<Compare>,
    /// What is done, in order, when all compares hold.
    pub then: Vec<Op>,
    /// What is done, in order, when one does not.
    pub otherwise: Vec<Op>,
}

/// A condition on one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// The key, 1 to [`MAX_KEY_BYTES`] bytes.
    pub key: Bytes,
    /// What is to hold of it.
    pub test: Test,
}

/// What is to hold of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// It was last put at this index; 0: it does not exist.
    ModIndex(u64),
    /// It exists and holds exactly these bytes.
    Value(Bytes),
    /// It does not exist.
    Absent,
}

/// A part of a [`Txn`]. Keys have 1 to [`MAX_KEY_BYTES`] bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets a key.
    Put {
        /// The key.
        key: Bytes,
        /// The value, possibly empty.
        value: Bytes,
    },
    /// Removes a key, if it is there.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Tells what a key holds, after everything before it in the same txn.
    Get {
        /// The key.
        key: Bytes,
    },
}

/// What a put or a delete may be subject to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conditions<'a> {
    /// The proposer's name for this change, 1 to [`MAX_IDEMPOTENCY_KEY_BYTES`] bytes.
    pub idempotency_key: Option<&'a [u8]>,
    /// The mod index that the key must have; 0: it must not exist.
    pub cas: Option<u64>,
}

/// The encoded command has more than [`MAX_ENTRY_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge {
    /// How many it has.
    pub bytes: u64,
}

impl std::fmt::Display for TooLarge {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "the command has {} bytes; at most {MAX_ENTRY_BYTES} fit an entry",
            self.bytes
        )
    }
}

impl std::error::Error for TooLarge {}

/// Begins a put whose value the caller appends. A request's body is copied here once, from the
/// socket's buffer, and nowhere again until it is in the log.
///
/// # Panics
///
/// When the key, or the idempotency key, is empty or too long.
#[must_use]
pub fn begin_put(conditions: &Conditions<'_>, key: &[u8], value_bytes: usize) -> BytesMut {
    let op = if conditions.cas.is_some() { CAS_PUT } else { PUT };
    begin(op, conditions, key, value_bytes)
}

/// A delete.
///
/// # Panics
///
/// When the key, or the idempotency key, is empty or too long.
#[must_use]
pub fn delete(conditions: &Conditions<'_>, key: &[u8]) -> Bytes {
    let op = if conditions.cas.is_some() { CAS_DELETE } else { DELETE };
    begin(op, conditions, key, 0).freeze()
}

fn begin(op: u8, conditions: &Conditions<'_>, key: &[u8], value_bytes: usize) -> BytesMut {
    let Conditions { idempotency_key, cas } = *conditions;
    let own_bytes = HEADER_BYTES + CAS_BYTES + key.len() + value_bytes;
    let mut command = begin_envelope(idempotency_key, own_bytes);
    command.put_slice(&[VERSION, op]);
    put_key_len(&mut command, key);
    if let Some(mod_index) = cas {
        command.put_u64_le(mod_index);
    }
    command.put_slice(key);
    command
}

/// An envelope with room for the command that follows; none without an idempotency key.
fn begin_envelope(idempotency_key: Option<&[u8]>, command_bytes: usize) -> BytesMut {
    let Some(key) = idempotency_key else { return BytesMut::with_capacity(command_bytes) };
    assert!(
        (1..=MAX_IDEMPOTENCY_KEY_BYTES).contains(&key.len()),
        "an idempotency key of {} bytes",
        key.len()
    );
    let mut envelope = BytesMut::with_capacity(KEYED_BYTES + key.len() + command_bytes);
    envelope.put_slice(&[VERSION, KEYED]);
    envelope.put_u8(u8::try_from(key.len()).expect("the assertion above bounds it"));
    envelope.put_slice(key);
    envelope
}

fn put_key_len(command: &mut BytesMut, key: &[u8]) {
    assert!((1..=MAX_KEY_BYTES).contains(&key.len()), "a key of {} bytes", key.len());
    command.put_u16_le(u16::try_from(key.len()).expect("the assertion above bounds it"));
}

/// A txn.
///
/// # Errors
///
/// When it has more than [`MAX_ENTRY_BYTES`].
///
/// # Panics
///
/// When a key, or the idempotency key, is empty or too long, or a list has more than
/// [`MAX_TXN_OPERATIONS`].
pub fn txn(idempotency_key: Option<&[u8]>, txn: &Txn) -> Result<Bytes, TooLarge> {
    let mut command = begin_envelope(idempotency_key, txn_bytes(txn));
    command.put_slice(&[VERSION, TXN]);
    for length in [txn.compare.len(), txn.then.len(), txn.otherwise.len()] {
        assert!(length <= MAX_TXN_OPERATIONS, "a list of {length} operations");
        command.put_u8(u8::try_from(length).expect("the assertion above bounds it"));
    }
    for Compare { key, test } in &txn.compare {
        match test {
            Test::ModIndex(mod_index) => {
                command.put_u8(COMPARE_MOD_INDEX);
                put_key_len(&mut command, key);
                command.put_u64_le(*mod_index);
                command.put_slice(key);
            }
            Test::Value(value) => put_pair(&mut command, COMPARE_VALUE, key, value)?,
            Test::Absent => put_key(&mut command, COMPARE_ABSENT, key),
        }
    }
    for op in txn.then.iter().chain(&txn.otherwise) {
        match op {
            Op::Put { key, value } => put_pair(&mut command, OP_PUT, key, value)?,
            Op::Delete { key } => put_key(&mut command, OP_DELETE, key),
            Op::Get { key } => put_key(&mut command, OP_GET, key),
        }
    }
    let bytes = command.len() as u64;
    if bytes > MAX_ENTRY_BYTES { Err(TooLarge { bytes }) } else { Ok(command.freeze()) }
}

fn put_key(command: &mut BytesMut, kind: u8, key: &[u8]) {
    command.put_u8(kind);
    put_key_len(command, key);
    command.put_slice(key);
}

fn put_pair(command: &mut BytesMut, kind: u8, key: &[u8], value: &[u8]) -> Result<(), TooLarge> {
    let value_len =
        u32::try_from(value.len()).map_err(|_| TooLarge { bytes: value.len() as u64 })?;
    command.put_u8(kind);
    put_key_len(command, key);
    command.put_u32_le(value_len);
    command.put_slice(key);
    command.put_slice(value);
    Ok(())
}

/// At least as many as it takes: no part needs more than 11 bytes beside its key and value.
fn txn_bytes(txn: &Txn) -> usize {
    const PART: usize = 11;
    let compare = |compare: &Compare| {
        let value = if let Test::Value(value) = &compare.test { value.len() } else { 0 };
        PART + compare.key.len() + value
    };
    let op = |op: &Op| match op {
        Op::Put { key, value } => PART + key.len() + value.len(),
        Op::Delete { key } | Op::Get { key } => PART + key.len(),
    };
    5 + txn.compare.iter().map(compare).sum::<usize>()
        + txn.then.iter().chain(&txn.otherwise).map(op).sum::<usize>()
}

/// Why a command cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// Shorter than its own lengths say.
    Short,
    /// It goes on after its end, by this many bytes.
    Long(usize),
    /// Another version's bytes.
    Version(u8),
    /// An operation that this version does not have.
    Operation(u8),
    /// A key length outside the bounds.
    KeyLength(u16),
    /// An idempotency key's length outside the bounds.
    IdempotencyKeyLength(u8),
    /// An envelope around something that has no place in one.
    Envelope(u8),
    /// More parts of a txn than there may be.
    Parts(u8),
    /// A compare that this version does not have.
    Compare(u8),
    /// A part of a txn that this version does not have.
    Part(u8),
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DecodeError::Short => write!(formatter, "it is cut short"),
            DecodeError::Long(bytes) => {
                write!(formatter, "it goes on for {bytes} bytes after its end")
            }
            DecodeError::Version(version) => {
                write!(formatter, "it has version {version}; this program knows {VERSION}")
            }
            DecodeError::Operation(op) => {
                write!(formatter, "it asks for operation {op}; this program knows {PUT} to {KEYED}")
            }
            DecodeError::KeyLength(length) => {
                write!(formatter, "its key has {length} bytes; keys have 1 to {MAX_KEY_BYTES}")
            }
            DecodeError::IdempotencyKeyLength(length) => write!(
                formatter,
                "its idempotency key has {length} bytes; they have 1 to \
                 {MAX_IDEMPOTENCY_KEY_BYTES}"
            ),
            DecodeError::Envelope(op) => {
                write!(
                    formatter,
                    "it has operation {op} in an envelope, which holds {PUT} to {TXN}"
                )
            }
            DecodeError::Parts(count) => write!(
                formatter,
                "a list of its txn has {count} parts; there are at most {MAX_TXN_OPERATIONS}"
            ),
            DecodeError::Compare(kind) => write!(
                formatter,
                "its txn compares in way {kind}; this program knows {COMPARE_MOD_INDEX} to \
                 {COMPARE_ABSENT}"
            ),
            DecodeError::Part(kind) => write!(
                formatter,
                "its txn has a part of kind {kind}; this program knows {OP_PUT} to {OP_GET}"
            ),
        }
    }
}

impl std::error::Error for DecodeError {}

impl Envelope {
    /// Reads a command, whatever the bytes are.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`].
    pub fn decode(data: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader { rest: data.clone() };
        let op = reader.operation()?;
        if op != KEYED {
            return Ok(Self { keyed: None, command: Command::decode(op, reader)? });
        }
        let length = reader.u8()?;
        if !(1..=MAX_IDEMPOTENCY_KEY_BYTES).contains(&usize::from(length)) {
            return Err(DecodeError::IdempotencyKeyLength(length));
        }
        let idempotency_key = reader.bytes(usize::from(length))?;
        let command_bytes = reader.rest.clone();
        let op = reader.operation()?;
        if op == KEYED || op & IGNORABLE != 0 {
            return Err(DecodeError::Envelope(op));
        }
        let keyed = Some(Keyed { idempotency_key, command_bytes });
        Ok(Self { keyed, command: Command::decode(op, reader)? })
    }
}

impl Command {
    /// The same command with each value that it may put changed to what `map` makes of it.
    #[must_use]
    pub fn map_values(mut self, map: impl Fn(&Bytes) -> Bytes) -> Self {
        let change = |value: &mut Bytes| *value = map(value);
        match &mut self {
            Command::Put { value, .. } => change(value),
            Command::Txn(txn) => {
                for op in txn.then.iter_mut().chain(&mut txn.otherwise) {
                    if let Op::Put { value, .. } = op {
                        change(value);
                    }
                }
            }
            Command::Delete { .. } | Command::Ignorable(_) => {}
        }
        self
    }

    fn decode(op: u8, mut reader: Reader) -> Result<Self, DecodeError> {
        let command = match op {
            PUT | CAS_PUT => {
                let key_len = reader.key_len()?;
                let cas = (op == CAS_PUT).then(|| reader.u64()).transpose()?;
                let key = reader.bytes(key_len)?;
                return Ok(Command::Put { key, value: reader.rest, cas });
            }
            DELETE | CAS_DELETE => {
                let key_len = reader.key_len()?;
                let cas = (op == CAS_DELETE).then(|| reader.u64()).transpose()?;
                Command::Delete { key: reader.bytes(key_len)?, cas }
            }
            TXN => Command::Txn(reader.txn()?),
            op if op & IGNORABLE != 0 => return Ok(Command::Ignorable(op)),
            op => return Err(DecodeError::Operation(op)),
        };
        match reader.rest.len() {
            0 => Ok(command),
            left => Err(DecodeError::Long(left)),
        }
    }
}

/// What is left of a command.
struct Reader {
    rest: Bytes,
}

impl Reader {
    fn operation(&mut self) -> Result<u8, DecodeError> {
        let [version] = self.array()?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        self.u8()
    }

    fn txn(&mut self) -> Result<Txn, DecodeError> {
        let [compares, thens, elses] = self.array()?;
        for count in [compares, thens, elses] {
            if usize::from(count) > MAX_TXN_OPERATIONS {
                return Err(DecodeError::Parts(count));
            }
        }
        Ok(Txn {
            compare: (0..compares).map(|_| self.compare()).collect::<Result<_, _>>()?,
            then: (0..thens).map(|_| self.op()).collect::<Result<_, _>>()?,
            otherwise: (0..elses).map(|_| self.op()).collect::<Result<_, _>>()?,
        })
    }

    fn compare(&mut self) -> Result<Compare, DecodeError> {
        let kind = self.u8()?;
        match kind {
            COMPARE_MOD_INDEX => {
                let key_len = self.key_len()?;
                let mod_index = self.u64()?;
                Ok(Compare { key: self.bytes(key_len)?, test: Test::ModIndex(mod_index) })
            }
            COMPARE_VALUE => {
                let (key, value) = self.pair()?;
                Ok(Compare { key, test: Test::Value(value) })
            }
            COMPARE_ABSENT => Ok(Compare { key: self.key()?, test: Test::Absent }),
            kind => Err(DecodeError::Compare(kind)),
        }
    }

    fn op(&mut self) -> Result<Op, DecodeError> {
        match self.u8()? {
            OP_PUT => self.pair().map(|(key, value)| Op::Put { key, value }),
            OP_DELETE => Ok(Op::Delete { key: self.key()? }),
            OP_GET => Ok(Op::Get { key: self.key()? }),
            kind => Err(DecodeError::Part(kind)),
        }
    }

    fn pair(&mut self) -> Result<(Bytes, Bytes), DecodeError> {
        let key_len = self.key_len()?;
        let value_len = u32::from_le_bytes(self.array()?);
        let key = self.bytes(key_len)?;
        // Longer than memory can be is longer than what is left.
        let value_len = usize::try_from(value_len).map_err(|_| DecodeError::Short)?;
        Ok((key, self.bytes(value_len)?))
    }

    fn key(&mut self) -> Result<Bytes, DecodeError> {
        let key_len = self.key_len()?;
        self.bytes(key_len)
    }

    fn key_len(&mut self) -> Result<usize, DecodeError> {
        let length = u16::from_le_bytes(self.array()?);
        let in_bounds = (1..=MAX_KEY_BYTES).contains(&usize::from(length));
        if in_bounds { Ok(usize::from(length)) } else { Err(DecodeError::KeyLength(length)) }
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(|[byte]| byte)
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let array = *self.rest.first_chunk::<N>().ok_or(DecodeError::Short)?;
        // Only moves the beginning.
        bytes::Buf::advance(&mut self.rest, N);
        Ok(array)
    }

    fn bytes(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        if length > self.rest.len() {
            return Err(DecodeError::Short);
        }
        Ok(self.rest.split_to(length))
    }
}

#[cfg(test)]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
