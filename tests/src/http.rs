//! A blocking HTTP client, as small as tests need: one connection, kept alive, one request at a time.
//!
//! It tells what a test of lost writes must know: whether the request can have reached the server
//! ([`Failure`]). It never sends a request twice.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Longer than the server's own `--request-timeout` of 5 s: the server's answer comes first.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// A head beyond this is no head; the largest body is the server's to bound.
const MAX_HEAD_BYTES: u64 = 64 << 10;

/// A connection to one server, opened at the first request and again after a failure.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    timeout: Duration,
    stream: Option<BufReader<TcpStream>>,
}

/// A complete answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case, in the order received.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// No byte of the request was sent.
    NotSent(io::Error),
    /// The server may have acted on it.
    Unknown(io::Error),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::NotSent(error) => write!(f, "not sent: {error}"),
            Failure::Unknown(error) => write!(f, "no answer: {error}"),
        }
    }
}

impl std::error::Error for Failure {}

impl Response {
    /// The first header of this name, which is compared without case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body for a failure's message.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A raw path for a key of any bytes.
pub fn path_of(key: &[u8]) -> String {
    let mut path = String::from("/");
    for (position, &byte) in key.iter().enumerate() {
        // A leading underscore would make it one of the server's own paths.
        let plain = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'~' | b'/')
            || (byte == b'_' && position > 0);
        match plain {
            true => path.push(char::from(byte)),
            false => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}

impl Client {
    /// A client that connects when first used.
    pub fn new(address: SocketAddr) -> Client {
        Client { address, timeout: DEFAULT_TIMEOUT, stream: None }
    }

    /// The same client, giving up on a request after `timeout`.
    pub fn with_timeout(self, timeout: Duration) -> Client {
        Client { timeout, ..self }
    }

    /// Gets a raw path.
    pub fn get(&mut self, path: &str) -> Result<Response, Failure> {
        self.request("GET", path, &[], b"")
    }

    /// Puts bytes at a raw path.
    pub fn put(&mut self, path: &str, value: &[u8]) -> Result<Response, Failure> {
        self.request("PUT", path, &[], value)
    }

    /// Sends one request and reads its answer, all within the timeout.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response, Failure> {
        let deadline = Instant::now() + self.timeout;
        let mut stream = match self.stream.take().filter(is_open) {
            Some(stream) => stream,
            None => self.connect().map_err(Failure::NotSent)?,
        };
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.address);
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        let mut request = request.into_bytes();
        request.extend_from_slice(body);

        let exchange = |stream: &mut BufReader<TcpStream>| {
            stream.get_ref().set_write_timeout(Some(left(deadline)?))?;
            stream.get_mut().write_all(&request)?;
            read_response(stream, method, deadline)
        };
        let (response, keep) = exchange(&mut stream).map_err(Failure::Unknown)?;
        self.stream = keep.then_some(stream);
        Ok(response)
    }

    fn connect(&self) -> io::Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect_timeout(&self.address, self.timeout)?;
        stream.set_nodelay(true)?;
        Ok(BufReader::new(stream))
    }
}

/// Whether a kept connection is still one: a server that went away has closed it since, and a request
/// sent into that would count as unknown for nothing.
fn is_open(stream: &BufReader<TcpStream>) -> bool {
    let socket = stream.get_ref();
    let peek = socket.set_nonblocking(true).and_then(|()| socket.peek(&mut [0]));
    let quiet = matches!(&peek, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    quiet && stream.buffer().is_empty() && socket.set_nonblocking(false).is_ok()
}

/// The time left until `deadline`, never zero, which sockets take for no limit.
fn left(deadline: Instant) -> io::Result<Duration> {
    match deadline.checked_duration_since(Instant::now()) {
        Some(left) if !left.is_zero() => Ok(left),
        _ => Err(io::ErrorKind::TimedOut.into()),
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed answer: {what}"))
}

/// Sets the read timeout anew before every read, so that a trickle cannot outlast the deadline.
struct Until<'a> {
    stream: &'a mut BufReader<TcpStream>,
    deadline: Instant,
}

impl Until<'_> {
    fn arm(&mut self) -> io::Result<()> {
        let left = left(self.deadline)?;
        self.stream.get_ref().set_read_timeout(Some(left))
    }
}

impl Read for Until<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.arm()?;
        self.stream.read(buf)
    }
}

impl BufRead for Until<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.arm()?;
        self.stream.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.stream.consume(amount);
    }
}

/// Reads one answer; true when the connection serves another request.
fn read_response(
    stream: &mut BufReader<TcpStream>,
    method: &str,
    deadline: Instant,
) -> io::Result<(Response, bool)> {
    let mut stream = Until { stream, deadline };
    let status_line = read_line(&mut stream)?;
    let mut words = status_line.split(' ');
    let version = words.next().unwrap_or_default();
    let status = words.next().and_then(|word| word.parse::<u16>().ok());
    let (true, Some(status)) = (version.starts_with("HTTP/1."), status) else {
        return Err(malformed(&status_line));
    };
    let mut headers = Vec::new();
    loop {
        let line = read_line(&mut stream)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| malformed(&line))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut response = Response { status, headers, body: Vec::new() };

    let mut keep = version == "HTTP/1.1"
        && !response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    if method == "HEAD" || matches!(status, 204 | 304) {
        return Ok((response, keep));
    }
    let chunked =
        response.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"));
    if chunked {
        response.body = read_chunks(&mut stream)?;
    } else if let Some(length) = response.header("content-length") {
        let length: usize = length.parse().map_err(|_| malformed(length))?;
        response.body = vec![0; length];
        stream.read_exact(&mut response.body)?;
    } else {
        keep = false;
        stream.read_to_end(&mut response.body)?;
    }
    Ok((response, keep))
}

fn read_chunks(stream: &mut Until<'_>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(stream)?;
        let length = line.split(';').next().unwrap_or_default();
        let length = usize::from_str_radix(length.trim(), 16).map_err(|_| malformed(&line))?;
        if length == 0 {
            while !read_line(stream)?.is_empty() {}
            return Ok(body);
        }
        let begin = body.len();
        body.resize(begin + length, 0);
        stream.read_exact(&mut body[begin..])?;
        if !read_line(stream)?.is_empty() {
            return Err(malformed("a chunk longer than it says"));
        }
    }
}

fn read_line(stream: &mut Until<'_>) -> io::Result<String> {
    let mut line = String::new();
    let n_read = stream.take(MAX_HEAD_BYTES).read_line(&mut line)?;
    if n_read == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if !line.ends_with('\n') {
        return Err(malformed("a line without end"));
    }
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::path_of;

    /// A key must reach the server byte for byte, whatever a URL would make of it.
    #[test]
    fn paths_encode_all_but_plain_bytes() {
        assert_eq!(path_of(b"a/b-c.d~e_f"), "/a/b-c.d~e_f");
        assert_eq!(path_of(b"_x"), "/%5Fx");
        assert_eq!(path_of(b"a b+%\xff?#"), "/a%20b%2B%25%FF%3F%23");
    }
}
