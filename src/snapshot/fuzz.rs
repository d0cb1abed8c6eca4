//! Snapshot files that were written, damaged; and files whose checksums hold around anything.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use ::fuzz::Rng;
use raft::eraftpb::ConfState;
use wal::fs::{Fs, MemFs};

use super::part::{CHUNK_BYTES, Chain};
use super::write::write_chunks;
use super::*;
use crate::fuzz::{book, damaged};
use crate::identity::crc64;

const PATH: &str = "/x.tmp";
const OTHER: &str = "/y.tmp";

fn header(rng: &mut Rng) -> Header {
    let book = book(rng);
    let mut conf_state = ConfState::default();
    conf_state.set_voters(book.voters().collect());
    conf_state.set_learners(book.learners().collect());
    let (cluster, index, term) = (rng.number(), rng.number(), rng.number());
    Header { cluster, index, term, conf_state, book }
}

fn put(fs: &dyn Fs, bytes: &[u8]) {
    let file = fs.create_new(Path::new(PATH)).expect("memory takes it");
    file.write_all_at(0, bytes).expect("memory takes it");
}

/// How a file came back: its header and body, if the readers had no complaint.
type Seen = Option<(Header, Vec<u8>)>;

/// The file as all three readers see it; they agree, or one of them is wrong.
fn read(rng: &mut Rng, bytes: &[u8], announced: Announced) -> Seen {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    put(&*fs, bytes);
    let verified = match verify(&*fs, Path::new(PATH), &|| false) {
        Ok(file) => Some(file),
        Err(Failure::Damaged { .. }) => None,
        Err(failure) => panic!("{failure}"),
    };
    let mut body = Vec::new();
    let reader = Reader::open(&*fs, Path::new(PATH)).map_err(std::io::Error::from);
    let is_read = reader.and_then(|mut reader| reader.read_to_end(&mut body)).is_ok();
    assert_eq!(is_read, verified.is_some(), "S1: verify and read disagree");

    let mut incoming = Incoming::begin(&fs, Path::new(OTHER), announced).expect("memory takes it");
    let mut rest = bytes;
    let mut is_taken = true;
    while is_taken && !rest.is_empty() {
        let length = (1 + rng.at(2000)).min(rest.len());
        is_taken = incoming.write(&rest[..length]).is_ok();
        rest = &rest[length..];
        let room = 2 * (bytes.len() - rest.len()).max(64);
        assert!(incoming.buffered() <= room, "S2: room for {}", incoming.buffered());
    }
    let received = if is_taken { incoming.finish().ok() } else { None };
    if let Some(received) = &received {
        let verified = verified.as_ref().expect("S1: what was received is whole");
        assert_eq!(received.file().marker, verified.marker);
        assert_eq!(received.file().bytes, bytes.len() as u64);
    }
    verified.map(|file| (file.header, body))
}

/// Parts with checksums that hold, whatever they say.
fn forged(rng: &mut Rng) -> Vec<u8> {
    let mut encoded = header(rng).encode();
    encoded.truncate(encoded.len() - 8);
    if rng.chance(1, 2) {
        let n = 1 + rng.below(3);
        rng.mutate(&mut encoded, n);
    }
    if rng.chance(3, 4) && encoded.len() >= 24 {
        let length = encoded.len() as u64 + 8;
        encoded[16..24].copy_from_slice(&length.to_le_bytes());
    }
    let crc = crc64(&encoded);
    encoded.extend(crc.to_le_bytes());
    let (mut chain, _) = Chain::begin(&encoded);
    let mut body_bytes = 0;
    for _ in 0..rng.below(3) {
        let content = rng.bytes(100);
        let number = if rng.chance(1, 10) { rng.number() } else { content.len() as u64 };
        let mut part = [&number.to_le_bytes(), &content[..]].concat();
        chain.close(&mut part);
        encoded.extend(part);
        body_bytes += content.len() as u64;
    }
    let says = if rng.chance(1, 10) { rng.number() } else { body_bytes };
    let mut end = [0_u64.to_le_bytes(), says.to_le_bytes()].concat();
    chain.close(&mut end);
    encoded.extend(end);
    encoded
}

fn announced(bytes: &[u8], header: &Header) -> Announced {
    let checksum = bytes.last_chunk().map_or(0, |last| u64::from_le_bytes(*last));
    Announced { cluster: header.cluster, bytes: bytes.len() as u64, checksum }
}

/// A damaged file is refused by whoever reads or receives it; one whose checksums hold is refused,
/// or is what it would have been written as.
#[test]
fn fuzz_snapshot_bytes() {
    let mut n_whole = 0;
    let report = ::fuzz::run("snapshot_bytes", |rng| {
        let header = header(rng);
        let body = rng.bytes(3000);
        let largest = *rng.pick(&[64, CHUNK_BYTES]);
        let chunk = 1 + rng.at(largest);
        let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
        let file = write_chunks(&fs, Path::new(PATH), &header, chunk, |to| to.write_all(&body));
        let bytes = file.expect("memory takes it").bytes;
        let valid = wal::fs::read_file(&*fs, Path::new(PATH), bytes).expect("it was written");
        let truth = announced(&valid, &header);
        let damaged = damaged(rng, &valid);
        let found = read(rng, &damaged, truth);
        assert_eq!(found, (damaged == valid).then_some((header, body)), "S1");

        let forged = forged(rng);
        let own = Announced { cluster: 0, bytes: forged.len() as u64, checksum: 0 };
        if let Some((header, body)) = read(rng, &forged, own) {
            let own = announced(&forged, &header);
            assert_eq!(read(rng, &forged, own), Some((header.clone(), body)));
            let encoded = header.encode();
            let (again, _) = Header::decode(&encoded).expect("what was read can be written");
            assert_eq!(again, header);
            n_whole += 1;
        }
    });
    assert!(n_whole > report.cases / 20 || report.cases < 200, "only {n_whole} were whole");
}
