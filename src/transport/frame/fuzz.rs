//! Streams of valid frames, cut anywhere and damaged, and streams of anything.

use ::fuzz::Rng;
use raft::eraftpb::MessageType;

use super::*;
use crate::fuzz::damaged;

fn key(rng: &mut Rng) -> Key {
    Key { node: rng.number(), nonce: rng.number(), sequence: rng.number() }
}

fn entry(rng: &mut Rng) -> Entry {
    let mut entry = Entry::default();
    (entry.term, entry.index) = (rng.number(), rng.number());
    entry.data = rng.bytes(2000).into();
    entry.context = rng.bytes(30).into();
    entry
}

fn message(rng: &mut Rng) -> Message {
    let mut message = Message::default();
    let types = [MessageType::MsgAppend, MessageType::MsgHeartbeat, MessageType::MsgSnapshot];
    message.set_msg_type(*rng.pick(&types));
    (message.from, message.to, message.term) = (rng.number(), rng.number(), rng.number());
    (message.log_term, message.index, message.commit) = (rng.number(), rng.number(), rng.number());
    message.entries = (0..rng.below(4)).map(|_| entry(rng)).collect();
    message.context = rng.bytes(30).into();
    message
}

fn frame(rng: &mut Rng) -> Frame {
    match rng.below(3) {
        0 => Frame::Raft(message(rng)),
        1 => Frame::Forward { term: rng.number(), key: key(rng), data: rng.bytes(3000).into() },
        _ => {
            use VerdictKind::{NotLeader, Overloaded, TooLarge};
            let refusal = *rng.pick(&[NotLeader, Overloaded, TooLarge]);
            Frame::Verdict { key: key(rng), refusal, term: rng.number(), leader: rng.number() }
        }
    }
}

fn encoded(frames: &[Frame]) -> Vec<u8> {
    let mut encoded = Encoded::default();
    for frame in frames {
        frame.encode(frame.payload_len(), &mut encoded).expect("protobuf takes what was made up");
    }
    encoded.into_bytes().into()
}

/// Everything that keeps memory alive in a frame.
fn parts(frame: &Frame) -> Vec<&Bytes> {
    match frame {
        Frame::Raft(message) => {
            let entries = message.entries.iter().flat_map(|entry| [&entry.data, &entry.context]);
            entries.chain([&message.context]).collect()
        }
        Frame::Forward { data, .. } => vec![data],
        Frame::Verdict { .. } => Vec::new(),
    }
}

/// What the decoder makes of the stream until it ends or is lost, in chunks that chance cuts.
fn decoded(rng: &mut Rng, stream: &[u8]) -> (Vec<Frame>, Result<(), Malformed>) {
    let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
    let mut rest = stream;
    while !rest.is_empty() {
        let length = if rng.chance(1, 2) { 1 + rng.at(20) } else { 1 + rng.at(rest.len()) };
        let (now, later) = rest.split_at(length.min(rest.len()));
        rest = later;
        let mut chunk = Bytes::copy_from_slice(now);
        // Held, lest its place be given to what is decoded.
        let held = chunk.clone();
        let memory = held.as_ptr_range();
        loop {
            match decoder.next(&mut chunk) {
                Ok(Some(arrived)) => {
                    let frame = match arrived.decode() {
                        Ok(frame) => frame,
                        Err(malformed) => return (frames, Err(malformed)),
                    };
                    assert!(frame.payload_len() <= MAX_PAYLOAD);
                    let shares =
                        |part: &&Bytes| !part.is_empty() && memory.contains(&part.as_ptr());
                    assert!(!parts(&frame).iter().any(shares), "F2: {frame:?}");
                    frames.push(frame);
                }
                Ok(None) => break,
                Err(malformed) => return (frames, Err(malformed)),
            }
        }
        assert!(chunk.is_empty(), "F1: {} bytes were left", chunk.len());
        assert!(decoder.partial.capacity() <= HEADER_LEN + MAX_PAYLOAD, "F3");
    }
    (frames, Ok(()))
}

/// F1 to F3, whatever arrives: frames come back however they are cut, up to where the stream was
/// damaged; and whatever is taken for a frame would be sent as one.
#[test]
fn fuzz_frames() {
    ::fuzz::run("frames", |rng| {
        let frames: Vec<_> = (0..1 + rng.below(4)).map(|_| frame(rng)).collect();
        let valid = encoded(&frames);
        let (found, ended) = decoded(rng, &valid);
        assert_eq!((&found, &ended), (&frames, &Ok(())), "F1");

        let stream = damaged(rng, &valid);
        let whole = stream.iter().zip(&valid).take_while(|(now, was)| now == was).count();
        let (found, _) = decoded(rng, &stream);
        let mut end = 0;
        for (at, frame) in frames.iter().enumerate() {
            end += HEADER_LEN + frame.payload_len();
            assert!(end > whole || found.get(at) == Some(frame), "F1: frame {at} was lost");
        }
        let again = decoded(rng, &encoded(&found)).0;
        assert_eq!(again, found);
    });
}
