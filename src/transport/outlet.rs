//! Where one lane's frames leave for a peer: a queue, and the socket of the stream that is open.
//!
//! ```text
//!  send ──► queue ──┬─ on the sender's thread: small, nothing before it ─┐
//!                   └─ the dialler's task: all else ────────────────────►┴─ chunk ──► socket
//! ```
//!
//! On the wire a stream is the body of a request, in chunks. hyper writes the request's head and
//! reads the peer's answer and its echo; the body is written past it, by whoever has something. So
//! one of raft's messages leaves by one system call of the thread that made it, and wakes nobody
//! here. What the socket does not take at once is left to the dialler's task, as are Forwards, which
//! come in bursts and leave together.
//!
//! Invariants:
//! - O1 Whatever thread writes, the frames leave in the order they were queued in: one is taken from
//!   the queue, and written, under the lock of the stream only.
//! - O2 Nothing that was queued is forgotten: whoever does not write it himself lets the task know
//!   after it was queued, and the task looks before it sleeps. What cannot be encoded was refused
//!   when it was queued; if some were not, it would be dropped and logged, as by a network.
//! - O3 A sender neither waits for the stream nor writes much: it writes when nobody else does, and
//!   no more than [`AT_ONCE`].
//! - O4 What was taken from the queue and is not written yet is one chunk at most.

use std::convert::Infallible;
use std::io::{self, ErrorKind, Write as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame as BodyFrame};
use slog::error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::yield_now;

use super::frame::{Encoded, Frame};
use super::lock;
use super::queue::{Pushed, Queue, Queued, Taken};
use crate::key::Attempt;

/// What is written at once, in bytes: large enough that a system call costs little beside it, small
/// enough that a commit index does not wait long behind it.
const CHUNK: usize = 256 << 10;

/// What a sender writes itself, in bytes. For more a wake-up costs little, and the sender has other
/// things to do meanwhile.
const AT_ONCE: usize = 32 << 10;

/// The longest head of a chunk: its length in hexadecimal digits, and the end of that line.
const CHUNK_HEAD: usize = 10;
const CHUNK_END: &[u8] = b"\r\n";
/// The chunk that ends a body.
const BODY_END: &[u8] = b"0\r\n\r\n";

/// One lane's way out.
#[derive(Debug)]
pub(super) struct Outlet {
    queue: Mutex<Queue>,
    stream: Mutex<Option<Stream>>,
    /// Something was left to the task.
    left: Notify,
}

/// What became of a try to write.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing waits, here or in the queue.
    Done,
    /// A chunk was written, and more may wait.
    More,
    /// The socket takes no more for now.
    Full,
}

impl Outlet {
    pub(super) fn new(queue: Queue) -> Self {
        Self { queue: Mutex::new(queue), stream: Mutex::default(), left: Notify::new() }
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    /// Queues a frame and sees to it that it leaves, or says what became of it.
    pub(super) fn send(&self, frame: Frame) -> Pushed {
        let may_be_alone = matches!(frame, Frame::Raft(_));
        let pushed = self.queue().push(frame);
        if let Some(waits) = pushed.waits
            && !(may_be_alone && waits <= AT_ONCE && self.write_now())
        {
            self.left.notify_one();
        }
        pushed
    }

    /// Writes what waits, unless somebody else does. Whether nothing is left to the task but what
    /// it waits to write anyway.
    fn write_now(&self) -> bool {
        let mut stream = match self.stream.try_lock() {
            Ok(stream) => stream,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        // Before the stream is there the task has not looked yet.
        let Some(stream) = &mut *stream else { return true };
        if stream.is_full {
            return true;
        }
        // An error is for the task, which finds it again.
        stream.step(&self.queue).is_ok_and(|step| step == Step::Done)
    }

    /// A stream's heads were checked: frames may be queued for it.
    pub(super) fn open(&self, socket: &Arc<TcpStream>, logger: &slog::Logger) {
        let stream = Stream::new(Arc::clone(socket), logger.clone());
        *lock(&self.stream) = Some(stream);
        self.queue().open();
    }

    /// The stream is gone, and with it all that waited; the Forwards among that were never sent.
    pub(super) fn close(&self) -> Vec<Attempt> {
        let unsent = self.queue().close();
        *lock(&self.stream) = None;
        unsent
    }

    /// Lets the stream end once everything that waits now has left. Whether there is a stream.
    pub(super) fn end(&self) -> bool {
        let is_open = self.queue().end();
        self.left.notify_one();
        is_open
    }

    /// Writes what senders leave, for as long as the stream is open and takes it.
    pub(super) async fn feed(&self, socket: &TcpStream) -> io::Error {
        loop {
            let step = match &mut *lock(&self.stream) {
                Some(stream) => stream.step(&self.queue),
                None => Ok(Step::Done),
            };
            let writable = match step {
                Ok(Step::Done) => {
                    self.left.notified().await;
                    Ok(())
                }
                Ok(Step::More) => {
                    yield_now().await;
                    Ok(())
                }
                Ok(Step::Full) => socket.writable().await,
                Err(error) => Err(error),
            };
            if let Err(error) = writable {
                return error;
            }
        }
    }
}

/// The body of the request that is open.
#[derive(Debug)]
struct Stream {
    socket: Arc<TcpStream>,
    taken: Vec<Queued>,
    chunk: Encoded,
    /// How much of the chunk needs no writing, or not any more.
    written: usize,
    /// The socket took no more; the task waits until it does.
    is_full: bool,
    has_ended: bool,
    logger: slog::Logger,
}

impl Stream {
    fn new(socket: Arc<TcpStream>, logger: slog::Logger) -> Self {
        Self {
            socket,
            taken: Vec::new(),
            chunk: Encoded::default(),
            written: 0,
            is_full: false,
            has_ended: false,
            logger,
        }
    }

    /// Writes what is left of the last chunk, or the next one.
    ///
    /// # Errors
    ///
    /// The connection is lost.
    fn step(&mut self, queue: &Mutex<Queue>) -> io::Result<Step> {
        if self.written == self.chunk.len() && !self.fill(queue) {
            return Ok(Step::Done);
        }
        while self.written < self.chunk.len() {
            let socket = &self.socket;
            let result = self.chunk.write_from(self.written, |slices| match slices {
                [one] => socket.try_write(one),
                slices => socket.try_write_vectored(slices),
            });
            match result {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => self.written += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.is_full = true;
                    return Ok(Step::Full);
                }
                Err(error) => return Err(error),
            }
        }
        self.is_full = false;
        self.chunk.clear(CHUNK);
        self.written = 0;
        let rest = lock(queue).progress().1;
        Ok(if rest { Step::More } else { Step::Done })
    }

    /// Makes the next chunk of what waits; whether there is one.
    fn fill(&mut self, queue: &Mutex<Queue>) -> bool {
        while !self.has_ended {
            match lock(queue).take(CHUNK, &mut self.taken) {
                Taken::Some => {}
                Taken::Nothing => return false,
                Taken::End => {
                    self.has_ended = true;
                    self.chunk.push(BODY_END);
                    return true;
                }
            }
            self.chunk.push(&[0; CHUNK_HEAD]);
            for Queued { frame, len } in self.taken.drain(..) {
                if let Err(error) = frame.encode(len, &mut self.chunk) {
                    error!(self.logger, "frame not sent"; "error" => %error);
                }
            }
            let len = self.chunk.len() - CHUNK_HEAD;
            if len > 0 {
                self.written = write_head(len, self.chunk.first_mut(CHUNK_HEAD));
                self.chunk.push(CHUNK_END);
                return true;
            }
            // A chunk of nothing would end the body.
            self.chunk.clear(CHUNK);
        }
        false
    }
}

/// Writes a chunk's head to the end of `place`, and gives where it begins.
fn write_head(len: usize, place: &mut [u8]) -> usize {
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(4) as usize;
    let start = CHUNK_HEAD - CHUNK_END.len() - digits;
    write!(&mut place[start..], "{len:x}\r\n").expect("a chunk's length has eight digits at most");
    start
}

/// A body that hyper has nothing to do with: see [`Outlet`].
pub(super) struct Unwritten;

impl Body for Unwritten {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

/// A stream's connection as hyper has it: to write a head to, and to read from. It has no say in
/// when the connection ends.
pub(super) struct HeadOnly(Arc<TcpStream>);

impl HeadOnly {
    pub(super) fn new(socket: Arc<TcpStream>) -> Self {
        Self(socket)
    }
}

impl AsyncRead for HeadOnly {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(context))?;
            match self.0.try_read(buffer.initialize_unfilled()) {
                Ok(n) => {
                    buffer.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for HeadOnly {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            match self.0.try_write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::time::Duration;

    use raft::eraftpb::{Entry, Message, MessageType};
    use tokio::runtime::{Builder, Runtime};
    use tokio::time::timeout;

    use super::super::queue::Lane;
    use super::*;
    use crate::key::Key;

    const MIB: usize = 1 << 20;

    /// An outlet to a socket of ours, and a runtime that runs nothing unless it is told to.
    struct Ends {
        runtime: Runtime,
        outlet: Outlet,
        socket: Arc<TcpStream>,
        peer: std::net::TcpStream,
    }

    impl Ends {
        fn new(lane: Lane) -> Self {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let socket = runtime.block_on(async {
                let socket = TcpStream::connect(address).await.unwrap();
                socket.writable().await.unwrap();
                Arc::new(socket)
            });
            let peer = listener.accept().unwrap().0;
            peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let outlet = Outlet::new(Queue::new(lane, 16 << 20));
            outlet.open(&socket, &slog::Logger::root(slog::Discard, slog::o!()));
            Self { runtime, outlet, socket, peer }
        }

        /// Lets the task run for as long as the other end reads so many bytes.
        fn feed(&mut self, len: usize) -> Vec<u8> {
            let mut peer = self.peer.try_clone().unwrap();
            let (outlet, socket) = (&self.outlet, &self.socket);
            self.runtime.block_on(async {
                let reading = tokio::task::spawn_blocking(move || {
                    let mut bytes = vec![0; len];
                    peer.read_exact(&mut bytes).map(|()| bytes)
                });
                tokio::select! {
                    error = outlet.feed(socket) => panic!("{error}"),
                    read = reading => read.unwrap().unwrap(),
                }
            })
        }

        fn read_now(&mut self, len: usize) -> Vec<u8> {
            let mut bytes = vec![0; len];
            self.peer.read_exact(&mut bytes).unwrap();
            bytes
        }

        fn has_nothing(&mut self) -> bool {
            self.peer.set_nonblocking(true).unwrap();
            let nothing = self.peer.peek(&mut [0]).is_err();
            self.peer.set_nonblocking(false).unwrap();
            nothing
        }
    }

    fn message(index: u64, size: usize) -> Frame {
        let mut message = Message { index, term: 1, ..Message::default() };
        message.set_msg_type(MessageType::MsgAppend);
        let data = vec![index as u8; size].into();
        message.entries = vec![Entry { data, ..Entry::default() }].into();
        Frame::Raft(message)
    }

    fn forward(sequence: u64) -> Frame {
        let key = Key { node: 1, nonce: 1, sequence };
        Frame::Forward { term: 1, key, data: Bytes::from_static(b"x") }
    }

    /// Frames as one chunk.
    fn chunk(frames: &[Frame]) -> Vec<u8> {
        let mut encoded = Encoded::default();
        for frame in frames {
            frame.encode(frame.payload_len(), &mut encoded).unwrap();
        }
        let bytes = encoded.into_bytes();
        [format!("{:x}\r\n", bytes.len()).as_bytes(), &bytes, b"\r\n"].concat()
    }

    fn sent(outlet: &Outlet, frame: &Frame) {
        assert!(outlet.send(frame.clone()).waits.is_some());
    }

    /// A message of raft's leaves while every other thread sleeps; what is large is left to the task,
    /// and so are Forwards, which leave with what comes after them (O1, O3).
    #[test]
    fn a_sender_writes_what_is_small() {
        let mut ends = Ends::new(Lane::Bulk);
        for nth in [1, 2] {
            sent(&ends.outlet, &message(nth, 100));
            let expected = chunk(&[message(nth, 100)]);
            assert_eq!(ends.read_now(expected.len()), expected);
        }
        let frames = [forward(1), forward(2), message(3, 1)];
        for frame in &frames[..2] {
            sent(&ends.outlet, frame);
            assert!(ends.has_nothing());
        }
        sent(&ends.outlet, &frames[2]);
        let expected = chunk(&frames);
        assert_eq!(ends.read_now(expected.len()), expected);

        let frames = [message(4, AT_ONCE), message(5, 1)];
        for frame in &frames {
            sent(&ends.outlet, frame);
            assert!(ends.has_nothing(), "a sender wrote much");
        }
        let expected = chunk(&frames);
        assert_eq!(ends.feed(expected.len()), expected);
    }

    /// What a socket does not take is neither lost, nor written again, nor overtaken (O1, O2).
    #[test]
    fn what_a_full_socket_does_not_take_leaves_later() {
        let mut ends = Ends::new(Lane::Bulk);
        let is_full = |outlet: &Outlet| lock(&outlet.stream).as_ref().unwrap().is_full;
        let mut expected = Vec::new();
        let mut index = 0;
        while !is_full(&ends.outlet) {
            expected.extend(chunk(&[message(index, AT_ONCE / 2)]));
            sent(&ends.outlet, &message(index, AT_ONCE / 2));
            index += 1;
        }
        let rest = [message(index, 1), forward(1), message(index + 1, AT_ONCE), forward(2)];
        for frame in &rest {
            sent(&ends.outlet, frame);
        }
        expected.extend(chunk(&rest));
        assert!(expected.len() < 16 * MIB, "a socket that takes everything");
        assert!(ends.feed(expected.len()) == expected);
        // And the sender writes again.
        sent(&ends.outlet, &message(0, 1));
        let expected = chunk(&[message(0, 1)]);
        assert_eq!(ends.read_now(expected.len()), expected);
    }

    /// A burst of what is left to the task costs one wake-up, which is a system call, and leaves as
    /// one chunk.
    #[test]
    fn a_burst_wakes_the_task_once() {
        use std::pin::pin;
        use std::sync::atomic::{AtomicU64, Ordering};
        use std::task::{Wake, Waker};
        struct Count(AtomicU64);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let ends = Ends::new(Lane::Bulk);
        let count = Arc::new(Count(AtomicU64::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let mut peer = ends.peer.try_clone().unwrap();
        let mut feed = pin!(ends.outlet.feed(&ends.socket));
        for round in 1..=3 {
            let mut poll = || feed.as_mut().poll(&mut Context::from_waker(&waker)).is_pending();
            assert!(poll() && poll());
            let frames: Vec<_> = (0..100).map(forward).collect();
            for frame in &frames {
                sent(&ends.outlet, frame);
            }
            assert_eq!(count.0.load(Ordering::Relaxed), round);
            assert!(poll());
            let expected = chunk(&frames);
            let mut bytes = vec![0; expected.len()];
            peer.read_exact(&mut bytes).unwrap();
            assert_eq!(bytes, expected);
        }
    }

    /// The last words leave before the body's end, and a lost connection is noticed by the task
    /// whoever wrote.
    #[test]
    fn a_stream_ends() {
        let mut ends = Ends::new(Lane::Control);
        sent(&ends.outlet, &forward(1));
        assert!(ends.outlet.end());
        assert!(ends.outlet.send(forward(2)).waits.is_none());
        let expected = [&chunk(&[forward(1)])[..], BODY_END].concat();
        assert_eq!(ends.feed(expected.len()), expected);

        let Ends { runtime, outlet, socket, peer } = Ends::new(Lane::Control);
        // Not read, it makes the peer's end a reset.
        sent(&outlet, &message(1, 1));
        drop(peer);
        while lock(&outlet.stream).as_mut().unwrap().step(&outlet.queue).is_ok() {
            sent(&outlet, &message(1, 1));
        }
        let feed = async { timeout(Duration::from_secs(20), outlet.feed(&socket)).await };
        let error = runtime.block_on(feed).expect("noticed");
        assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset));
    }

    /// Chunks of all lengths have the head that HTTP wants.
    #[test]
    fn chunks_have_their_length_before_them() {
        for len in [1, 9, 10, 15, 16, 255, 256, MIB, u32::MAX as usize] {
            let mut place = [0; CHUNK_HEAD];
            let start = write_head(len, &mut place);
            assert_eq!(place[start..], *format!("{len:x}\r\n").as_bytes());
        }
    }
}
